import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { NotificationClient, pagePlatform } from "../../notifications/static/notifications/notifications.js";
import { Spotlight } from "../../notifications/static/notifications/tabs.js";
import { FakeClock, URLS, fakeBrowser, fakeTab, json, note, ready, settle } from "./fakes.mjs";

let clock, browser;

beforeEach(() => {
  clock = new FakeClock();
  browser = fakeBrowser();
});

/** A tab with a client, whose connections the test serves: `tab.attempts`. */
async function open({ visible = true, cursor = "c0", fetch, ...options } = {}) {
  const tab = fakeTab(clock, browser, { visible });
  tab.attempts = [];
  const opener = (name) => (config, port) => {
    const attempt = { name, port, cursor: config.cursor, closed: false, listened: [...config.types] };
    tab.attempts.push(attempt);
    return { close: () => (attempt.closed = true), listen: (type) => attempt.listened.push(type) };
  };
  const openers = { sse: opener("sse"), websocket: opener("websocket"), polling: opener("polling") };
  tab.polls = [];
  tab.answer = (url) => {
    tab.polls.push(url.searchParams.get("cursor"));
    return fetch ? fetch(url) : json({ events: [{ type: "ready", cursor: "c0", data: ready() }], cursor: "c0" });
  };
  tab.heard = [];
  tab.client = new NotificationClient({ ...URLS, cursor, openers, user: "u", hiddenAfter: 60_000, ...options }, tab);
  tab.client.addEventListener("event", ({ detail }) => tab.heard.push(detail));
  await settle();
  return tab;
}

const attempt = (tab) => tab.attempts.at(-1);
const send = (tab, type, cursor, data) => attempt(tab).port.event(type, cursor, data);
const accept = async (tab) => {
  send(tab, "ready", tab.client.cursor || "c0", ready());
  await settle();
};
const notes = (tab) => tab.heard.filter(({ type }) => type === "notification").map(({ data }) => data.seq);
const noted = (seq) => ({ type: "notification", cursor: `c${seq}`, data: note(seq) });
const denied = async () => {
  throw new DOMException("denied", "SecurityError");
};
const connections = (...tabs) => tabs.map((tab) => tab.attempts.filter(({ closed }) => !closed).length);

test("a tab that catches up says for whom it was made", async () => {
  const leader = await open();
  await accept(leader);
  send(leader, "notification", "c1", note(1));
  const other = await open({ cursor: "long ago" });
  await clock.advance(1000);
  assert.deepEqual(other.requests.map(({ url }) => url.searchParams.get("for")), ["u"]);
});

test("where locks are denied each tab has its own connection, and asks once", async () => {
  let asked = 0;
  browser.locks = { request: () => ((asked += 1), denied()) };
  const tabs = [await open(), await open()];
  for (const tab of tabs) await accept(tab);
  send(tabs[0], "notification", "c1", note(1));
  await clock.advance(60_000);
  assert.deepEqual([asked, ...connections(...tabs)], [2, 1, 1]);
  assert.deepEqual(tabs.map(notes), [[1], []]);
});

test("where storage is denied no locks are asked for", (t) => {
  const original = Object.getOwnPropertyDescriptors(globalThis);
  t.after(() => {
    for (const name of ["localStorage", "navigator"]) {
      if (original[name]) Object.defineProperty(globalThis, name, original[name]);
      else delete globalThis[name];
    }
  });
  const locks = {};
  Object.defineProperty(globalThis, "navigator", { configurable: true, value: { locks } });
  Object.defineProperty(globalThis, "localStorage", { configurable: true, value: {} });
  assert.equal(pagePlatform().locks, locks);
  Object.defineProperty(globalThis, "localStorage", {
    configurable: true,
    get() {
      throw new DOMException("denied", "SecurityError");
    },
  });
  assert.ok(!pagePlatform().locks);
});

test("where locks are denied a tab is looked at while it is visible, and asks once", async () => {
  const tab = fakeTab(clock, browser);
  let asked = 0;
  tab.locks = { request: () => ((asked += 1), denied()) };
  const spotlight = new Spotlight("spotlight", tab);
  await settle();
  assert.deepEqual([asked, spotlight.on], [1, true]);
  tab.show("hidden");
  assert.equal(spotlight.on, false);
});

test("a page whose network goes says so at once, in all tabs", async () => {
  const leader = await open();
  await accept(leader);
  const other = await open({ visible: false });
  assert.deepEqual([leader.client.readyState, other.client.readyState], [1, 1]);
  for (const { window } of [leader, other]) window.dispatchEvent(new Event("offline"));
  await settle();
  assert.deepEqual([leader.client.readyState, other.client.readyState, leader.client.state.reason], [0, 0, "offline"]);
});

test("each event reaches the client, its document and its kind, once", async () => {
  const tab = await open();
  const log = [];
  tab.client.on("order.shipped", (data, envelope) => log.push(["kind", data.seq, envelope.cursor]));
  tab.client.on("order.*", (data) => log.push(["prefix", data.seq]));
  tab.client.on("notification", (data) => log.push(["type", data.seq]));
  tab.document.addEventListener("notifications:notification", ({ detail }) => log.push(["document", detail.seq, detail.cursor]));
  await accept(tab);
  send(tab, "notification", "c1", note(1, { kind: "order.shipped" }));
  send(tab, "notification", "c1", note(1, { kind: "order.shipped" }));
  assert.deepEqual(log, [["kind", 1, "c1"], ["prefix", 1], ["type", 1], ["document", 1, "c1"]]);
});

test("on returns what ends it, and heeds a signal", async () => {
  const tab = await open();
  const log = [];
  const abort = new AbortController();
  const off = tab.client.on("a", () => log.push("off"));
  tab.client.on("a", () => log.push("signal"), { signal: abort.signal });
  await accept(tab);
  off();
  abort.abort();
  send(tab, "a", "c1", {});
  assert.deepEqual(log, []);
});

test("types that are listened for are told to the transport, also later and from other tabs", async () => {
  const leader = await open();
  leader.client.on("a", () => {});
  assert.ok(attempt(leader).listened.includes("a"));
  const other = await open();
  other.client.addEventListener("b", () => {});
  await settle();
  assert.ok(attempt(leader).listened.includes("b"));
});

test("duplicates are dropped by topic and number, other topics are not touched", async () => {
  const tab = await open();
  await accept(tab);
  for (const seq of [1, 2, 2, 1, 3]) send(tab, "notification", `c${seq}`, note(seq));
  send(tab, "notification", "d1", note(1, { topic: "everyone" }));
  assert.deepEqual(notes(tab), [1, 2, 3, 1]);
});

test("reset forgets the numbers of its topic, or of all", async () => {
  const tab = await open();
  await accept(tab);
  const deliver = () => {
    send(tab, "notification", "c", note(1));
    send(tab, "notification", "c", note(1, { topic: "everyone" }));
  };
  deliver();
  send(tab, "reset", "c", { topic: "everyone", reason: "epoch" });
  deliver();
  send(tab, "reset", "c", { topic: "*", reason: "malformed" });
  deliver();
  const topics = tab.heard.filter(({ type }) => type === "notification").map(({ data }) => data.topic);
  assert.deepEqual(topics, ["user:1", "everyone", "everyone", "user:1", "everyone"]);
});

test("events without a number are never taken for duplicates", async () => {
  const tab = await open();
  await accept(tab);
  send(tab, "error", "", { code: 1, message: "x" });
  send(tab, "error", "", { code: 1, message: "x" });
  assert.equal(tab.heard.filter(({ type }) => type === "error").length, 2);
});

test("async iteration yields events in order and ends with the client", async () => {
  const tab = await open();
  await accept(tab);
  const seen = [];
  const done = (async () => {
    for await (const { type, data } of tab.client) seen.push([type, data.seq]);
  })();
  await settle();
  send(tab, "notification", "c1", note(1));
  send(tab, "notification", "c2", note(2));
  await settle();
  tab.client.close();
  await done;
  assert.deepEqual(seen, [["notification", 1], ["notification", 2]]);
});

test("close and AbortSignal end the connection; the last client of a page closes it", async () => {
  const tab = await open();
  const abort = new AbortController();
  const second = new NotificationClient({ ...URLS, user: "u", signal: abort.signal }, tab);
  await accept(tab);
  assert.equal(second.readyState, NotificationClient.OPEN, "shares the page's connection");
  tab.client.close();
  assert.deepEqual(connections(tab), [1]);
  abort.abort();
  assert.deepEqual([connections(tab), second.readyState, clock.waiting], [[0], NotificationClient.CLOSED, 0]);
  new NotificationClient({ ...URLS, signal: AbortSignal.abort() }, tab);
});

test("use carries this tab over another transport, from the same cursor; unknown ones are refused", async () => {
  const tab = await open();
  await accept(tab);
  send(tab, "notification", "c7", note(7));
  tab.client.use("websocket");
  await settle();
  assert.deepEqual([attempt(tab).name, attempt(tab).cursor, connections(tab)], ["websocket", "c7", [1]]);
  assert.throws(() => tab.client.use("pigeon"), TypeError);
});

test("who changes the transport before it is known who leads leaves nothing of itself in the line", async () => {
  const leader = await open();
  await accept(leader);
  const tab = await open({ transport: "polling" });
  tab.client.use("auto");
  tab.client.use("websocket");
  await settle();
  assert.deepEqual([attempt(tab).name, connections(tab)], ["websocket", [1]]);
  leader.client.close();
  const next = await open();
  assert.deepEqual(connections(tab, next), [1, 1]);
});

test("thirty tabs, one connection; each hears everything once", async () => {
  const tabs = [];
  for (let i = 0; i < 30; i += 1) tabs.push(await open({ visible: i === 29 }));
  await accept(tabs[0]);
  for (let seq = 1; seq <= 50; seq += 1) send(tabs[0], "notification", `c${seq}`, note(seq));
  await settle();
  assert.equal(connections(...tabs).reduce((a, b) => a + b), 1);
  const all = Array.from({ length: 50 }, (_, i) => i + 1);
  for (const tab of tabs) assert.deepEqual(notes(tab), all);
  assert.equal(tabs[29].client.readyState, NotificationClient.OPEN);
  assert.deepEqual([tabs[0].client.state.leading, tabs[29].client.state.leading], [true, false]);
});

test("a tab rendered at the leader's very cursor needs no request of its own", async () => {
  const leader = await open();
  await accept(leader);
  send(leader, "notification", "c1", note(1));
  send(leader, "notification", "c2", note(2));
  const same = await open({ cursor: "c2" });
  const earlier = await open({ cursor: "c1" });
  assert.deepEqual([same.polls, earlier.polls, notes(same), notes(earlier)], [[], [], [], [2]]);
});

test("a tab rendered at a place the leader does not know reads the gap once, and holds back what comes meanwhile", async () => {
  const leader = await open();
  await accept(leader);
  let answer;
  const late = await open({ cursor: "old", fetch: () => new Promise((resolve) => (answer = resolve)) });
  assert.deepEqual(late.polls, ["old"]);
  send(leader, "notification", "c4", note(4));
  await settle();
  assert.deepEqual(notes(late), [], "4 must not be taken for everything up to 4");
  answer(json({ events: [2, 3, 4].map(noted) }));
  await settle();
  send(leader, "notification", "c5", note(5));
  await settle();
  assert.deepEqual(notes(late), [2, 3, 4, 5]);
});

test("what a new page shows already is not taken from a leader that is behind it", async () => {
  const leader = await open();
  const begin = { type: "ready", cursor: "c30", data: ready({ positions: { "user:1": 30 } }) };
  const rendered = await open({ cursor: "c30", fetch: () => json({ events: [begin], cursor: "c30", retry: 5000 }) });
  await accept(leader);
  for (let seq = 29; seq <= 32; seq += 1) send(leader, "notification", `c${seq}`, note(seq));
  await settle();
  assert.deepEqual([notes(leader), notes(rendered)], [[29, 30, 31, 32], [31, 32]]);
});

test("a gap longer than one answer is read to its end, also when the line goes in between", async () => {
  const leader = await open();
  await accept(leader);
  const answers = [[[1, 2], "c2", 0], null, [[3], "c3-muted", 0], [[4, 5], "c5", 5000]];
  const late = await open({
    cursor: "old",
    fetch: () => {
      const [seqs, cursor, retry] = answers.shift();
      return json({ events: seqs.map(noted), cursor, retry });
    },
  });
  send(leader, "notification", "c4", note(4));
  send(leader, "notification", "c5", note(5));
  await settle();
  assert.deepEqual(notes(late), [1, 2], "5 must not be taken for everything up to 5");
  await clock.advance(8000);
  assert.deepEqual(notes(late), [1, 2, 3, 4, 5]);
  assert.deepEqual(late.polls, ["old", "c2", "c2", "c3-muted"]);
});

test("a tab that does not know yet who leads holds back what it hears", async () => {
  const leader = await open();
  await accept(leader);
  const opening = open({ cursor: "old", fetch: () => json({ events: [1, 2].map(noted), cursor: "c2" }) });
  send(leader, "notification", "c2", note(2));
  assert.deepEqual(notes(await opening), [1, 2]);
});

test("when the gap can not be read it is tried again", async () => {
  const leader = await open();
  await accept(leader);
  let line = false;
  const late = await open({
    cursor: "old",
    fetch: () => {
      if (!line) throw new TypeError("network");
      return json({ events: [1, 2].map(noted) });
    },
  });
  send(leader, "notification", "c2", note(2));
  line = true;
  await clock.advance(8000);
  assert.deepEqual(notes(late), [1, 2]);
});

test("the leader closes: the next tab takes over from its own cursor, at once", async () => {
  const [one, two, three] = [await open(), await open(), await open()];
  await accept(one);
  send(one, "notification", "c1", note(1));
  await settle();
  one.window.dispatchEvent(new Event("pagehide"));
  await settle();
  assert.deepEqual([connections(one, two, three), attempt(two).cursor], [[0, 1, 0], "c1"]);
  await accept(two);
  // The server replays what the old leader may have heard and not passed on.
  send(two, "notification", "c2", note(2));
  await settle();
  assert.deepEqual([notes(two), notes(three)], [[1, 2], [1, 2]]);
});

/** The leader's page hangs for a while: nothing of its own runs any more. */
async function hang() {
  const original = browser.BroadcastChannel.prototype.postMessage;
  browser.BroadcastChannel.prototype.postMessage = function (message) {
    if (message.is !== "pong") original.call(this, message);
  };
  await clock.advance(6500);
  browser.BroadcastChannel.prototype.postMessage = original;
}

test("a leader that hangs does not answer, and the lead is taken from it by a visible tab", async () => {
  const hung = await open({ visible: false });
  const other = await open({ visible: true });
  await accept(hung);
  await clock.advance(0);
  await hang();
  assert.deepEqual(connections(other), [1]);
  assert.deepEqual(connections(hung), [0], "and once it runs again it knows that it lost the lead");
  assert.equal(other.client.state.leading, true);
});

test("a frozen leader lets go; on its return it follows and catches up", async () => {
  const [one, two] = [await open(), await open()];
  await accept(one);
  one.document.dispatchEvent(new Event("freeze"));
  await settle();
  assert.deepEqual(connections(one, two), [0, 1]);
  await accept(two);
  send(two, "notification", "c1", note(1));
  await settle();
  assert.deepEqual(notes(one), []);
  one.document.dispatchEvent(new Event("resume"));
  await settle();
  assert.deepEqual([notes(one), connections(one, two)], [[1], [0, 1]]);
});

test("back from the page cache: joins again and catches up", async () => {
  const [one, two] = [await open(), await open()];
  await accept(one);
  two.window.dispatchEvent(new Event("pagehide"));
  send(one, "notification", "c1", note(1));
  await settle();
  const shown = new Event("pageshow");
  shown.persisted = true;
  two.window.dispatchEvent(shown);
  await settle();
  assert.deepEqual(notes(two), [1]);
});

test("given up for good: followers hear of it and do not all try themselves; a new tab begins afresh", async () => {
  const [one, two] = [await open(), await open()];
  attempt(one).port.end({ status: 401, reason: "HTTP 401" });
  await settle();
  assert.deepEqual([one.client.readyState, two.client.readyState, two.attempts.length], [2, 2, 0]);
  assert.equal(two.client.state.reason, "unauthorized");
  const fresh = await open();
  assert.equal(fresh.attempts.length, 1);
  await accept(fresh);
  send(fresh, "notification", "c1", note(1));
  await settle();
  assert.deepEqual([notes(two), two.client.readyState], [[1], 1]);
});

test("given up for good: no tab asks again, however long and often somebody looks at it", async () => {
  const tabs = [await open(), await open(), await open({ cursor: "old", fetch: () => json({}, { status: 401 }) })];
  const asked = () => tabs.map((tab) => tab.attempts.length + tab.polls.length);
  attempt(tabs[0]).port.end({ status: 401, reason: "HTTP 401" });
  await settle();
  const before = asked();
  for (const state of ["hidden", "visible"]) {
    for (const tab of tabs) tab.show(state);
    await clock.advance(60_000);
  }
  assert.deepEqual([asked(), tabs.map((tab) => tab.client.readyState)], [before, [2, 2, 2]]);
});

test("logged in again in another tab: who led before and who followed get what came meanwhile, and stand in the line", async () => {
  const missed = () => json({ events: [1, 2].map(noted) });
  const tabs = [await open({ fetch: missed }), await open({ fetch: missed })];
  await accept(tabs[0]);
  send(tabs[0], "bye", "", { reason: "revoked", retry: null });
  await clock.advance(1000);
  attempt(tabs[0]).port.end({ status: 401, reason: "HTTP 401" });
  await clock.advance(10_000);
  const leader = await open({ cursor: "c2", visible: false });
  await accept(leader);
  send(leader, "notification", "c3", note(3));
  await settle();
  for (const { client } of tabs) assert.deepEqual([client.readyState, client.state.leading], [1, false]);
  assert.deepEqual(tabs.map(notes), [[1, 2, 3], [1, 2, 3]]);
  const next = await open({ cursor: "c3" });
  assert.deepEqual([next.client.readyState, next.polls], [1, []]);
  next.client.close();
  await hang();
  assert.deepEqual(connections(leader), [0], "they keep an eye on the new leader");
});

test("a tab that begins as it did last time leads all the same", async () => {
  browser.storage.setItem("notifications.transport", "polling");
  const [one, two] = [await open({ visible: false }), await open()];
  await accept(one);
  await clock.advance(10_000);
  assert.deepEqual([connections(one, two), one.attempts[0].name], [[1, 0], "polling"]);
  two.client.close();
  one.client.close();
  const next = await open();
  assert.deepEqual(connections(next), [1]);
});

test("tabs told to use another transport do not share with the others", async () => {
  const [auto, fixed] = [await open(), await open({ transport: "websocket" })];
  assert.deepEqual(connections(auto, fixed), [1, 1]);
  assert.equal(attempt(fixed).name, "websocket");
});

test("people never share", async () => {
  const [one, two] = [await open({ user: "a" }), await open({ user: "b" })];
  await accept(one);
  await accept(two);
  send(one, "notification", "c1", note(1));
  await settle();
  assert.deepEqual([notes(two), connections(one, two)], [[], [1, 1]]);
});

test("without Web Locks each tab has its own connection", async () => {
  browser = fakeBrowser({ shared: false });
  assert.deepEqual(connections(await open(), await open()), [1, 1]);
});

test("headers are this page's alone: no sharing, and no WebSocket, which can not send them", async () => {
  const headers = { Authorization: "Bearer x" };
  const [one, two] = [await open({ headers, transports: ["websocket", "sse"] }), await open({ headers })];
  assert.deepEqual([connections(one, two), attempt(one).name], [[1, 1], "sse"]);
});

test("hidden for a while the page closes its connection, and resumes when it is looked at", async () => {
  const tab = await open();
  await accept(tab);
  send(tab, "notification", "c3", note(3));
  tab.show("hidden");
  await clock.advance(30_000);
  send(tab, "heartbeat", "", {});
  await clock.advance(30_000);
  assert.deepEqual([connections(tab), tab.client.state.reason], [[0], "paused"]);
  tab.show("visible");
  await settle();
  assert.deepEqual([connections(tab), attempt(tab).cursor], [[1], "c3"]);
});

test("opened in the background, or carried over another transport there, it rests as well", async () => {
  for (const share of [true, false]) {
    const tab = await open({ visible: false, share });
    for (const way of ["sse", "websocket"]) {
      assert.deepEqual([attempt(tab).name, connections(tab)], [way, [1]]);
      await accept(tab);
      await clock.advance(30_000);
      send(tab, "heartbeat", "", {});
      await clock.advance(30_000);
      assert.deepEqual([connections(tab), tab.client.state.reason], [[0], "paused"]);
      tab.client.use("websocket");
      await settle();
    }
    tab.client.close();
  }
  assert.equal(clock.waiting, 0);
});

test("a hidden leader stays connected for a tab that is looked at", async () => {
  const leader = await open();
  const looked = await open();
  await accept(leader);
  leader.show("hidden");
  for (let i = 0; i < 20; i += 1) {
    await clock.advance(10_000);
    send(leader, "heartbeat", "", {});
  }
  assert.deepEqual(connections(leader, looked), [1, 0]);
  looked.show("hidden");
  for (let i = 0; i < 13; i += 1) {
    await clock.advance(10_000);
    if (connections(leader)[0]) send(leader, "heartbeat", "", {});
  }
  assert.deepEqual(connections(leader, looked), [0, 0]);
  looked.show("visible");
  await settle();
  assert.deepEqual(connections(leader, looked), [1, 0]);
});

test("the page's state is told to its document", async () => {
  const tab = await open();
  const states = [];
  tab.document.addEventListener("notifications:state", ({ detail }) => states.push([detail.readyState, detail.transport]));
  await accept(tab);
  assert.deepEqual(states.at(-1), [1, "sse"]);
});
