/**
 * Where a page stands in one person's events, and where it has them from: a connection of its own or another tab's.
 * There is one for each person and server, for all clients of the page.
 */
import { CLOSED, CONNECTING, Connection } from "./connection.js";
import { Tabs, canShare } from "./tabs.js";
import { request } from "./transports.js";

const RECENT = 256; // events a leader keeps for tabs that come after it
const WELCOME_MS = 1000;
const HELD_LIMIT = 2000;

export class Session {
  clients = new Set();
  cursor;
  /** The highest number applied, by topic: what a transport delivers again is dropped. */
  positions = new Map();
  types = new Set();
  stayAwake = false;
  #options;
  #env;
  #tabs = null;
  #connection = null;
  #state = { readyState: CONNECTING, transport: null, reason: "connecting" };
  #ready = null;
  #recent = [];
  #recentFrom = ""; // the cursor before the first of them
  #held = null; // events of the leader that wait until this tab has caught up with it
  #welcome = null;
  #hiding = null;
  #watched = 0; // when a visible tab last asked for the leader
  #order;
  #over = new AbortController();

  constructor(options, env) {
    this.#options = options;
    this.#env = env;
    this.#order = options.order;
    this.cursor = options.cursor ?? "";
    this.#listenToPage();
    this.#enter();
  }

  get state() {
    return { ...this.#state, leading: Boolean(this.#connection), shared: Boolean(this.#tabs) };
  }

  /** Carry this tab over other transports, or the same ones opened anew, from the same cursor. */
  use(order) {
    this.#order = order;
    this.#leave();
    this.#enter();
  }

  listen(type) {
    if (this.types.has(type)) return;
    this.types.add(type);
    this.#connection?.listen(type);
    this.#tabs?.post({ is: "listen", types: [type] });
  }

  wake() {
    this.#connection?.wake();
  }

  close() {
    this.#over.abort();
    this.#leave();
    this.#setState({ readyState: CLOSED, transport: null, reason: "closed" });
  }

  #join() {
    const { share, scope } = this.#options;
    if (!share || !canShare(this.#env)) return this.#connect();
    this.#held = []; // until it is known how far the leader is
    this.#tabs = new Tabs(
      // Tabs that were told to use another transport do not share with those that were not.
      `notifications ${scope} ${this.#order}`,
      {
        lead: () => {
          this.#held = null;
          this.#connect();
          this.#tabs.post({ is: "lead" });
        },
        follow: () => {
          this.#disconnect();
          this.#hello();
        },
        message: (message) => this.#message(message),
      },
      this.#env,
    );
    this.#tabs.join();
  }

  #leave() {
    this.#env.clearTimeout(this.#welcome);
    this.#env.clearTimeout(this.#hiding);
    this.#disconnect();
    this.#tabs?.close();
    this.#tabs = this.#held = null;
  }

  #connect() {
    this.#env.clearTimeout(this.#welcome);
    this.#disconnect();
    this.#recent = [];
    this.#recentFrom = this.cursor;
    this.#connection = new Connection(
      { ...this.#options, order: this.#order, cursor: this.cursor, types: this.types },
      {
        event: (type, cursor, data) => {
          this.#share(type, cursor, data);
          this.#receive({ type, cursor, data });
        },
        state: (state) => {
          this.#tabs?.post({ is: "state", state });
          this.#setState(state);
        },
      },
      this.#env,
    );
    this.#connection.start();
  }

  #disconnect() {
    const connection = this.#connection;
    this.#connection = null;
    connection?.drop();
  }

  #share(type, cursor, data) {
    if (!this.#tabs) return;
    if (type === "ready") this.#ready = data;
    else if (type !== "heartbeat" && cursor && this.#recent.push({ type, cursor, data }) > RECENT) {
      this.#recentFrom = this.#recent.shift().cursor;
    }
    this.#tabs.post({ is: "event", event: { type, cursor, data } });
  }

  #receive({ type, cursor, data }) {
    if (cursor) this.cursor = cursor;
    if (typeof data?.seq === "number" && typeof data.topic === "string") {
      if (data.seq <= (this.positions.get(data.topic) ?? -1)) return;
      this.positions.set(data.topic, data.seq);
    } else if (type === "reset") {
      if (data.topic === "*") this.positions.clear();
      else this.positions.delete(data.topic);
    } else if (type === "ready") {
      // The page shows these; a leader that is behind will pass them on.
      this.positions = new Map([...Object.entries(data.positions ?? {}), ...this.positions]);
    }
    this.#emit(type, { ...data, cursor: this.cursor }, { type, cursor: this.cursor, data });
  }

  #emit(type, detail, envelope) {
    for (const client of [...this.clients]) client.deliver(type, detail, envelope);
    this.#env.document?.dispatchEvent(new CustomEvent(`notifications:${type}`, { detail }));
  }

  #setState(state) {
    if (state.readyState === CLOSED) {
      // Given up for good: ask no more, and keep nobody from the lead who logs in again.
      this.#env.clearTimeout(this.#welcome);
      this.#connection = this.#held = null;
      this.#tabs?.leave();
    }
    this.#state = state;
    this.#emit("state", this.state, null);
  }

  // ---- following another tab -----------------------------------------------------------------------------------

  /** Ask the leader for what came since this tab's cursor; hold back what it passes on. */
  #hello() {
    this.#held = [];
    this.#env.clearTimeout(this.#welcome);
    this.#tabs.post({ is: "hello", cursor: this.cursor, types: [...this.types] });
    this.#welcome = this.#env.setTimeout(() => this.#catchUp(), WELCOME_MS);
  }

  #message(message) {
    if (this.#connection) this.#messageToLeader(message);
    else this.#messageToFollower(message);
  }

  #messageToLeader({ is, from, cursor, types = [] }) {
    if (is === "ping") {
      this.#watched = this.#env.now();
      if (this.#connection.state.reason === "paused") this.#connection.wake();
    } else if (is === "listen" || is === "hello") {
      for (const type of types) this.listen(type);
    }
    if (is !== "hello") return;
    // The very same cursor means the very same place, whatever is written in it.
    const index = this.#recent.findLastIndex((event) => event.cursor === cursor);
    const known = index >= 0 || cursor === this.#recentFrom || cursor === this.#connection.cursor;
    const events = !known ? null : cursor === this.#connection.cursor ? [] : this.#recent.slice(index + 1);
    this.#tabs.post({ is: "welcome", to: from, state: this.#connection.state, ready: this.#ready, events });
  }

  #messageToFollower({ is, state, event, events, ready }) {
    if (is === "state" || is === "welcome") this.#setState(state);
    if (is === "lead") {
      this.#held ??= []; // it may be further than this tab
      this.#tabs.join(); // back in the line, should this tab have left it
      this.#tabs.watch(this.#visible);
    } else if (is === "event") {
      if (!this.#held) this.#receive(event);
      else if (this.#held.push(event) > HELD_LIMIT) this.#caughtUp([{ type: "reset", data: { topic: "*", reason: "tabs" } }]);
    } else if (is === "welcome" && this.#held) {
      if (ready) this.#emit("ready", ready, { type: "ready", cursor: this.cursor, data: ready });
      if (events) this.#caughtUp(events);
      else this.#catchUp();
    }
  }

  /** Read what the leader no longer has from the server. */
  async #catchUp() {
    this.#env.clearTimeout(this.#welcome);
    const held = this.#held;
    let more = true;
    try {
      while (more) {
        const config = { ...this.#options, url: this.#options.urls.polling, cursor: this.cursor, env: this.#env };
        const response = await request(config, "application/json");
        if (!response.ok) break;
        const { events, cursor, retry } = await response.json();
        if (this.#held !== held) return;
        for (const event of events) this.#receive(event);
        if (cursor) this.cursor = cursor;
        more = retry === 0;
      }
    } catch {
      // No line; try again until there is one, or this tab leads.
    }
    if (this.#held !== held) return;
    if (more) this.#welcome = this.#env.setTimeout(() => this.#hello(), 5000 * (0.5 + this.#env.random()));
    else this.#caughtUp([]);
  }

  #caughtUp(events) {
    this.#env.clearTimeout(this.#welcome);
    const held = this.#held;
    this.#held = null;
    for (const event of [...events, ...held]) this.#receive(event);
  }

  // ---- the page's life -----------------------------------------------------------------------------------------

  get #visible() {
    return this.#env.document?.visibilityState !== "hidden";
  }

  #listenToPage() {
    const { window, document } = this.#env;
    const { signal } = this.#over;
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    on(window, "online", () => this.#connection?.wake(true));
    on(window, "offline", () => this.#connection?.lost());
    on(document, "visibilitychange", () => this.#seen());
    // A page kept for the back button, or frozen, must not keep others from the connection.
    on(window, "pagehide", () => this.#leave());
    on(document, "freeze", () => this.#leave());
    on(window, "pageshow", ({ persisted }) => persisted && this.#enter());
    on(document, "resume", () => this.#enter());
  }

  #enter() {
    if (!this.#tabs && !this.#connection) this.#join();
    this.#seen();
  }

  #seen() {
    this.#env.clearTimeout(this.#hiding);
    this.#tabs?.watch(this.#visible);
    if (this.#visible) this.#connection?.wake();
    else if (this.#options.hiddenAfter) this.#hide();
  }

  #hide() {
    const { hiddenAfter } = this.#options;
    this.#hiding = this.#env.setTimeout(() => {
      // A visible tab that follows this one still needs the connection.
      if (!this.stayAwake && this.#env.now() - this.#watched >= hiddenAfter) this.#connection?.pause();
      this.#hide();
    }, hiddenAfter);
  }
}
