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
    });
    on(this.$("read-all"), "submit", (event) => {
      event.preventDefault();
      this.inbox.readAll();
    });
    on(this.querySelector(".notification-filter select"), "change", ({ target }) => target.form.requestSubmit());
    const see = () => list.live && document.visibilityState === "visible" && this.inbox.see();
    on(this.client, "notification", see);
    on(document, "visibilitychange", see);
    see();
    this.#count();
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
