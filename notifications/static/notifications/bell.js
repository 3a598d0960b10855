/** `<notification-bell>`: a badge, and a panel with the newest notifications. */
import { Preferences, alertPerson, showCount } from "./alerts.js";
import { NotificationElement } from "./element.js";
import { List } from "./list.js";
import { capped, plural } from "./rows.js";

export class NotificationBell extends NotificationElement {
  #list;
  #preferences;
  #return = false; // whether the focus goes back to the button
  #recounting = false;

  start(signal) {
    const [panel, button] = [this.$("popover"), this.$("button")];
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    this.#list = new List(this.root, this.inbox, { signal, active: () => this.open });
    on(this.inbox, "counts", () => this.#count());
    on(this.inbox, "reset", () => this.#recount(true));
    on(document, "visibilitychange", () => this.#recount(this.#recounting));
    // In the open panel the list shows it.
    on(this.inbox, "rejected", () => this.open || (this.$("say").textContent = this.$("rejected").textContent));
    on(this.$("read-all"), "click", () => this.inbox.unread && this.inbox.readAll());
    on(this.client, "state", () => this.#connection());
    this.hear((item) => this.#arrived(item), signal);
    if (panel.showPopover) {
      on(panel, "beforetoggle", ({ newState }) => newState === "open" && this.#place());
      on(panel, "toggle", ({ newState }) => this.#toggled(newState === "open"));
      on(window, "resize", () => this.open && this.#place());
    } else {
      on(button, "click", () => location.assign(this.getAttribute("inbox-url")));
    }
    // Tab leaves the panel at its end by closing it behind.
    on(panel, "focusout", ({ relatedTarget }) => relatedTarget && !this.contains(relatedTarget) && this.#leave(relatedTarget));
    on(this.$("settings"), "click", ({ currentTarget }) => {
      const shown = this.$("preferences").toggleAttribute("hidden");
      currentTarget.setAttribute("aria-expanded", !shown);
    });
    on(panel, "keydown", ({ key }) => key === "Escape" && this.root.activeElement && (this.#return = true));
    this.#preferences = new Preferences(this);
    on(this.client, "preferences", ({ detail }) => {
      this.#preferences.follow(detail);
      this.#prefer();
      // A page that was told to use one transport keeps to it.
      if (!this.hasAttribute("fixed-transport")) this.setAttribute("transport", detail.transport);
    });
    for (const box of this.root.querySelectorAll("[data-preference]")) {
      on(box, "change", async () => {
        await this.#preferences.set(box.dataset.preference, box.checked);
        this.#prefer();
      });
    }
    on(window, "storage", () => this.#prefer());
    this.#prefer();
    this.#count();
    this.#connection();
  }

  stop() {
    showCount(0, this.getAttribute("favicon"));
  }

  /** Events were missed: ask for the counts, as soon as this tab is looked at. */
  #recount(due) {
    this.#recounting = due && document.visibilityState === "hidden";
    if (due && !this.#recounting && !this.open) this.inbox.load().catch(() => (this.#recounting = true));
  }

  #prefer() {
    const all = this.#preferences.all;
    for (const box of this.root.querySelectorAll("[data-preference]")) box.checked = all[box.dataset.preference];
    for (const toasts of document.querySelectorAll("notification-toasts")) toasts.toggleAttribute("muted", !all.toasts);
    // Who wants to be told while elsewhere is not served by a connection that rests.
    this.client.stayAwake = all.sound || all.system;
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
    if (!open) {
      if (this.#return) this.$("button").focus();
      this.#return = false;
      return;
    }
    this.#list.show();
    this.$("popover").focus();
    this.inbox.see();
  }

  #arrived(detail) {
    if (this.open && document.visibilityState === "visible") this.inbox.see();
    this.#alert(detail);
    this.announce(detail);
  }

  async #alert(item) {
    const wanted = this.#preferences.all;
    if (!wanted.sound && !wanted.system) return;
    // In the tab that is looked at; if there is none, in the one that holds the connection.
    const elsewhere = !this.spotlight.on && this.client.state.leading && (await this.spotlight.free());
    if (this.spotlight.on || elsewhere) alertPerson(item, wanted, elsewhere, () => this.inbox.act("clicked", [item.id]));
  }

  #count() {
    const { unread, unseen } = this.inbox;
    const [badge, label, all] = [this.$("badge"), this.$("label"), this.$("read-all")];
    badge.textContent = unseen ? capped(unseen) : "";
    badge.hidden = !unread;
    badge.classList.toggle("notification-quiet", !unseen);
    if (label) label.textContent = plural(label, unread ?? 0, capped(unread ?? 0));
    this.setAttribute("unread", unread ?? 0);
    this.setAttribute("unseen", unseen ?? 0);
    for (const count of this.root.querySelectorAll("[data-unread]")) {
      count.textContent = unread ? capped(unread) : "";
      count.hidden = !unread;
    }
    // Disabled it would lose the focus to the page.
    all?.setAttribute("aria-disabled", !unread);
    showCount(unseen ?? 0, this.getAttribute("favicon"));
  }

  #connection() {
    const { readyState, reason } = this.client.state;
    const word = readyState === 1 ? "open" : readyState === 2 ? (/^(unauth|forb)/.test(reason) ? "out" : "closed") : "waiting";
    for (const text of this.$("connection")?.children ?? []) text.hidden = text.dataset.when !== word;
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
