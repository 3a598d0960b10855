/** `<notification-status>`: how this page is connected. */
import { NotificationElement } from "./element.js";
import { ago } from "./rows.js";

export class NotificationStatus extends NotificationElement {
  #timer;

  start(signal) {
    this.client.addEventListener("state", () => this.#show(), { signal });
    this.client.addEventListener("event", () => this.#show(), { signal });
    this.#timer = setInterval(() => this.#show(), 5000);
    const select = this.$("transport");
    select?.addEventListener("change", () => this.client.use(select.value), { signal });
    this.#show();
  }

  stop() {
    clearInterval(this.#timer);
  }

  #show() {
    const { readyState, transport, since, latency, lastEvent, fallback, retryAt, reason, leading, shared } = this.client.state;
    const word = readyState === 1 ? "open" : readyState === 2 ? "closed" : "waiting";
    const locale = document.documentElement.lang || undefined;
    const unit = (value, unit) => new Intl.NumberFormat(locale, { style: "unit", unit, unitDisplay: "short" }).format(value);
    this.setAttribute("state", word);
    this.#choose("state", word);
    this.#choose("way", transport);
    this.#choose("tab", !shared ? "alone" : leading ? "this" : "other");
    this.#put("since", since && ago(since));
    this.#put("latency", readyState === 1 && latency !== null && unit(latency, "millisecond"));
    this.#put("last", lastEvent && ago(lastEvent));
    this.#put("fallback", fallback);
    this.#put("reason", readyState !== 1 && reason);
    this.#put("retry", readyState === 0 && retryAt && unit(Math.max(0, Math.ceil((retryAt - Date.now()) / 1000)), "second"));
  }

  /** Of the translated words in a cell, show the one that applies. */
  #choose(name, word) {
    for (const text of this.$(name)?.children ?? []) text.hidden = text.dataset.when !== word;
  }

  /** Write a value, and leave out the line that has none. */
  #put(name, value) {
    const cell = this.$(name);
    if (!cell) return;
    cell.textContent = value || "";
    cell.closest("[data-line]").hidden = !value;
  }
}
