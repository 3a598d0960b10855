/** `<notification-inbox>`: makes the inbox page live, which works without it. */
import { NotificationElement } from "./element.js";
import { List } from "./list.js";
import { capped, plural } from "./rows.js";

export class NotificationInbox extends NotificationElement {
  start(signal) {
    for (const template of this.querySelectorAll("template[data-scripted]")) template.replaceWith(template.content);
    const list = new List(this, this.inbox, { signal, active: () => document.visibilityState === "visible" });
    list.live = this.hasAttribute("live");
    list.adopt({ status: this.getAttribute("status"), kind: this.getAttribute("kind"), more: this.hasAttribute("more") });
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    on(this.inbox, "counts", () => this.#count());
    on(this.$("bulk"), "submit", (event) => {
      const { name, value } = event.submitter ?? {};
      if (name !== "action") return;
      event.preventDefault();
      const boxes = [...event.currentTarget.querySelectorAll("input[name=ids]:checked")];
      for (const box of boxes) box.checked = false;
      if (boxes.length) list.act(value, boxes.map((box) => Number(box.value)));
      // The bar with the buttons goes with the last of the ticks.
      const left = boxes.find((box) => box.isConnected);
      left ? left.focus({ preventScroll: true }) : list.rest();
    });
    on(this.$("read-all"), "submit", (event) => {
      event.preventDefault();
      // Newer ones than this page shows are meant, too: as many as it counts.
      this.inbox.readAll(Number(event.target.elements.before?.value) || 0);
      list.rest(); // there is nothing to mark any more, and the button goes
    });
    on(this.#filter, "change", ({ target }) => target.form.requestSubmit());
    on(this.inbox, "change", ({ detail }) => detail.added.forEach((id) => this.#offer(this.inbox.items.get(id).kind)));
    const see = () => list.live && document.visibilityState === "visible" && this.inbox.see();
    on(this.client, "notification", see);
    on(document, "visibilitychange", see);
    see();
    this.#count();
  }

  get #filter() {
    return this.querySelector(".notification-filter select");
  }

  /** A kind that the page has not seen before can be filtered by from then on. */
  #offer(kind) {
    if (!this.#filter) return;
    const { options, form, dataset } = this.#filter;
    if (![...options].some(({ value }) => value === kind)) options.add(new Option(JSON.parse(dataset.labels ?? "{}")[kind] ?? kind, kind));
    if (options.length > 2) form.hidden = false;
  }

  #count() {
    const { unread } = this.inbox;
    const count = this.$("count");
    count.hidden = !unread;
    if (unread) count.textContent = plural(count, unread, capped(unread));
    const all = this.$("read-all");
    if (all) all.hidden = !unread;
  }
}
