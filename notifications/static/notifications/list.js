/** The list of notifications, in the bell's panel and on the inbox page. */
import { createRow, plural, refreshTimes, safeURL, updateRow } from "./rows.js";

const UNDO_MS = 8000;

export class List {
  /** Whether new notifications belong in it: not so on an older page. */
  live = true;
  #root;
  #inbox;
  #status = "all";
  #kind = "";
  #rows = new Map();
  #held = new Set();
  #gone = new Map(); // what left the list, in case it is taken back
  #next = null;
  #loading = null;
  #stale = true;
  #undo = null;
  #timers = {};
  #active;

  /** `active` says whether a person can see the list now. */
  constructor(root, inbox, { signal, active = () => true }) {
    this.#root = root;
    this.#inbox = inbox;
    this.#active = active;
    const on = (target, type, fn) => target?.addEventListener(type, fn, { signal });
    on(inbox, "change", ({ detail }) => this.#change(detail));
    on(inbox, "reset", () => this.#invalidate());
    on(document, "visibilitychange", () => this.#stale && !this.#loading && this.#active() && this.load());
    on(inbox, "rejected", () => this.#tell("rejected"));
    on(this.#rowsElement, "click", (event) => this.#clicked(event));
    on(this.#rowsElement, "auxclick", (event) => event.button === 1 && this.#clicked(event));
    on(root, "keydown", (event) => this.#key(event));
    on(this.#part("pill"), "click", () => this.#release(true));
    on(this.#part("more"), "click", () => this.load(true));
    on(this.#part("retry"), "click", () => {
      this.load();
      this.rest();
    });
    on(this.#part("undo-button"), "click", () => this.#takeBack());
    on(this.#part("kinds"), "change", ({ target }) => this.show(this.#status, target.value));
    for (const tab of this.#tabs) on(tab, "click", () => this.show(tab.dataset.status, this.#kind));
    on(this.#scroller, "scroll", () => this.#scroller.scrollTop < 8 && this.#release());
    const observer = new IntersectionObserver(
      ([entry]) => entry.isIntersecting && this.#next && this.load(true),
      { root: this.#scroller, rootMargin: "200px" },
    );
    if (this.#part("more")) observer.observe(this.#part("more"));
    const times = setInterval(() => this.#active() && refreshTimes(this.#rowsElement), 30_000);
    signal?.addEventListener("abort", () => {
      observer.disconnect();
      clearInterval(times);
    });
  }

  /** Take over rows that the server rendered; `more` says that older ones are on another page. */
  adopt({ status, kind, more }) {
    this.#status = status;
    this.#kind = kind;
    this.#next = more || null;
    this.#stale = false;
    const items = [];
    for (const row of this.#rowsElement.querySelectorAll("[data-id]")) {
      const { id, kind, level, topic, tag, expires: expires_at, read, archived } = row.dataset;
      const state = { read: read !== undefined, archived: archived !== undefined, seen: true };
      this.#rows.set(Number(id), row);
      items.push({ id: Number(id), kind, level, topic, tag, expires_at, ...state });
      // Without a script a form notes that the link was followed; a link can be opened in a new tab.
      const button = row.querySelector("button[data-href]");
      if (!button) continue;
      const link = document.createElement("a");
      const address = safeURL(button.dataset.href);
      link.append(...button.childNodes);
      if (address) Object.assign(link, { href: address, rel: "noopener" });
      link.dataset.link = "";
      button.replaceWith(link);
    }
    this.#inbox.adopt(items);
    refreshTimes(this.#rowsElement);
  }

  /** Show another view; nothing happens if it is this one and complete. */
  show(status = this.#status, kind = this.#kind) {
    if (!this.#stale && status === this.#status && kind === this.#kind) return;
    this.#status = status;
    this.#kind = kind;
    for (const tab of this.#tabs) {
      tab.setAttribute("aria-selected", tab.dataset.status === status);
      tab.tabIndex = tab.dataset.status === status ? 0 : -1;
      if (tab.dataset.status === status) this.#part("panel")?.setAttribute("aria-labelledby", tab.id);
    }
    this.#clear();
    return this.load();
  }

  async load(more = false) {
    const loading = { added: [] };
    if (more && this.#loading) return;
    this.#loading = loading;
    this.#toggle("failed", false);
    this.#rowsElement.setAttribute("aria-busy", "true");
    if (!more) this.#toggle("empty", false);
    try {
      const view = { status: this.#status, kind: this.#kind, next: more ? this.#next : null };
      const { ids, next } = await this.#inbox.load(view);
      if (this.#loading !== loading) return;
      if (!more) this.#clear();
      this.#stale = false;
      this.#next = next;
      for (const id of ids) this.#insert(id);
      // The answer may have been written before these came.
      if (!more) for (const id of loading.added) this.#insert(id);
      this.#kinds();
    } catch {
      if (this.#loading === loading) this.#toggle("failed", true);
    }
    if (this.#loading !== loading) return;
    this.#loading = null;
    this.#rowsElement.removeAttribute("aria-busy");
    this.#settle();
  }

  /** Give the focus a place when what had it is gone. */
  rest() {
    (this.#scroller ?? this.#part("heading"))?.focus({ preventScroll: true });
  }

  get newest() {
    return Math.max(0, ...this.#rows.keys());
  }

  // ---- what happens elsewhere ----------------------------------------------------------------------------------

  #change({ added, changed, removed }) {
    this.#loading?.added.push(...added);
    if (this.#stale && !this.#rows.size) return;
    for (const id of added) this.#arrive(id);
    for (const id of changed) {
      const item = this.#inbox.items.get(id);
      const row = this.#rows.get(id);
      if (!this.#fits(item)) this.#leave(id);
      else if (row) updateRow(row, item);
      else if (this.#held.has(id)) continue;
      else this.#insert(id, true);
    }
    for (const id of removed) this.#leave(id);
    this.#settle();
  }

  #arrive(id) {
    if (!this.live || !this.#fits(this.#inbox.items.get(id))) return;
    // Where a list jumps one clicks on the wrong thing.
    const reading = this.#active() && (this.#scroller?.scrollTop > 8 || this.#rowsElement.matches(":focus-within, :hover"));
    if (reading && this.#part("pill")) this.#held.add(id);
    else this.#insert(id);
  }

  #release(scroll = false) {
    if (!this.#held.size) return;
    const ids = [...this.#held];
    this.#held.clear();
    for (const id of ids) this.#insert(id);
    this.#settle();
    if (!scroll) return;
    this.#scroller?.scrollTo({ top: 0 });
    focusRow(this.#rowsElement.firstElementChild);
  }

  #invalidate() {
    if (!this.live) return;
    this.#stale = true;
    if (this.#active()) this.load();
  }

  #fits(item) {
    if (!item || (this.#kind && item.kind !== this.#kind)) return false;
    if (this.#status === "archived") return item.archived;
    return !item.archived && !(this.#status === "unread" && item.read);
  }

  // ---- what is shown -------------------------------------------------------------------------------------------

  #insert(id, within = false) {
    const item = this.#inbox.items.get(id);
    if (this.#rows.has(id) || !this.#fits(item)) return;
    const after = [...this.#rows.keys()].filter((other) => other < id).sort((a, b) => b - a)[0];
    // What belongs below the part that is loaded comes with its page.
    if (within && after === undefined && this.#next) return;
    const place = this.#gone.get(id) ?? this.#place(item);
    if (!place) return;
    const row = place.querySelector("[data-id]");
    updateRow(row, item);
    this.#rows.set(id, row);
    this.#rowsElement.insertBefore(place, after === undefined ? null : this.#rows.get(after).closest("li"));
  }

  #place(item) {
    if (item.title === undefined) return null; // known by its state alone
    const template = this.#part("item");
    const place = template ? template.content.firstElementChild.cloneNode(true) : document.createElement("li");
    for (const box of place.querySelectorAll("input")) {
      box.value = item.id;
      box.ariaLabel = box.ariaLabel.replace("{title}", item.title);
    }
    place.append(createRow(this.#root, item));
    return place;
  }

  #leave(id) {
    this.#held.delete(id);
    const place = this.#rows.get(id)?.closest("li");
    this.#rows.delete(id);
    if (!place) return;
    this.#gone.set(id, place);
    const focused = place.contains(place.getRootNode().activeElement);
    const neighbour = place.nextElementSibling ?? place.previousElementSibling;
    place.remove();
    if (focused) neighbour ? focusRow(neighbour) : this.rest();
  }

  #clear() {
    for (const known of [this.#rows, this.#held, this.#gone]) known.clear();
    this.#next = null;
    this.#rowsElement.replaceChildren();
    this.#scroller?.scrollTo({ top: 0 });
    this.#settle();
  }

  #settle() {
    const pill = this.#part("pill");
    if (pill) {
      pill.hidden = !this.#held.size;
      if (this.#held.size) pill.textContent = plural(pill, this.#held.size);
    }
    this.#toggle("more", Boolean(this.#next));
    const empty = this.#part("empty");
    this.#toggle("bulk", this.#rows.size > 0);
    empty.hidden = this.#rows.size > 0 || this.#stale || Boolean(this.#loading) || this.#part("failed")?.hidden === false;
    for (const text of empty.querySelectorAll("[data-for]")) text.hidden = text.dataset.for !== this.#status;
  }

  #kinds() {
    const select = this.#part("kinds");
    if (!select) return;
    const labels = JSON.parse(select.dataset.labels || "{}");
    for (const kind of this.#inbox.kinds) {
      if (![...select.options].some(({ value }) => value === kind)) select.add(new Option(labels[kind] ?? kind, kind));
    }
    select.hidden = select.options.length < 3;
  }

  // ---- what the person does ------------------------------------------------------------------------------------

  #clicked(event) {
    const row = event.target.closest("[data-id]");
    if (!row) return;
    const id = Number(row.dataset.id);
    const button = event.target.closest("[data-action]");
    if (button) {
      event.preventDefault();
      // The second of a double click is not meant for the row that has moved up, or the changed button.
      if (event.detail < 2) this.act(button.dataset.action, [id]);
    } else if (event.target.closest("a[data-link][href]")) {
      this.#inbox.act("clicked", [id]);
    }
  }

  act(action, ids) {
    const before = new Set(ids.filter((id) => this.#rows.has(id)));
    this.#inbox.act(action, ids);
    const gone = [...before].filter((id) => !this.#rows.has(id));
    if (gone.length) this.#offerUndo(action, gone);
  }

  #offerUndo(action, ids) {
    const opposite = { archive: "unarchive", unarchive: "archive", read: "unread", unread: "read" }[action];
    // While the bar is up, it takes back all that it was up for.
    const before = this.#part("undo")?.hidden === false && this.#undo?.action === opposite ? this.#undo.ids : [];
    this.#undo = { action: opposite, ids: [...new Set([...before, ...ids])] };
    this.#tell(action);
  }

  /** Say in the bar what was done, or that it was not. */
  #tell(word) {
    const bar = this.#part("undo");
    if (!bar) return;
    if (word === "rejected") this.#undo = null;
    for (const text of bar.querySelectorAll("[data-for]")) text.hidden = text.dataset.for !== word;
    this.#toggle("undo-button", this.#undo);
    bar.hidden = false;
    this.#expireUndo();
  }

  #expireUndo() {
    clearTimeout(this.#timers.undo);
    this.#timers.undo = setTimeout(() => {
      const bar = this.#part("undo");
      if (bar.matches(":hover, :focus-within")) this.#expireUndo();
      else bar.hidden = true;
    }, UNDO_MS);
  }

  #takeBack() {
    const { action, ids } = this.#undo;
    this.#part("undo").hidden = true;
    this.#inbox.act(action, ids);
    focusRow(this.#rows.get(ids[0])?.closest("li"));
  }

  #key(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const place = event.target.closest("li");
    if (step && place && this.#rowsElement.contains(place)) {
      const next = step > 0 ? place.nextElementSibling : place.previousElementSibling;
      if (next) event.preventDefault();
      focusRow(next);
    }
    const tab = event.target.closest("[role=tab]");
    const rtl = tab && getComputedStyle(tab).direction === "rtl";
    const turn = { ArrowRight: rtl ? -1 : 1, ArrowLeft: rtl ? 1 : -1 }[event.key];
    if (!tab || !turn) return;
    const tabs = this.#tabs;
    const other = tabs[(tabs.indexOf(tab) + turn + tabs.length) % tabs.length];
    event.preventDefault();
    other.focus();
    other.click();
  }

  #part(name) {
    return this.#root.querySelector(`[data-${name}]`);
  }

  #toggle(name, shown) {
    const part = this.#part(name);
    if (part) part.hidden = !shown;
  }

  get #rowsElement() {
    return this.#part("rows");
  }

  get #scroller() {
    return this.#part("scroll");
  }

  get #tabs() {
    return [...this.#root.querySelectorAll("[role=tab]")];
  }
}

function focusRow(place) {
  if (!place) return;
  const targets = [...place.querySelectorAll("a[href], button")];
  targets.find((target) => target.checkVisibility?.() ?? target.offsetParent)?.focus();
}
