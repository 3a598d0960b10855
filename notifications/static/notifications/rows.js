/**
 * A notification as a row: a clone of the template that Django rendered, filled in as text: `data-field` says what goes
 * where (`data.order` is of the site's `data`), `data-link` what leads to its address.
 */
const FIELD = "[data-field]";

export function safeURL(address, base = location.href) {
  if (!address) return null;
  try {
    const url = new URL(address, base);
    if (url.origin === new URL(base).origin && url.origin !== "null") return url.href;
    return url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** Clone the row for an item: its kind's own template, or the one for all. */
export function createRow(root, item) {
  const templates = [...root.querySelectorAll("template[data-row]")];
  const template = templates.find(({ dataset }) => dataset.row === item.kind) ?? templates.find((t) => !t.dataset.row);
  const row = template.content.firstElementChild.cloneNode(true);
  const { dataset } = row;
  Object.assign(dataset, { id: item.id, kind: item.kind, level: item.level });
  for (const element of row.querySelectorAll(FIELD)) {
    const value = element.dataset.field.split(".").reduce((object, key) => object?.[key], item);
    const text = typeof value === "string" || typeof value === "number" ? String(value) : "";
    if (element.localName === "time") element.dateTime = text;
    else element.textContent = text;
    element.hidden = text === "";
  }
  for (const link of row.querySelectorAll("a[data-link]")) {
    const address = safeURL(item.url);
    if (address) Object.assign(link, { href: address, rel: "noopener" });
  }
  refreshTimes(row);
  updateRow(row, item);
  return row;
}

/** Show what changes in a row: read, archived. */
export function updateRow(row, { read, archived }) {
  row.toggleAttribute("data-read", Boolean(read));
  row.toggleAttribute("data-archived", Boolean(archived));
}

const language = () => document.documentElement.lang || undefined;
const STEPS = [
  ["minute", 60],
  ["hour", 3600],
  ["day", 86_400],
];

/** Return how long ago that was: "5 min. ago", or the date after a week. */
export function ago(date, now = Date.now()) {
  const seconds = (date - now) / 1000;
  const size = Math.abs(seconds);
  if (size >= 7 * 86_400) return new Intl.DateTimeFormat(language(), { dateStyle: "medium" }).format(date);
  const format = new Intl.RelativeTimeFormat(language(), { numeric: "auto", style: "short" });
  if (size < 60) return format.format(0, "second");
  const [unit, length] = STEPS.findLast(([, length]) => size >= length);
  return format.format(Math.trunc(seconds / length), unit);
}

export function refreshTimes(root) {
  for (const time of root.querySelectorAll("time[data-field]")) {
    const date = new Date(time.dateTime);
    if (Number.isNaN(date.getTime())) continue;
    time.textContent = ago(date);
    time.title = new Intl.DateTimeFormat(language(), { dateStyle: "full", timeStyle: "short" }).format(date);
  }
}

/**
 * Return the sentence for a number, of those that Django wrote into `data-forms` for sample numbers: the one whose sample
 * falls under the same of the browser's plural rules.
 */
export function plural(element, n, more = n) {
  const rules = new Intl.PluralRules(language());
  const forms = Object.entries(JSON.parse(element.dataset.forms));
  const [, form] = forms.find(([sample]) => Number(sample) === n) ??
    forms.find(([sample]) => sample !== "0" && rules.select(Number(sample)) === rules.select(n)) ?? forms.at(-1);
  return form.replace("{n}", typeof more === "string" ? more : formatted(more));
}

const formatted = (n) => new Intl.NumberFormat(language()).format(n);

/** A count as the badge shows it; the server counts to 100, which means more than 99. */
export const capped = (n) => (n >= 100 ? `${formatted(99)}+` : formatted(n));
