/**
 * What the tabs of one browser settle among themselves: who holds the connection, and who shows the toasts.
 *
 * The browser gives the lock to the next tab when its holder closes or crashes. From one that hangs, and answers no ping,
 * it is taken.
 */
const PING_MS = 2000;
const ANSWER_MS = 1500;

/** Whether tabs can share here: not in insecure contexts, nor where storage is denied. */
export const canShare = (env) => Boolean(env.locks && env.BroadcastChannel);

export class Tabs {
  id = Math.random().toString(36).slice(2);
  leading = false;
  #name;
  #port;
  #env;
  #channel;
  #withdraw = null; // gives back the lock, or stops waiting for it
  #ping = null;
  #answer = null;

  /** port: `lead()`, `follow()` and `message(message)`. */
  constructor(name, port, env) {
    this.#name = name;
    this.#port = port;
    this.#env = env;
    this.#channel = new env.BroadcastChannel(name);
    this.#channel.onmessage = ({ data }) => this.#message(data);
  }

  /** Lead if nobody does, else follow and stand in line. */
  async join() {
    this.leave();
    const request = this.#request({ ifAvailable: true });
    const withdraw = this.#withdraw;
    // Who left meanwhile could not withdraw from the line any more.
    if ((await request) !== null || this.#withdraw !== withdraw) return;
    this.#port.follow();
    this.#request({});
  }

  /** Give up the lead, or the place in the line; messages still come. */
  leave() {
    this.leading = false;
    this.#env.clearTimeout(this.#answer);
    this.#withdraw?.();
    this.#withdraw = null;
  }

  close() {
    this.leave();
    this.watch(false);
    this.#channel.close();
  }

  post(message) {
    this.#channel.postMessage({ ...message, from: this.id });
  }

  /** Keep an eye on the leader, from tabs in the line that are looked at; others are throttled, and in no hurry. */
  watch(on) {
    const env = this.#env;
    env.clearTimeout(this.#ping);
    env.clearTimeout(this.#answer);
    this.#ping = this.#answer = null;
    if (!on || !this.#withdraw) return;
    if (!this.leading) {
      this.post({ is: "ping" });
      this.#answer = env.setTimeout(() => this.#take(), ANSWER_MS);
    }
    this.#ping = env.setTimeout(() => this.watch(true), PING_MS);
  }

  /** Resolves to null if the lock was not to be had at once, otherwise when it is no longer held. */
  #request(options) {
    const abort = new AbortController();
    let over = false;
    let release;
    const withdraw = () => {
      over = true;
      abort.abort();
      release?.();
    };
    this.#withdraw = withdraw;
    const settings = options.ifAvailable || options.steal ? options : { ...options, signal: abort.signal };
    const held = this.#env.locks.request(this.#name, settings, (lock) => {
      if (!lock) return null;
      if (over) return undefined;
      this.leading = true;
      this.#env.clearTimeout(this.#answer);
      this.#port.lead();
      return new Promise((resolve) => (release = resolve));
    });
    return held.catch(({ name }) => {
      if (over) return; // withdrawn while in the line
      // Somebody took the lock from us, having thought us dead.
      if (name === "AbortError") return void this.join();
      // Locks are denied: each tab has its own connection.
      this.leading = true;
      this.#port.lead();
    });
  }

  #take() {
    if (this.leading) return;
    this.leave();
    this.#request({ steal: true });
  }

  #message(message) {
    if (message.is === "ping") {
      if (this.leading) this.post({ is: "pong", to: message.from });
    } else if (message.is === "pong" || message.is === "lead") {
      this.#env.clearTimeout(this.#answer);
    }
    if (message.to === undefined || message.to === this.id) this.#port.message(message);
  }
}

/** Held by the one tab a person looked at last; asks for nothing while the page is hidden. */
export class Spotlight {
  on = false;
  #name;
  #env;
  #release = null;
  #abort = new AbortController();

  constructor(name, env) {
    this.#name = name;
    this.#env = env;
    const { signal } = this.#abort;
    env.window.addEventListener("focus", () => this.#update(true), { signal });
    env.document.addEventListener("visibilitychange", () => this.#update(false), { signal });
    env.window.addEventListener("pagehide", () => this.#drop(), { signal });
    env.window.addEventListener("pageshow", () => this.#update(false), { signal });
    this.#update(env.document.hasFocus());
  }

  close() {
    this.#abort.abort();
    this.#drop();
  }

  /** Whether nobody looks at any tab. */
  async free() {
    const { document, locks } = this.#env;
    if (!locks) return document.visibilityState === "hidden";
    // Shared, or those who ask at a time would take each other for somebody who looks.
    return locks.request(this.#name, { ifAvailable: true, mode: "shared" }, (lock) => lock !== null);
  }

  #drop() {
    this.on = false;
    this.#release?.();
    this.#release = null;
  }

  #update(focus) {
    const { document, locks } = this.#env;
    if (document.visibilityState === "hidden") return this.#drop();
    if (!locks) return void (this.on = true);
    if (this.on || (this.#release && !focus)) return;
    this.#release?.();
    let over = false;
    let free;
    this.#release = () => {
      over = true;
      free?.();
    };
    const mine = this.#release;
    const hold = (lock) => {
      if (!lock || over) return undefined;
      this.on = true;
      return new Promise((resolve) => (free = resolve));
    };
    const lost = ({ name }) => {
      if (this.#release !== mine) return;
      this.on = name !== "AbortError"; // denied: as where there are no locks
      if (this.on) return;
      this.#release = null;
      // Another window has the focus now; this one is next when that one goes.
      if (document.visibilityState === "visible") this.#update(false);
    };
    locks.request(this.#name, focus ? { steal: true } : {}, hold).catch(lost);
  }
}
