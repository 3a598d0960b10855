/**
 * `<notification-banner>`: unread notifications of its `kinds` across the page, until they are dismissed (that is read,
 * so that they stay away everywhere) or over.
 */
import { NotificationElement } from "./element.js";
import { createRow } from "./rows.js";

export class NotificationBanner extends NotificationElement {
  #shown = new Map();

  start(signal) {
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    this.hear(({ id }) => {
      this.#consider(this.inbox.items.get(id));
      if (this.#shown.has(id)) this.announce(this.inbox.items.get(id));
    }, signal);
    on(this.inbox, "change", ({ detail }) => {
      for (const id of detail.removed) this.#hide(id);
      for (const id of detail.changed) this.#consider(this.inbox.items.get(id));
    });
    on(this.inbox, "reset", () => this.#load());
    on(this.$("banners"), "click", (event) => {
      const id = Number(event.target.closest("[data-banner]")?.dataset.banner);
      if (event.target.closest("[data-close]")) {
        this.inbox.act("read", [id]);
        this.#hide(id); // also one that the inbox does not know any more
      } else if (event.target.closest("a[data-link][href]")) this.inbox.act("clicked", [id]);
    });
    // What the server rendered is there from the first paint.
    for (const element of this.root.querySelectorAll("[data-banner]")) {
      const id = Number(element.dataset.banner);
      const { kind, level, expires: expires_at } = element.dataset;
      const { topic, tag } = element.querySelector("[data-id]")?.dataset ?? {};
      this.#shown.set(id, element);
      this.inbox.adopt([{ id, kind, level, topic, tag, expires_at, read: false, seen: true, archived: false }]);
    }
  }

  get kinds() {
    return (this.getAttribute("kinds") ?? "broadcast").split(" ");
  }

  async #load() {
    try {
      const loads = this.kinds.map((kind) => this.inbox.load({ status: "unread", kind }));
      for (const { ids } of await Promise.all(loads)) for (const id of ids) this.#consider(this.inbox.items.get(id));
    } catch {
      // The next reset, or the next page, brings them.
    }
  }

  #consider(item) {
    if (!item || !this.kinds.includes(item.kind)) return;
    if (item.read || item.archived) return this.#hide(item.id);
    if (this.#shown.has(item.id) || item.title === undefined) return;
    const banner = this.$("banner-template").content.firstElementChild.cloneNode(true);
    Object.assign(banner.dataset, { banner: item.id, level: item.level });
    banner.querySelector("[data-slot]").replaceWith(createRow(this.root, item));
    this.#shown.set(item.id, banner);
    this.$("banners").prepend(banner);
  }

  #hide(id) {
    this.#shown.get(id)?.remove();
    this.#shown.delete(id);
  }
}
