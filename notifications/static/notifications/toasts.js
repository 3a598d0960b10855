/** `<notification-toasts>`: what just came, for a moment, in the tab that is looked at. */
import { NotificationElement } from "./element.js";
import { createRow, plural } from "./rows.js";

const STAY_MS = 6000;
const PER_CHARACTER_MS = 40; // a long text takes longer to read
const MOST = 3; // more than this at a time become one
const ALERTING = new Set(["error", "warning"]);

export class NotificationToasts extends NotificationElement {
  #toasts = new Set();
  #fold = null;

  start(signal) {
    const stack = this.$("stack");
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    this.hear((item) => this.#arrived(item), signal);
    on(this.inbox, "change", ({ detail }) => this.#changed(detail));
    on(this.client, "reset", () => this.#clear());
    for (const type of ["pointerenter", "pointerleave", "focusin", "focusout"]) on(stack, type, () => this.#pace());
    on(document, "visibilitychange", () => this.#pace());
    on(stack, "keydown", (event) => event.key === "Escape" && this.#dismiss(this.#of(event.target)));
    on(stack, "click", (event) => this.#clicked(event));
  }

  stop() {
    this.#clear();
  }

  /** Whether the person does not want any. */
  get muted() {
    return this.hasAttribute("muted") || this.getAttribute("toasts") === "off";
  }

  #arrived(item) {
    if (this.muted || !this.spotlight.on || this.#inView(item)) return;
    this.announce(item);
    if (this.#fold || this.#toasts.size >= MOST) return this.#foldIn(item);
    this.#show({ ids: [item.id], content: createRow(this.root, item), text: item.title + (item.body ?? "") }, item.level);
  }

  /** Whether it is before the person's eyes: in a banner, in the open panel or inbox, or as the page itself. */
  #inView({ url, kind }) {
    const banners = [...document.querySelectorAll("notification-banner")];
    if (banners.some((banner) => banner.kinds?.includes(kind))) return true;
    if (document.querySelector("notification-bell")?.open || document.querySelector("notification-inbox[live]")) return true;
    if (!url || !document.hasFocus()) return false;
    const target = new URL(url, location.href);
    return target.origin === location.origin && target.pathname === location.pathname && target.search === location.search;
  }

  /** All that are up, and this one, become one that only counts. */
  #foldIn(item) {
    const ids = [item.id, ...[...this.#toasts].flatMap((toast) => toast.ids)];
    const folded = this.$("fold").content.firstElementChild.cloneNode(true);
    const text = folded.querySelector("[data-forms]");
    text.textContent = plural(text, ids.length);
    this.#clear();
    this.#fold = this.#show({ ids, content: folded, text: text.textContent, fold: true }, "info");
  }

  #show(toast, level) {
    const element = this.$("toast").content.firstElementChild.cloneNode(true);
    element.dataset.level = level;
    element.querySelector("[data-slot]").replaceWith(toast.content);
    Object.assign(toast, { element, left: STAY_MS + PER_CHARACTER_MS * Math.min(toast.text.length, 200) });
    if (ALERTING.has(level)) toast.left *= 2;
    this.#toasts.add(toast);
    const stack = this.$("stack");
    stack.append(element);
    if (stack.showPopover && !stack.matches(":popover-open")) stack.showPopover();
    this.#pace();
    return toast;
  }

  /** Let time run for the toasts, unless somebody reads or reaches for them, or can not see them. */
  #pace() {
    const halted = document.visibilityState === "hidden" || this.$("stack").matches(":hover, :focus-within");
    for (const toast of this.#toasts) {
      clearTimeout(toast.timer);
      if (toast.started) toast.left = Math.max(1500, toast.left - (Date.now() - toast.started));
      toast.started = halted ? 0 : Date.now();
      if (!halted) toast.timer = setTimeout(() => this.#dismiss(toast), toast.left);
    }
  }

  #changed({ changed, removed }) {
    const known = (id) => ["read", "seen", "archived"].some((key) => this.inbox.items.get(id)?.[key]);
    const gone = new Set([...removed, ...changed.filter(known)]);
    if (!gone.size) return;
    for (const toast of [...this.#toasts]) if (toast.ids.every((id) => gone.has(id))) this.#dismiss(toast);
  }

  #clicked(event) {
    const toast = this.#of(event.target);
    if (!toast) return;
    if (event.target.closest("[data-close]")) this.#dismiss(toast);
    else if (event.target.closest("a[data-link][href]")) {
      this.inbox.act("clicked", toast.ids);
      this.#dismiss(toast);
    } else if (event.target.closest("[data-open]")) {
      this.#dismiss(toast);
      const bell = document.querySelector("notification-bell");
      if (bell?.show) {
        event.preventDefault();
        bell.show();
      }
    }
  }

  #of(target) {
    return [...this.#toasts].find(({ element }) => element.contains(target));
  }

  #dismiss(toast) {
    if (!toast || !this.#toasts.delete(toast)) return;
    clearTimeout(toast.timer);
    if (this.#fold === toast) this.#fold = null;
    const stack = this.$("stack");
    const next = toast.element.contains(this.root.activeElement) && [...this.#toasts].at(-1);
    toast.element.remove();
    if (next) next.element.querySelector("a[href], button")?.focus();
    if (!this.#toasts.size && stack.matches(":popover-open")) stack.hidePopover();
  }

  #clear() {
    for (const toast of [...this.#toasts]) this.#dismiss(toast);
  }
}
