import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { FakeClock, URLS, fakeTab, json, note, settle } from "./fakes.mjs";

/** Just enough of React to run a hook: state, effects, an external store. */
const REACT = `
let cells, index, effects;
export function render(hook) {
  cells ??= []; index = 0; effects = [];
  const value = hook();
  for (const run of effects) run();
  return value;
}
export function unmount() { for (const cell of cells) cell?.cleanup?.(); cells = undefined; }
export function useState(initial) { const i = index++; cells[i] ??= [initial()]; return cells[i]; }
export function useEffect(fn) { const i = index++; if (!cells[i]) { cells[i] = {}; effects.push(() => (cells[i].cleanup = fn())); } }
export function useSyncExternalStore(subscribe, snapshot) { index++; return snapshot(); }
`;

test("the React hook of the documentation follows the inbox and closes what it opened", async () => {
  const docs = readFileSync(new URL("../../docs/client.md", import.meta.url), "utf8");
  const [, hook] = docs.match(/```jsx\n(.*?)```/s);
  assert.ok(hook.trim().split("\n").length <= 48);
  const folder = new URL("../../notifications/static/notifications/", import.meta.url).href;
  const made = mkdtempSync(`${tmpdir()}/react-`);
  const react = pathToFileURL(`${made}/react.mjs`);
  const file = pathToFileURL(`${made}/hook.mjs`);
  writeFileSync(react, REACT);
  writeFileSync(file, hook.replace('"react"', `"${react.href}"`).replaceAll('"/static/notifications/', `"${folder}`));
  const tab = fakeTab(new FakeClock());
  const rows = [{ id: 1, title: "one", read: false, seen: false, archived: false }];
  const { answer } = tab;
  tab.answer = (url, init) => {
    if (url.pathname === "/notifications/stream/") return answer(url, init);
    return json({ results: rows, next: null, unread: 1, unseen: 1, kinds: [] });
  };
  Object.assign(globalThis, { fetch: tab.fetch, document: tab.document, window: tab.window });
  globalThis.location = { href: tab.base };
  try {
    const { useNotifications } = await import(file.href);
    const { render, unmount } = await import(react.href);
    const options = { ...URLS, csrfToken: "t", share: false };
    const state = () => render(() => useNotifications(options));
    assert.deepEqual(state().notifications, []);
    await settle();
    const turn = () => new Promise((resolve) => setTimeout(resolve, 5));
    await turn();
    assert.deepEqual([state().unread, state().notifications.map(({ id }) => id)], [1, [1]]);
    tab.streams[0].send("ready", { cursor: "c", unread: null, heartbeat: 15_000 }, "c");
    tab.streams[0].send("notification", note(2), "c2");
    await turn();
    assert.deepEqual([state().readyState, state().unread, state().notifications.map(({ id }) => id)], [1, 2, [2, 1]]);
    state().act("archive", 1);
    assert.deepEqual(state().notifications.map(({ id }) => id), [2]);
    await turn();
    unmount();
    assert.equal(tab.streams[0].closed, true);
  } finally {
    for (const name of ["document", "window", "location"]) delete globalThis[name];
    rmSync(made, { recursive: true });
  }
});
