/** The client of `notifications`: one stream of events, whatever carries it; see notifications.d.ts. */
import { CLOSED, CONNECTING, OPEN, platform } from "./connection.js";
import { Session } from "./session.js";

const WAYS = ["sse", "websocket", "polling"];
const HIDDEN_AFTER = 900_000;

/** The platform, with what belongs to a page besides. */
export function pagePlatform() {
  const env = platform();
  return {
    ...env,
    // Where storage is denied, so are locks and channels.
    locks: env.storage && globalThis.navigator?.locks,
    BroadcastChannel: globalThis.BroadcastChannel,
    window: globalThis.window,
    document: globalThis.document,
    // By person and server; global, since a page may load this module under two addresses.
    sessions: (globalThis[Symbol.for("notifications.sessions")] ??= new Map()),
  };
}

export function optionsFrom(element) {
  const get = (name) => element.getAttribute(name) ?? undefined;
  return {
    streamURL: get("stream-url"),
    socketURL: get("socket-url"),
    eventsURL: get("events-url"),
    inboxURL: get("inbox-url"),
    cursor: get("cursor"),
    user: get("user"),
    transport: get("transport"),
    transports: get("transports")?.split(" ").filter(Boolean),
    csrfToken: get("csrf-token"),
  };
}

function order(transport, transports = WAYS) {
  if (!transport || transport === "auto") return transports;
  if (!WAYS.includes(transport)) throw new TypeError(`Unknown transport: ${transport}`);
  return [transport];
}

export function connect(options) {
  if (!options?.streamURL && !options?.eventsURL && !options?.socketURL) {
    const element = globalThis.document?.querySelector("[stream-url]");
    if (!element) throw new TypeError("connect() needs URLs, or a notification element on the page.");
    options = { ...optionsFrom(element), ...options };
  }
  return new NotificationClient(options);
}

export class NotificationClient extends EventTarget {
  static CONNECTING = CONNECTING;
  static OPEN = OPEN;
  static CLOSED = CLOSED;
  #session;
  #closed = null;
  #transports;

  /** Use `connect()`. `env` replaces the platform in tests. */
  constructor(options, env = pagePlatform()) {
    super();
    const { streamURL, socketURL, eventsURL, user = "", headers, signal, ...rest } = options;
    const ways = { sse: streamURL, websocket: headers ? undefined : socketURL, polling: eventsURL };
    const scope = JSON.stringify([user, streamURL, socketURL, eventsURL, headers]);
    this.#transports = rest.transports;
    let session = env.sessions.get(scope);
    if (!session) {
      session = new Session(
        {
          urls: ways,
          scope: `${user} ${streamURL ?? eventsURL ?? socketURL}`,
          user,
          order: order(rest.transport, rest.transports),
          headers,
          credentials: rest.credentials,
          cursor: rest.cursor,
          // Another person's request headers, or a page without the events view, are nobody else's connection.
          share: rest.share !== false && !headers && Boolean(eventsURL),
          hiddenAfter: rest.hiddenAfter ?? HIDDEN_AFTER,
          memory: "notifications.transport",
          openers: rest.openers,
        },
        env,
      );
      env.sessions.set(scope, session);
    }
    this.#session = session;
    session.clients.add(this);
    this.#closed = () => {
      session.clients.delete(this);
      if (session.clients.size) return;
      env.sessions.delete(scope);
      session.close();
    };
    if (signal?.aborted) this.close();
    else signal?.addEventListener("abort", () => this.close(), { once: true });
  }

  get readyState() {
    return this.#closed ? this.#session.state.readyState : CLOSED;
  }

  get state() {
    return this.#session.state;
  }

  get transport() {
    return this.#session.state.transport;
  }

  get cursor() {
    return this.#session.cursor;
  }

  get stayAwake() {
    return this.#session.stayAwake;
  }

  set stayAwake(value) {
    this.#session.stayAwake = value;
  }

  on(name, fn, { signal } = {}) {
    if (!name.endsWith("*")) this.#session.listen(name);
    const prefix = name.endsWith("*") ? name.slice(0, -1) : null;
    const meant = (word) => typeof word === "string" && (prefix === null ? word === name : word.startsWith(prefix));
    const hear = ({ detail }) => {
      if (meant(detail.type) || (detail.type === "notification" && meant(detail.data.kind))) fn(detail.data, detail);
    };
    this.addEventListener("event", hear, { signal });
    return () => this.removeEventListener("event", hear);
  }

  addEventListener(type, ...rest) {
    if (type !== "event" && type !== "state") this.#session.listen(type);
    super.addEventListener(type, ...rest);
  }

  async *[Symbol.asyncIterator]() {
    const queue = [];
    let wake = () => {};
    const abort = new AbortController();
    const { signal } = abort;
    super.addEventListener("event", ({ detail }) => wake(queue.push(detail)), { signal });
    super.addEventListener("close", () => wake(), { signal });
    try {
      while (true) {
        while (queue.length) yield queue.shift();
        if (!this.#closed) return;
        await new Promise((resolve) => (wake = resolve));
      }
    } finally {
      abort.abort();
    }
  }

  use(transport) {
    this.#session.use(order(transport, this.#transports));
  }

  close() {
    const closed = this.#closed;
    if (!closed) return;
    this.#closed = null;
    closed();
    this.dispatchEvent(new CustomEvent("close"));
  }

  /** For the session only. */
  deliver(type, detail, envelope) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
    if (envelope) this.dispatchEvent(new CustomEvent("event", { detail: envelope }));
  }
}
