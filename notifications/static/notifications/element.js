/** What the elements have in common: client and inbox of the page, a shadow root that Django rendered. */
import { Inbox } from "./inbox.js";
import { connect, optionsFrom, pagePlatform } from "./notifications.js";
import { plural } from "./rows.js";
import { Spotlight } from "./tabs.js";

const SAY_MS = 1000;

const shared = (globalThis[Symbol.for("notifications.inboxes")] ??= new Map());

/** Lend the client, inbox and spotlight of this person; the last to give them back closes them. */
function borrow(options) {
  const key = `${options.user} ${options.inboxURL}`;
  let entry = shared.get(key);
  if (!entry) {
    const client = connect(options);
    const env = pagePlatform();
    entry = {
      client,
      inbox: new Inbox(client, options, env),
      spotlight: new Spotlight(`notifications.spotlight ${options.user ?? ""}`, env),
      borrowers: 0,
    };
    shared.set(key, entry);
  }
  entry.borrowers += 1;
  const giveBack = () => {
    entry.borrowers -= 1;
    if (entry.borrowers) return;
    shared.delete(key);
    entry.inbox.close();
    entry.spotlight.close();
    entry.client.close();
  };
  return [entry, giveBack];
}

const number = (text) => (text === null || text === "" ? undefined : Number(text));

export class NotificationElement extends HTMLElement {
  static observedAttributes = ["transport"];
  client = null;
  inbox = null;
  spotlight = null;
  #giveBack = null;
  #leaving = null;
  #heard = [];
  #saying;
  #disconnected;

  connectedCallback() {
    clearTimeout(this.#leaving);
    if (this.client) return; // moved, not removed
    this.#attach();
    // An element that carries no addresses uses those of one that does.
    const source = this.hasAttribute("stream-url") ? this : document.querySelector("[stream-url]");
    if (!source) return;
    const options = {
      ...optionsFrom(source),
      unread: number(source.getAttribute("unread")),
      unseen: number(source.getAttribute("unseen")),
    };
    const [{ client, inbox, spotlight }, giveBack] = borrow(options);
    Object.assign(this, { client, inbox, spotlight });
    this.#giveBack = giveBack;
    this.#disconnected = new AbortController();
    this.start(this.#disconnected.signal);
  }

  disconnectedCallback() {
    // A page that swaps its content may put the element back in the same breath.
    this.#leaving = setTimeout(() => {
      this.#disconnected?.abort();
      clearTimeout(this.#saying);
      this.stop();
      this.#giveBack?.();
      this.client = this.inbox = this.spotlight = this.#giveBack = null;
    }, 1000);
  }

  attributeChangedCallback(name, old, transport) {
    if (this.client && old !== transport) this.client.use(transport);
  }

  /** For subclasses: begin; `signal` is aborted when the element has left the page. */
  start() {}

  stop() {}

  /** Call `fn` with each notification that comes and is not over by then, as after a night's sleep. */
  hear(fn, signal) {
    const arrived = ({ detail }) => this.inbox.items.has(detail.id) && fn(detail);
    this.client.addEventListener("notification", arrived, { signal });
  }

  /** Read aloud what came, once: in the tab the person is in, by the bell if there is one, however many come at a time. */
  announce({ title }) {
    const status = this.$("say");
    if (!status || !this.spotlight.on || (document.querySelector("notification-bell") ?? this) !== this) return;
    if (this.#heard.push(title) > 1) return;
    this.#saying = setTimeout(() => {
      const heard = this.#heard.splice(0);
      status.textContent = heard.length === 1 ? heard[0] : plural(status, heard.length);
    }, SAY_MS);
  }

  /** Find the part of the shadow root marked `data-<name>`. */
  $(name) {
    return this.root.querySelector(`[data-${name}]`);
  }

  get root() {
    return this.shadowRoot ?? this;
  }

  /** The parser attaches the shadow root; whoever inserts HTML by script leaves it to us. */
  #attach() {
    const template = this.querySelector("template[shadowrootmode]");
    if (template && !this.shadowRoot) this.attachShadow({ mode: "open" }).append(template.content);
    template?.remove();
  }
}
