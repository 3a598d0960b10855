/** One connection kept alive: which transport, when to try again, when to give up. Knows nothing of tabs or documents. */
import { Backoff } from "./backoff.js";
import * as transports from "./transports.js";

export const CONNECTING = 0;
export const OPEN = 1;
export const CLOSED = 2;

const READY_MS = 3000; // without `ready` by then, something between holds the stream back
const STEADY_MS = 5000; // a connection that lived this long clears the record of failures
const BACKOFF_MS = 1000; // ceiling of the first wait
const RETURN_MS = [30_000, 900_000]; // after falling back: first and longest wait before a better way is tried
const FINAL_CODES = { 4400: "malformed", 4401: "unauthorized", 4403: "forbidden" };
const FINAL_STATUS = { 400: "malformed", 401: "unauthorized", 403: "forbidden" };
// What speaks against the way taken, and not against the server or the line.
const WAY_BLOCKED = new Set(["silent", "refused", "blocked", "HTTP 404", "HTTP 405", "HTTP 501"]);

/** The platform, as the connection uses it. */
export const platform = () => ({
  fetch: (...args) => fetch(...args),
  EventSource: globalThis.EventSource,
  WebSocket: globalThis.WebSocket,
  setTimeout: (...args) => setTimeout(...args),
  clearTimeout: (timer) => clearTimeout(timer),
  now: () => Date.now(),
  random: Math.random,
  storage: storage(),
  base: globalThis.location?.href,
});

function storage() {
  try {
    return globalThis.localStorage ?? null;
  } catch {
    return null; // blocked by the person's settings
  }
}

export class Connection {
  cursor;
  #config;
  #env;
  #port;
  #order;
  #index = 0;
  #proven = null; // index of the way that last worked
  #attempt = null;
  #trial = null;
  #timer = null; // until the next attempt
  #watchdog = null;
  #returning = null; // until a better way is tried
  #returnMs = RETURN_MS[0];
  #held = false; // the wait was asked for by the server: waking up does not cut it short
  #backoff;
  #heartbeat = 15_000;
  #stale = 0;
  #dialled = -Infinity;
  #state = { readyState: CLOSED, transport: null, since: null, lastEvent: null, latency: null };

  /** `memory` of `config` is a storage key; `port` has `event(type, cursor, data)` and `state(snapshot)`. */
  constructor(config, port, env = platform()) {
    this.#config = config;
    this.#env = env;
    this.#port = port;
    this.#order = config.order.filter((name) => config.urls[name]);
    if (!this.#order.length) throw new TypeError("No transport with a URL to use.");
    this.cursor = config.cursor ?? "";
    this.#backoff = new Backoff({ base: BACKOFF_MS, random: env.random });
  }

  get state() {
    return { ...this.#state };
  }

  start() {
    if (this.#attempt || this.#timer !== null) return;
    const remembered = this.#order.indexOf(this.#recall());
    if (remembered > 0) this.#state.fallback = "as last time";
    this.#index = Math.max(0, remembered);
    this.#dial();
  }

  /** End for good, or until `start()`; `reason` is what the state then shows. */
  stop(reason = "closed", readyState = CLOSED) {
    this.drop();
    this.#set({ readyState, reason, transport: null, retryAt: null, since: this.#env.now() });
  }

  /** Close, but as a pause: `wake()` goes on from the same cursor. */
  pause() {
    if (this.#state.readyState !== CLOSED) this.stop("paused", CONNECTING);
  }

  /** The person is back, or the network is: no waiting now, and no trust in a connection that went quiet. */
  wake(network = false) {
    const { readyState, reason, lastEvent } = this.#state;
    const now = this.#env.now();
    if (readyState === CLOSED) return;
    if (readyState === OPEN) {
      if (now - lastEvent > 1.5 * this.#heartbeat) this.#end(this.#attempt, { reason: "stale", at: 0 });
      else if (network && this.#index > 0) this.#tryBetter(0);
    } else if (reason === "paused" || (this.#timer !== null && !this.#held && now - this.#dialled > 1000)) {
      this.#dial();
    }
  }

  /** The line is gone, as the browser says: what is open is not any more. */
  lost() {
    if (this.#state.readyState === OPEN) this.#end(this.#attempt, { reason: "offline" });
  }

  /** Have EventSource listen for a type of the site's own. */
  listen(type) {
    this.#attempt?.link?.listen?.(type);
  }

  #set(change) {
    Object.assign(this.#state, change);
    this.#port.state(this.state);
  }

  /** End without a word. */
  drop() {
    this.#close(this.#attempt);
    this.#close(this.#trial);
    for (const timer of [this.#timer, this.#watchdog, this.#returning]) this.#env.clearTimeout(timer);
    this.#attempt = this.#trial = this.#timer = this.#watchdog = this.#returning = null;
  }

  #close(attempt) {
    if (!attempt || attempt.over) return;
    attempt.over = true;
    this.#env.clearTimeout(attempt.timer);
    attempt.link?.close();
  }

  #dial() {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
    this.#held = false;
    this.#dialled = this.#env.now();
    this.#set({ readyState: CONNECTING, transport: this.#order[this.#index], reason: "connecting", retryAt: null });
    this.#attempt = this.#open(this.#index);
  }

  #open(index) {
    const env = this.#env;
    const name = this.#order[index];
    const attempt = { index, ready: false, over: false, link: null, began: env.now() };
    const end = (info) => this.#end(attempt, info);
    attempt.timer = env.setTimeout(() => end({ reason: "silent" }), READY_MS);
    const config = { ...this.#config, url: this.#config.urls[name], cursor: this.cursor, env };
    const open = this.#config.openers?.[name] ?? transports[name];
    // Never in the same turn: whoever constructs a connection has to be able to hear of its end.
    queueMicrotask(() => {
      if (attempt.over) return;
      try {
        attempt.link = open(config, {
          event: (...args) => attempt.over || this.#event(attempt, ...args),
          // Longer only: without a wait all would dial on and on while a server is down.
          retry: (ms) => (this.#backoff.base = Math.max(ms, BACKOFF_MS)),
          end,
        });
      } catch {
        end({ reason: "blocked" }); // by the page's own policy, or the platform has no such thing
      }
    });
    return attempt;
  }

  #event(attempt, type, cursor, data) {
    const now = this.#env.now();
    if (type === "bye") {
      this.#backoff.base = BACKOFF_MS; // its wait, and the `retry:` beside it, are for this once
      return this.#end(attempt, { reason: data.reason, bye: data });
    }
    if (type === "error") this.#state.error = data.message;
    if (cursor) this.cursor = cursor;
    this.#state.lastEvent = now;
    const first = type === "ready" && !attempt.ready;
    if (first) this.#ready(attempt, data, now);
    if (!attempt.ready) return;
    this.#watch();
    // Polling says `ready` in each answer; others hear it once for each connection.
    if (type !== "ready" || first) this.#port.event(type, cursor, data);
  }

  #ready(attempt, data, now) {
    attempt.ready = true;
    attempt.since = now;
    this.#env.clearTimeout(attempt.timer);
    if (attempt === this.#trial) {
      this.#trial = null;
      this.#close(this.#attempt);
      this.#attempt = attempt;
    }
    this.#index = this.#proven = attempt.index;
    this.#heartbeat = data.heartbeat || this.#heartbeat;
    const transport = this.#order[attempt.index];
    this.#remember(transport);
    this.#set({
      readyState: OPEN,
      transport,
      since: now,
      latency: now - attempt.began,
      connection: data.connection,
      reason: "open",
      retryAt: null,
      ...(attempt.index === 0 && { fallback: null }),
    });
    this.#scheduleReturn();
  }

  #watch() {
    this.#env.clearTimeout(this.#watchdog);
    this.#watchdog = this.#env.setTimeout(
      () => this.#end(this.#attempt, { reason: "stale", at: 0 }),
      3 * this.#heartbeat,
    );
  }

  #end(attempt, info) {
    if (!attempt || attempt.over) return;
    this.#close(attempt);
    const final = FINAL_CODES[info.code] ?? FINAL_STATUS[info.status] ?? (info.bye?.retry === null && info.reason);
    if (attempt === this.#trial) {
      this.#trial = null;
      // A better way that is still shut: look again later, and less often.
      const next = attempt.index + 1;
      this.#state.fallback = `${this.#order[attempt.index]}: ${info.reason}`;
      if (next < this.#index) return this.#tryBetter(next);
      this.#returnMs = Math.min(2 * this.#returnMs, RETURN_MS[1]);
      return this.#scheduleReturn();
    }
    this.drop();
    // Once more if it was open: a new password gives the same person another session.
    if (final && !(attempt.ready && (final === "revoked" || final === "unauthorized"))) return this.stop(final);
    const [index, fallback] = this.#next(attempt, info);
    if (attempt.ready && this.#env.now() - attempt.since >= STEADY_MS) this.#backoff.reset();
    const asked = info.bye ? info.bye.retry : info.wait;
    const wait = asked ?? (fallback ? 0 : (info.at ?? this.#backoff.next()));
    this.#held = asked > 0;
    this.#index = index;
    const now = this.#env.now();
    this.#set({
      readyState: CONNECTING,
      transport: this.#order[index],
      reason: info.reason,
      since: now,
      retryAt: now + wait,
      ...(fallback && { fallback }),
    });
    this.#timer = this.#env.setTimeout(() => this.#dial(), wait);
  }

  /** Which way to take after `attempt` ended so, and why another one. */
  #next(attempt, { reason }) {
    const { index } = attempt;
    const further = index + 1 < this.#order.length;
    const because = `${this.#order[index]}: ${reason}`;
    if (attempt.ready) {
      // Twice it opened well and went dead: a proxy that holds back all but the beginning.
      this.#stale = reason === "stale" ? this.#stale + 1 : 0;
      if (this.#stale < 2 || !further) return [index, null];
      this.#stale = 0;
      return [index + 1, because];
    }
    if (WAY_BLOCKED.has(reason) && further) return [index + 1, because];
    // The server or the line is down, or a socket refused: begin again with what worked.
    return [this.#proven ?? 0, null];
  }

  #scheduleReturn() {
    this.#env.clearTimeout(this.#returning);
    this.#returning = null;
    if (this.#index === 0) {
      this.#returnMs = RETURN_MS[0];
      return;
    }
    const wait = this.#returnMs * (0.75 + this.#env.random() / 2);
    this.#returning = this.#env.setTimeout(() => this.#tryBetter(0), wait);
  }

  /** Open a better way beside the one in use, which is closed when the other one is ready. */
  #tryBetter(index) {
    if (this.#trial || this.#state.readyState !== OPEN || index >= this.#index) return;
    this.#trial = this.#open(index);
  }

  #recall() {
    try {
      return this.#env.storage?.getItem(this.#config.memory);
    } catch {
      return null;
    }
  }

  #remember(transport) {
    try {
      // Of one way alone there is nothing to remember: it was chosen, not found.
      if (this.#config.memory && this.#order.length > 1) this.#env.storage?.setItem(this.#config.memory, transport);
    } catch {
      // No room or no permission: then it is found out again next time.
    }
  }
}
