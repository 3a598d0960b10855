/** What a page knows of a person's inbox: what was loaded, the counts, and what the server has not been told yet. */
import { Backoff } from "./backoff.js";
import { pagePlatform } from "./notifications.js";

export const MANY = 100;

const EFFECTS = {
  read: { read: true, seen: true },
  unread: { read: false },
  archive: { archived: true },
  unarchive: { archived: false },
  clicked: { read: true, seen: true },
};
/** So long may the stream take to tell what was confirmed. */
const ECHO_MS = 10_000;
const counted = (item) => !item.read && !item.archived;
const over = ({ expires_at }, now) => Date.parse(expires_at) <= now;

export class Inbox extends EventTarget {
  items = new Map();
  kinds = [];
  unread;
  unseen;
  #client;
  #url;
  #csrf;
  #user;
  #env;
  #outbox;
  #loads = new Set(); // for each load under way, the events that came and what was done meanwhile
  #undo = new Map();
  #echoes = new Map(); // what the stream will tell of the person's own doings, by `read` or `archived` and id
  #flushing = false;
  #backoff;
  #timer = null;
  #expiry = null;
  #newest = 0; // the highest id that the person knows of
  #over = new AbortController();

  constructor(client, options, env = pagePlatform()) {
    super();
    this.#client = client;
    this.#url = new URL(options.inboxURL, env.base);
    this.#csrf = options.csrfToken;
    this.#user = options.user;
    this.#env = env;
    this.#outbox = new Outbox(`notifications.outbox ${options.user ?? ""}`, env.storage);
    this.#backoff = new Backoff({ random: env.random });
    this.unread = options.unread ?? null;
    this.unseen = options.unseen ?? null;
    const { signal } = this.#over;
    for (const type of ["notification", "read", "seen", "archived", "recalled", "preferences"]) {
      client.addEventListener(type, ({ detail }) => this.#heard(type, detail), { signal });
    }
    client.addEventListener("ready", ({ detail }) => this.#ready(detail), { signal });
    client.addEventListener("reset", () => this.dispatchEvent(new CustomEvent("reset")), { signal });
    env.window?.addEventListener("online", () => this.#flush(), { signal });
    this.#flush();
  }

  close() {
    this.#over.abort();
    for (const timer of [this.#timer, this.#expiry]) this.#env.clearTimeout(timer);
  }

  get pending() {
    return this.#outbox.all.length;
  }

  async load({ status = "all", kind = "", next = null } = {}) {
    const url = new URL(next ?? this.#url, this.#url);
    if (!next) {
      url.searchParams.set("status", status);
      if (kind) url.searchParams.set("kind", kind);
    }
    url.searchParams.set("format", "json");
    this.#sign(url);
    const meanwhile = [];
    this.#loads.add(meanwhile);
    try {
      const response = await this.#env.fetch(url, {
        headers: { Accept: "application/json" },
        credentials: "same-origin",
        cache: "no-store",
      });
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const answer = await response.json();
      this.#merge(answer, meanwhile, !next && !kind && status !== "archived");
      return { ids: answer.results.map(({ id }) => id), next: answer.next };
    } finally {
      this.#loads.delete(meanwhile);
    }
  }

  /** Take in rows that the server rendered into the page, as far as they are not known better. */
  adopt(items) {
    for (const item of items) if (!this.items.has(item.id)) this.items.set(item.id, item);
    this.#expire();
  }

  act(action, ids) {
    const before = new Map();
    for (const id of ids) {
      const item = this.items.get(id);
      if (item) before.set(id, { ...item });
    }
    this.#change(ids, EFFECTS[action]);
    const path = ids.length === 1 ? `${ids[0]}/${action}/` : "bulk/";
    const body = ids.length === 1 ? {} : { action, ids };
    this.#send({ path, body, action, ids }, EFFECTS[action], before, () => {
      for (const [id, { read, seen, archived }] of before) this.#change([id], { read, seen, archived });
    });
  }

  readAll(newest = 0) {
    this.#newest = Math.max(this.#newest, newest);
    const effect = { read: true, seen: true };
    // "All" is what the person knows of, also when this is sent an hour later, after a tunnel.
    if (this.#newest) return this.#all("read-all/", effect, { unread: 0, unseen: 0 }, { before: this.#newest });
    // Else it would read then what nobody has seen.
    const refused = { detail: { all: effect, ids: [], status: 0 } };
    this.load().then(() => this.#newest && this.readAll(), () => this.dispatchEvent(new CustomEvent("rejected", refused)));
  }

  see() {
    if (this.unseen !== 0) this.#all("seen/", { seen: true }, { unseen: 0 });
  }

  #all(path, effect, counts, body = {}) {
    const old = { unread: this.unread, unseen: this.unseen };
    const before = new Map([...this.items].map(([id, item]) => [id, { ...item }]));
    this.#change([...this.items.keys()], effect);
    this.#count(counts);
    this.#send({ path, body, all: effect, ids: [] }, effect, before, () => {
      for (const [id, { read, seen }] of before) this.#change([id], { read, seen });
      this.#count(old);
    });
  }

  // ---- what the stream says ------------------------------------------------------------------------------------

  #heard(type, data) {
    const outdated = this.#outdated(type, data);
    if (outdated) data = { ...data, outdated, unread: undefined, unseen: undefined };
    for (const meanwhile of this.#loads) meanwhile.push([type, data]);
    this.#apply(type, data);
  }

  /**
   * The ids of which an event tells what the person has since undone: a row that was archived and taken back must not go
   * once more. Null if it says the last word on all.
   */
  #outdated(type, data) {
    if (type !== "read" && type !== "archived") return null;
    const value = data[type] !== false;
    const outdated = new Set();
    for (const id of this.#meant(data)) {
      const name = `${type} ${id}`;
      const echo = this.#echoes.get(name);
      if (!echo) continue;
      if (this.#awaits(echo) && echo.value !== value) outdated.add(id);
      echo.count -= 1;
      if (!this.#awaits(echo)) this.#echoes.delete(name);
    }
    return outdated.size || [...this.#echoes.values()].some((echo) => this.#awaits(echo)) ? outdated : null;
  }

  #awaits({ count, until, key }) {
    return (count > 0 && until > this.#env.now()) || this.#outbox.all.some((entry) => entry.key === key);
  }

  #meant({ all, before, ids, outdated }) {
    const meant = all ? [...this.items.keys()].filter((id) => id <= before) : ids;
    return outdated ? meant.filter((id) => !outdated.has(id)) : meant;
  }

  #apply(type, data) {
    if (type === "notification") return this.#add(data);
    if (type === "recalled") return this.#remove(data.ids);
    if (type === "preferences") {
      // What was muted is gone from the inbox, and what is not any more is back in it.
      this.#count(data);
      return this.dispatchEvent(new CustomEvent("reset"));
    }
    const effect =
      type === "read"
        ? { read: data.read !== false, ...(data.read !== false && { seen: true }) }
        : type === "seen"
          ? { seen: true }
          : { archived: data.archived };
    this.#change(this.#meant(data), effect);
    // What the person did a moment ago is in our count, and not yet in that one.
    if (this.pending) return;
    const unseen = data.all ? [...this.items.values()].filter((item) => !item.seen && counted(item)).length : this.unseen;
    this.#count({ unread: data.unread, unseen: data.unseen ?? unseen });
  }

  #add({ cursor: _, seq: __, ...data }) {
    if (this.items.has(data.id)) return;
    this.#remove(this.#replaced(data));
    // A replay brings it all the same; what it replaced stays away.
    if (over(data, this.#env.now())) return;
    this.#newest = Math.max(this.#newest, data.id);
    this.items.set(data.id, { ...data, read: false, seen: false, archived: false });
    this.#count({ unread: plus(this.unread, 1), unseen: plus(this.unseen, 1) });
    this.#changed({ added: [data.id] });
    this.#expire();
  }

  /** Return the ids of those whose place a notification takes. */
  #replaced(data) {
    const replaces = ({ id, tag, topic = data.topic }) => tag === data.tag && topic === data.topic && id < data.id;
    return data.tag ? [...this.items.values()].filter(replaces).map(({ id }) => id) : [];
  }

  /** Take out what is over, and come back when the next one is. */
  #expire() {
    this.#env.clearTimeout(this.#expiry);
    const ends = [...this.items.values()].filter((item) => item.expires_at).map((item) => [Date.parse(item.expires_at), item.id]);
    const now = this.#env.now();
    this.#remove(ends.filter(([at]) => at <= now).map(([, id]) => id));
    const next = Math.min(...ends.map(([at]) => at).filter((at) => at > now));
    // Longer than a timer can hold is long enough to look again.
    if (next < Infinity) this.#expiry = this.#env.setTimeout(() => this.#expire(), Math.min(next - now, 2 ** 31 - 1));
  }

  #remove(ids) {
    const removed = ids.filter((id) => this.items.has(id));
    this.#change(removed, { read: true, seen: true });
    for (const id of removed) this.items.delete(id);
    if (removed.length) this.#changed({ removed });
  }

  #ready({ unread }) {
    this.#expire(); // timers stand still while the machine sleeps
    if (this.unread === null && typeof unread === "number") this.#count({ unread, unseen: this.unseen ?? unread });
    this.#flush();
  }

  /** Give these items those properties, and let the counts follow. */
  #change(ids, effect) {
    let [unread, unseen] = [0, 0];
    const changed = [];
    for (const id of ids) {
      const item = this.items.get(id);
      if (!item) continue;
      const old = { ...item };
      Object.assign(item, effect);
      if (!Object.keys(effect).some((key) => old[key] !== item[key])) continue;
      changed.push(id);
      unread += counted(item) - counted(old);
      unseen += (counted(item) && !item.seen) - (counted(old) && !old.seen);
    }
    if (!changed.length) return;
    this.#count({ unread: plus(this.unread, unread), unseen: plus(this.unseen, unseen) });
    this.#changed({ changed });
  }

  #count({ unread = this.unread, unseen = this.unseen }) {
    if (unread !== null && unseen !== null) unseen = Math.min(unread, unseen);
    if (unread === this.unread && unseen === this.unseen) return;
    Object.assign(this, { unread, unseen });
    this.dispatchEvent(new CustomEvent("counts"));
  }

  #changed({ added = [], changed = [], removed = [] }) {
    this.dispatchEvent(new CustomEvent("change", { detail: { added, changed, removed } }));
  }

  #merge(answer, meanwhile, newest) {
    const { results } = answer;
    const listed = new Set(results.map(({ id }) => id));
    for (const item of results) this.items.set(item.id, { ...this.items.get(item.id), ...item });
    this.kinds = answer.kinds ?? this.kinds;
    if (newest) this.#newest = Math.max(this.#newest, ...listed);
    this.#expire();
    let { unread, unseen } = answer;
    const redo = ({ all, action, ids }) =>
      this.#change(all ? [...listed] : ids.filter((id) => listed.has(id)), all ?? EFFECTS[action]);
    for (const [type, data] of meanwhile) {
      // The answer may have been written before these happened; applying them again changes nothing if it was not.
      if (type === "done") redo(data);
      else if (type !== "notification") this.#apply(type, data);
      else if (this.items.has(data.id) && !listed.has(data.id)) {
        const replaced = this.#replaced(data);
        const change = 1 - replaced.filter((id) => counted(this.items.get(id))).length;
        this.#remove(replaced);
        [unread, unseen] = [plus(unread, change), plus(unseen, change)];
      }
      unread = data.unread ?? unread;
      unseen = data.unseen ?? (type === "seen" ? this.unseen : unseen);
    }
    this.#outbox.all.forEach(redo);
    if (!this.pending && (newest || !meanwhile.length)) this.#count({ unread, unseen });
  }

  // ---- what the server has to be told --------------------------------------------------------------------------

  #send(entry, effect, before, undo) {
    const key = this.#outbox.push(entry);
    this.#undo.set(key, undo);
    for (const [id, old] of before) {
      for (const type of ["read", "archived"]) {
        const [name, value] = [`${type} ${id}`, effect[type]];
        // Of what changes nothing the stream says nothing.
        if (value === undefined || value === old[type]) continue;
        const known = this.#echoes.get(name);
        const count = 1 + (known && this.#awaits(known) ? Math.max(0, known.count) : 0);
        this.#echoes.set(name, { value, count, key, until: this.#env.now() + ECHO_MS });
      }
    }
    this.#flush();
  }

  async #flush() {
    if (this.#flushing || !this.pending) return;
    this.#flushing = true;
    this.#env.clearTimeout(this.#timer);
    try {
      const { locks } = this.#env;
      // One tab at a time: the queue is shared, and what is in it must not be sent twice.
      await (locks ? locks.request(this.#outbox.name, () => this.#deliver()) : this.#deliver());
      this.#backoff.reset();
    } catch {
      this.#timer = this.#env.setTimeout(() => this.#flush(), this.#backoff.next());
    } finally {
      this.#flushing = false;
    }
  }

  /** Say for whom this page was made: whoever else is logged in by now is not meant. */
  #sign(url) {
    if (this.#user) url.searchParams.set("for", this.#user);
    return url;
  }

  #post(path, body) {
    return this.#env.fetch(this.#sign(new URL(path, this.#url)), {
      method: "POST",
      headers: { Accept: "application/json", "X-CSRFToken": this.#csrf ?? "" },
      credentials: "same-origin",
      keepalive: true, // it may be the click that leaves the page
      body,
    });
  }

  async #deliver() {
    for (let entry; (entry = this.#outbox.all[0]); ) {
      const body = new URLSearchParams();
      for (const [name, value] of Object.entries(entry.body)) for (const one of [value].flat()) body.append(name, one);
      let response = await this.#post(entry.path, body);
      // Who logs in, in another tab, gets another token than this page has.
      const token = response.status === 403 && cookie(this.#env);
      if (token && token !== this.#csrf) {
        this.#csrf = token;
        response = await this.#post(entry.path, body);
      }
      if (response.status >= 500 || response.status === 429) throw new Error(`HTTP ${response.status}`);
      if (response.status === 401) return; // kept until this person is logged in again
      this.#outbox.remove(entry.key);
      const undo = this.#undo.get(entry.key);
      this.#undo.delete(entry.key);
      for (const [name, echo] of this.#echoes) {
        if (echo.key !== entry.key) continue;
        if (response.ok) echo.until = this.#env.now() + ECHO_MS;
        else this.#echoes.delete(name);
      }
      if (response.ok) {
        const counts = await response.json().catch(() => ({}));
        for (const meanwhile of this.#loads) meanwhile.push(["done", { ...entry, ...counts }]);
        if (!this.pending) this.#count(counts);
      } else {
        undo?.();
        this.dispatchEvent(new CustomEvent("rejected", { detail: { ...entry, status: response.status } }));
      }
    }
  }
}

const plus = (count, change) => {
  if (count === null || count === undefined) return null;
  // From "more than 99" there is no counting down.
  return count >= MANY ? MANY : Math.max(0, Math.min(MANY, count + change));
};

const cookie = ({ document }) => /(?:^|; )(?:__\w+-)?csrftoken=([^;]+)/.exec(document?.cookie ?? "")?.[1];

/** Entries in order, kept in the browser's storage, so that they outlive the tab, or else in memory. */
class Outbox {
  #memory = [];
  #storage;

  constructor(name, storage) {
    this.name = name;
    this.#storage = storage;
  }

  get all() {
    try {
      return this.#storage ? JSON.parse(this.#storage.getItem(this.name)) ?? [] : this.#memory;
    } catch {
      return this.#memory;
    }
  }

  push(entry) {
    const key = Math.random().toString(36).slice(2);
    this.#save([...this.all, { ...entry, key }]);
    return key;
  }

  remove(key) {
    this.#save(this.all.filter((entry) => entry.key !== key));
  }

  #save(entries) {
    this.#memory = entries;
    try {
      if (entries.length) this.#storage?.setItem(this.name, JSON.stringify(entries));
      else this.#storage?.removeItem(this.name);
    } catch {
      this.#storage = null; // full or forbidden: from here on in memory
    }
  }
}
