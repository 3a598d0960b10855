/**
 * `<notification-banner>`: announcements across the page, from when they come until they are dismissed or over.
 *
 * Shows unread notifications of its `kinds` (space separated). To dismiss one is to read it, so that it stays away, on
 * the person's other devices as well.
 */
import { NotificationElement } from "./element.js";
import { createRow } from "./rows.js";

const LONGEST_MS = 2 ** 31 - 1; // what a timer can hold

export class NotificationBanner extends NotificationElement {
  #shown = new Map();
  #timers = new Map();

  start(signal) {
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    on(this.client, "notification", ({ detail }) => this.#consider(this.inbox.items.get(detail.id) ?? detail));
    on(this.inbox, "change", ({ detail }) => {
      for (const id of detail.removed) this.#hide(id);
      for (const id of detail.changed) this.#consider(this.inbox.items.get(id));
    });
    on(this.inbox, "reset", () => this.#load());
    on(this.$("banners"), "click", (event) => {
      const banner = event.target.closest("[data-banner]");
      if (event.target.closest("[data-close]")) this.inbox.act("read", [Number(banner.dataset.banner)]);
      else if (event.target.closest("a[data-link][href]")) this.inbox.act("clicked", [Number(banner.dataset.banner)]);
    });
    // What the server rendered is there from the first paint; only its end has to be watched.
    for (const element of this.root.querySelectorAll("[data-banner]")) {
      const id = Number(element.dataset.banner);
      const { kind, level, expires: expires_at } = element.dataset;
      this.inbox.adopt([{ id, kind, level, expires_at, read: false, seen: true, archived: false }]);
      this.#shown.set(id, element);
      this.#expire(id, expires_at);
    }
  }

  stop() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
  }

  get #kinds() {
    return (this.getAttribute("kinds") ?? "broadcast").split(" ");
  }

  async #load() {
    try {
      const loads = this.#kinds.map((kind) => this.inbox.load({ status: "unread", kind }));
      for (const { ids } of await Promise.all(loads)) for (const id of ids) this.#consider(this.inbox.items.get(id));
    } catch {
      // The next reset, or the next page, brings them.
    }
  }

  #consider(item) {
    if (!item || !this.#kinds.includes(item.kind)) return;
    const over = item.expires_at && Date.parse(item.expires_at) <= Date.now();
    if (item.read || item.archived || over) return this.#hide(item.id);
    if (this.#shown.has(item.id) || item.title === undefined) return;
    const banner = this.$("banner-template").content.firstElementChild.cloneNode(true);
    Object.assign(banner.dataset, { banner: item.id, level: item.level });
    banner.querySelector("[data-slot]").replaceWith(createRow(this.root, item));
    this.#shown.set(item.id, banner);
    this.$("banners").prepend(banner);
    this.#expire(item.id, item.expires_at);
  }

  #expire(id, time) {
    if (!time) return;
    const left = Date.parse(time) - Date.now();
    const timer = setTimeout(() => (left > LONGEST_MS ? this.#expire(id, time) : this.#hide(id)), Math.min(left, LONGEST_MS));
    this.#timers.set(id, timer);
  }

  #hide(id) {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
    this.#shown.get(id)?.remove();
    this.#shown.delete(id);
  }
}
