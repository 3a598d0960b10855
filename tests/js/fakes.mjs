/** A platform without a network or a clock of its own, for the tests of the client. */

/** Let everything that is ready run: promises, and what they start. */
export async function settle() {
  for (let i = 0; i < 60; i += 1) await Promise.resolve();
}

export class FakeClock {
  time = 1_000_000;
  #timers = new Map();
  #last = 0;

  setTimeout = (fn, ms = 0) => {
    this.#last += 1;
    this.#timers.set(this.#last, { at: this.time + Math.max(0, ms), fn });
    return this.#last;
  };

  clearTimeout = (id) => this.#timers.delete(id);

  now = () => this.time;

  get waiting() {
    return this.#timers.size;
  }

  /** Let `ms` pass, and everything due in it happen in order. */
  async advance(ms) {
    const end = this.time + ms;
    await settle();
    while (true) {
      const due = [...this.#timers].filter(([, { at }]) => at <= end).sort((a, b) => a[1].at - b[1].at || a[0] - b[0])[0];
      if (!due) break;
      this.#timers.delete(due[0]);
      this.time = Math.max(this.time, due[1].at);
      due[1].fn();
      await settle();
    }
    this.time = end;
    await settle();
  }
}

export class FakeStorage {
  #values = new Map();
  getItem = (name) => this.#values.get(name) ?? null;
  setItem = (name, value) => void this.#values.set(name, String(value));
  removeItem = (name) => void this.#values.delete(name);
}

/** Web Locks of one browser; `tabs` of the same browser share one. */
export class FakeLocks {
  #held = new Map();
  #queue = new Map();

  request = (name, options, fn) => {
    if (typeof options === "function") return this.request(name, {}, options);
    return new Promise((resolve, reject) => {
      const entry = { name, fn, resolve, reject };
      if (options.steal) {
        this.#held.get(name)?.reject(new DOMException("stolen", "AbortError"));
        return this.#grant(entry);
      }
      if (options.ifAvailable && this.#held.has(name)) return resolve(fn(null));
      if (!this.#held.has(name)) return this.#grant(entry);
      const queue = this.#queue.get(name) ?? [];
      this.#queue.set(name, queue);
      queue.push(entry);
      options.signal?.addEventListener("abort", () => {
        const index = queue.indexOf(entry);
        if (index < 0) return;
        queue.splice(index, 1);
        reject(new DOMException("aborted", "AbortError"));
      });
    });
  };

  #grant(entry) {
    this.#held.set(entry.name, entry);
    const over = () => {
      if (this.#held.get(entry.name) !== entry) return;
      this.#held.delete(entry.name);
      const next = this.#queue.get(entry.name)?.shift();
      if (next) this.#grant(next);
    };
    Promise.resolve()
      .then(() => entry.fn({ name: entry.name }))
      .then((value) => (over(), entry.resolve(value)), (error) => (over(), entry.reject(error)));
  }
}

/** BroadcastChannels of one browser. */
export function fakeChannels() {
  const open = new Set();
  return class FakeChannel {
    onmessage = null;
    constructor(name) {
      this.name = name;
      open.add(this);
    }
    postMessage(data) {
      if (!open.has(this)) throw new DOMException("closed", "InvalidStateError");
      const copy = structuredClone(data);
      for (const other of open) {
        if (other !== this && other.name === this.name) queueMicrotask(() => open.has(other) && !other.frozen && other.onmessage?.({ data: copy }));
      }
    }
    close() {
      open.delete(this);
    }
  };
}

/** The server's answer to a fetch of an event stream, written to as the test goes. */
export class FakeStream {
  #encoder = new TextEncoder();
  constructor(signal) {
    const body = new ReadableStream({ start: (controller) => (this.controller = controller) });
    this.response = new Response(body, { headers: { "Content-Type": "text/event-stream" } });
    this.closed = false;
    signal?.addEventListener("abort", () => {
      this.closed = true;
      try {
        this.controller.error(new DOMException("aborted", "AbortError"));
      } catch {
        // it had ended
      }
    });
  }
  send(type, data, id) {
    this.write(`${id === undefined ? "" : `id: ${id}\n`}event: ${type}\ndata: ${JSON.stringify(data)}\n\n`);
  }
  write(text) {
    this.controller.enqueue(this.#encoder.encode(text));
  }
  end() {
    this.controller.close();
  }
  fail() {
    this.controller.error(new TypeError("network"));
  }
}

export class FakeSocket {
  static all = [];
  readyState = 0;
  sent = [];
  constructor(url, protocol) {
    Object.assign(this, { url: String(url), protocol });
    this.constructor.all.push(this);
  }
  send(text) {
    this.sent.push(JSON.parse(text));
  }
  close(code) {
    this.readyState = 3;
    this.closedWith = code;
  }
  // what the server does
  frame(type, data, cursor = "") {
    this.readyState = 1;
    this.onmessage?.({ data: JSON.stringify({ type, cursor, data }) });
  }
  drop(code = 1006) {
    this.readyState = 3;
    this.onclose?.({ code });
  }
}

export class FakeEventSource extends EventTarget {
  static all = [];
  constructor(url) {
    super();
    this.url = String(url);
    this.closed = false;
    this.constructor.all.push(this);
  }
  close() {
    this.closed = true;
  }
  send(type, data, id = "") {
    if (this.closed) return;
    this.dispatchEvent(new MessageEvent(type, { data: JSON.stringify(data), lastEventId: id }));
  }
  fail() {
    this.dispatchEvent(new Event("error"));
  }
}

export const json = (value, init) => new Response(JSON.stringify(value), init);

/** What a tab runs on. `browser` (locks, channels, storage) is shared between the tabs of one browser. */
export function fakeTab(clock, browser = fakeBrowser(), { visible = true } = {}) {
  const document = new EventTarget();
  document.visibilityState = visible ? "visible" : "hidden";
  document.hasFocus = () => visible;
  const window = new EventTarget();
  const tab = {
    setTimeout: clock.setTimeout,
    clearTimeout: clock.clearTimeout,
    now: clock.now,
    random: () => 1,
    storage: browser.storage,
    base: "https://site.example/page/",
    sessions: new Map(),
    document,
    window,
    ...browser,
    requests: [],
    streams: [],
    /** Replaced by tests; gets a URL and the request's init, returns a Response or throws. */
    answer: (url, init) => {
      if (url.pathname.includes("/stream/")) {
        const stream = new FakeStream(init.signal);
        tab.streams.push(stream);
        return stream.response;
      }
      throw new TypeError("network");
    },
    fetch: async (url, init = {}) => {
      tab.requests.push({ url: new URL(url), ...init });
      const response = await tab.answer(new URL(url), init);
      if (init.signal?.aborted) throw new DOMException("aborted", "AbortError");
      return response;
    },
    WebSocket: class extends FakeSocket {
      static all = [];
    },
    EventSource: class extends FakeEventSource {
      static all = [];
    },
    show(state) {
      document.visibilityState = state;
      document.dispatchEvent(new Event("visibilitychange"));
    },
  };
  return tab;
}
export function fakeBrowser({ shared = true } = {}) {
  return {
    storage: new FakeStorage(),
    ...(shared && { locks: new FakeLocks(), BroadcastChannel: fakeChannels() }),
  };
}

export const URLS = {
  streamURL: "/notifications/stream/",
  socketURL: "/ws/notifications/",
  eventsURL: "/notifications/events/",
  inboxURL: "/notifications/",
};

export const ready = (more) => ({ cursor: "c0", unread: null, heartbeat: 15_000, connection: "k", ...more });
export const note = (seq, more) => ({ seq, topic: "user:1", id: seq, kind: "message", title: `n${seq}`, ...more });
