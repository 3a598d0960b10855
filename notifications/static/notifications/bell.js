/** `<notification-bell>`: a badge, and a panel with the newest notifications. */
import { NotificationElement } from "./element.js";
import { List } from "./list.js";
import { capped, plural } from "./rows.js";

const SAY_MS = 1000;

export class NotificationBell extends NotificationElement {
  #list;
  #heard = [];
  #saying;

  start(signal) {
    const [panel, button] = [this.$("popover"), this.$("button")];
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    this.#list = new List(this.root, this.inbox, { signal, active: () => this.open });
    on(this.inbox, "counts", () => this.#count());
    on(this.inbox, "reset", () => this.open || this.inbox.load().catch(() => {}));
    on(this.inbox, "rejected", () => this.#say(this.$("rejected").textContent));
    on(this.$("read-all"), "click", () => this.inbox.readAll());
    on(this.client, "state", () => this.#connection());
    on(this.client, "notification", ({ detail }) => this.#arrived(detail));
    if (panel.showPopover) {
      on(panel, "beforetoggle", ({ newState }) => newState === "open" && this.#place());
      on(panel, "toggle", ({ newState }) => this.#toggled(newState === "open"));
      on(window, "resize", () => this.open && this.#place());
    } else {
      on(button, "click", () => location.assign(this.getAttribute("inbox-url")));
    }
    // Tab leaves the panel at its end as it would leave any part of the page: by closing it behind.
    on(panel, "focusout", ({ relatedTarget }) => relatedTarget && !this.contains(relatedTarget) && this.#leave(relatedTarget));
    this.#count();
    this.#connection();
  }

  stop() {
    clearTimeout(this.#saying);
  }

  get open() {
    return this.$("popover")?.matches(":popover-open") ?? false;
  }

  show() {
    this.$("popover").showPopover();
  }

  #leave(target) {
    if (!this.root.contains(target) && this.open) this.$("popover").hidePopover();
  }

  #toggled(open) {
    this.$("button").setAttribute("aria-expanded", open);
    if (!open) return;
    this.#list.show();
    this.$("popover").focus();
    this.inbox.see();
  }

  #arrived(detail) {
    if (this.open && document.visibilityState === "visible") this.inbox.see();
    // Read aloud once, in the tab the person is in, however many come at a time.
    if (!this.spotlight.on) return;
    this.#heard.push(detail.title);
    if (this.#heard.length > 1) return;
    this.#saying = setTimeout(() => {
      const status = this.$("say");
      const heard = this.#heard.splice(0);
      this.#say(heard.length === 1 ? heard[0] : plural(status, heard.length));
    }, SAY_MS);
  }

  #say(text) {
    this.$("say").textContent = text;
  }

  #count() {
    const { unread, unseen } = this.inbox;
    const [badge, button] = [this.$("badge"), this.$("button")];
    badge.textContent = unseen ? capped(unseen) : "";
    badge.hidden = !unread;
    badge.classList.toggle("notification-quiet", !unseen);
    button.setAttribute("aria-label", plural(button, unread ?? 0, capped(unread ?? 0)));
    this.setAttribute("unread", unread ?? 0);
    this.setAttribute("unseen", unseen ?? 0);
    for (const count of this.root.querySelectorAll("[data-unread]")) {
      count.textContent = unread ? capped(unread) : "";
      count.hidden = !unread;
    }
    this.$("read-all").disabled = !unread;
  }

  #connection() {
    const { readyState, reason } = this.client.state;
    const word = readyState === 1 ? "open" : readyState === 2 ? (/^(unauth|forb)/.test(reason) ? "out" : "closed") : "waiting";
    for (const text of this.$("connection").children) text.hidden = text.dataset.when !== word;
    this.setAttribute("state", word);
  }

  /** Below the button, inside the window, on whichever side there is room. */
  #place() {
    const panel = this.$("popover");
    const { left, right, bottom } = this.$("button").getBoundingClientRect();
    const width = document.documentElement.clientWidth;
    const wide = Math.min(416, width - 16);
    const start = getComputedStyle(this).direction === "rtl" ? left : right - wide;
    panel.style.left = `${Math.round(Math.max(8, Math.min(start, width - wide - 8)))}px`;
    panel.style.top = `${Math.round(Math.max(8, bottom + 8))}px`;
    panel.style.setProperty("--notifications-room", `${Math.round(innerHeight - Math.max(8, bottom + 8) - 12)}px`);
  }
}
