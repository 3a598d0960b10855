import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { Inbox } from "../../notifications/static/notifications/inbox.js";
import { FakeClock, URLS, fakeBrowser, fakeTab, json, note, settle } from "./fakes.mjs";

let clock, browser, tab, client, inbox, posts, verdict;

beforeEach(() => {
  clock = new FakeClock();
  browser = fakeBrowser();
  [client, tab, inbox] = open({ unread: 3, unseen: 2 });
});

function open(options) {
  const own = fakeTab(clock, browser);
  posts = [];
  verdict = () => json({ unread: 0, unseen: 0 });
  own.answer = (url, { method, body, headers }) => {
    if (method !== "POST") return own.page(url);
    posts.push([url.pathname, String(body)]);
    own.headers = headers;
    return verdict(url);
  };
  own.page = () => json({ results: [], next: null, unread: 0, unseen: 0, kinds: [] });
  const stream = new EventTarget();
  return [stream, own, new Inbox(stream, { ...URLS, csrfToken: "t0ken", user: "u", ...options }, own)];
}

const say = (type, detail) => client.dispatchEvent(new CustomEvent(type, { detail }));
const row = (id, more) => ({ id, kind: "message", title: `n${id}`, read: false, seen: false, archived: false, ...more });
const counts = () => [inbox.unread, inbox.unseen];
const serve = (rows, more) => {
  tab.page = () => json({ results: rows, next: null, unread: 3, unseen: 2, kinds: ["message"], ...more });
};

test("a notification is counted once, and not if a page brought it", async () => {
  serve([row(1)]);
  await inbox.load();
  say("notification", note(1));
  say("notification", note(2));
  say("notification", note(2));
  assert.deepEqual([counts(), [...inbox.items.keys()]], [[4, 3], [1, 2]]);
});

test("from 100 on the count says no more than that, in either direction", async () => {
  inbox.unread = 99;
  say("notification", note(1));
  say("notification", note(2));
  assert.equal(inbox.unread, 100);
  verdict = () => Promise.reject(new TypeError("network"));
  inbox.act("read", [1]);
  assert.equal(inbox.unread, 100);
});

test("read elsewhere: the row and the counts follow", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  const changes = [];
  inbox.addEventListener("change", ({ detail }) => changes.push(detail.changed));
  say("read", { ids: [1], read: true, unread: 2 });
  assert.deepEqual([inbox.items.get(1).read, inbox.unread, changes], [true, 2, [[1]]]);
  say("read", { ids: [1], read: false, unread: 3 });
  assert.deepEqual([inbox.items.get(1).read, inbox.unread], [false, 3]);
});

test("all read elsewhere, up to an id: what came after stays unread", async () => {
  serve([row(2), row(1)]);
  await inbox.load();
  say("notification", note(3));
  say("read", { all: true, before: 2, unread: 1 });
  assert.deepEqual([[1, 2, 3].map((id) => inbox.items.get(id).read), counts()], [[true, true, false], [1, 1]]);
});

test("the counts that an event brings are believed", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  say("read", { ids: [1], read: true, unread: 7, unseen: 4 });
  assert.deepEqual(counts(), [7, 4]);
  say("archived", { ids: [2], archived: true, unread: 6, unseen: 3 });
  assert.deepEqual(counts(), [6, 3]);
});

test("other preferences: the inbox is to be loaded again", () => {
  let resets = 0;
  inbox.addEventListener("reset", () => (resets += 1));
  say("preferences", { muted: ["sale"], unread: 1, unseen: 0 });
  assert.deepEqual([counts(), resets], [[1, 0], 1]);
});

test("seen elsewhere empties the badge and reads nothing", async () => {
  serve([row(1)]);
  await inbox.load();
  say("seen", { all: true, before: 1 });
  assert.deepEqual([inbox.items.get(1).read, counts()], [false, [3, 0]]);
});

test("archived and recalled elsewhere", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  say("archived", { ids: [1], archived: true, unread: 2 });
  assert.deepEqual([inbox.items.get(1).archived, inbox.unread], [true, 2]);
  say("recalled", { ids: [2, 99] });
  assert.deepEqual([inbox.items.has(2), inbox.unread], [false, 1]);
});

test("a newer one with the same tag takes the place of the older, and is not counted twice", () => {
  say("notification", note(1, { tag: "order-9" }));
  say("notification", note(2, { tag: "order-9" }));
  say("notification", note(3, { tag: "order-9", topic: "everyone" }));
  assert.deepEqual([[...inbox.items.keys()], counts()], [[2, 3], [5, 4]]);
});

test("what happens while a page is on its way is not undone by it", async () => {
  let answer;
  tab.page = () => new Promise((resolve) => (answer = resolve));
  const loading = inbox.load();
  await settle();
  say("read", { ids: [1], read: true, unread: 2 });
  say("notification", note(3));
  say("notification", note(2));
  answer(json({ results: [row(2), row(1)], next: null, unread: 4, unseen: 4, kinds: [] }));
  await loading;
  assert.equal(inbox.items.get(1).read, true);
  assert.equal(inbox.unread, 3, "the server's word after the read, and the one that the page did not have");
});

test("what is replaced while a page is on its way is not brought back by it", async () => {
  let send;
  tab.page = () => new Promise((resolve) => (send = resolve));
  const loading = inbox.load();
  await settle();
  say("notification", note(3, { tag: "order-9" }));
  send(json({ results: [row(2), row(1, { tag: "order-9" })], next: null, unread: 3, unseen: 2, kinds: [] }));
  await loading;
  assert.deepEqual([[...inbox.items.keys()].sort(), counts()], [[2, 3], [3, 2]]);
});

test("what the person does while a page is on its way is not undone by it", async () => {
  let send;
  tab.page = () => new Promise((resolve) => (send = resolve));
  const loading = inbox.load();
  verdict = () => json({ unread: 3, unseen: 0 });
  inbox.see();
  await settle();
  verdict = () => json({ unread: 2, unseen: 0 });
  inbox.act("read", [1]);
  await settle();
  assert.equal(inbox.pending, 0);
  send(json({ results: [row(1), row(2)], next: null, unread: 3, unseen: 2, kinds: [] }));
  await loading;
  assert.deepEqual([counts(), inbox.items.get(1).read, inbox.items.get(2).read], [[2, 0], true, false]);
});

test("seen elsewhere while a page is on its way: the badge stays empty", async () => {
  let send;
  tab.page = () => new Promise((resolve) => (send = resolve));
  const loading = inbox.load();
  say("seen", { all: true, before: 2 });
  send(json({ results: [row(1), row(2)], next: null, unread: 3, unseen: 2, kinds: [] }));
  await loading;
  assert.deepEqual(counts(), [3, 0]);
});

test("marks read at once, tells the server, and believes its counts", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  verdict = () => json({ unread: 7, unseen: 1 });
  inbox.act("read", [1]);
  assert.deepEqual([inbox.items.get(1).read, counts()], [true, [2, 1]]);
  await settle();
  assert.deepEqual([posts, tab.headers["X-CSRFToken"], counts()], [[["/notifications/1/read/", ""]], "t0ken", [7, 1]]);
});

test("several at once are one request", async () => {
  inbox.act("archive", [1, 2]);
  await settle();
  assert.deepEqual(posts, [["/notifications/bulk/", "action=archive&ids=1&ids=2"]]);
});

test("refused: everything is as it was, and it is said", async () => {
  serve([row(1)]);
  await inbox.load();
  verdict = () => json({}, { status: 404 });
  const rejected = [];
  inbox.addEventListener("rejected", ({ detail }) => rejected.push([detail.action, detail.ids, detail.status]));
  inbox.act("archive", [1]);
  assert.deepEqual([inbox.items.get(1).archived, inbox.unread], [true, 2]);
  await settle();
  assert.deepEqual([inbox.items.get(1).archived, inbox.unread, inbox.pending], [false, 3, 0]);
  assert.deepEqual(rejected, [["archive", [1], 404]]);
});

test("offline: kept, in order, and sent when the network is back", async () => {
  serve([row(1), row(2), row(3)]);
  await inbox.load();
  verdict = () => Promise.reject(new TypeError("network"));
  inbox.act("read", [1]);
  inbox.act("archive", [2]);
  inbox.act("read", [3]);
  await clock.advance(120_000);
  assert.deepEqual([inbox.pending, inbox.items.get(3).read], [3, true]);
  posts.length = 0;
  verdict = () => json({ unread: 0, unseen: 0 });
  tab.window.dispatchEvent(new Event("online"));
  await settle();
  assert.deepEqual(posts.map(([path]) => path), ["/notifications/1/read/", "/notifications/2/archive/", "/notifications/3/read/"]);
  assert.deepEqual([inbox.pending, counts()], [0, [0, 0]]);
});

test("what was done offline outlives the tab, and shows in the next one before the server knows", async () => {
  verdict = () => Promise.reject(new TypeError("network"));
  inbox.act("read", [1]);
  await settle();
  inbox.close();
  [client, tab, inbox] = open({});
  verdict = () => Promise.reject(new TypeError("network"));
  serve([row(1), row(2)]);
  await inbox.load();
  assert.deepEqual([inbox.items.get(1).read, inbox.items.get(2).read], [true, false]);
  verdict = () => json({ unread: 1, unseen: 0 });
  posts.length = 0;
  say("ready", { unread: null });
  await settle();
  assert.deepEqual([posts, inbox.unread], [[["/notifications/1/read/", ""]], 1]);
});

test("a server in trouble is asked again, with patience", async () => {
  verdict = () => json({}, { status: 503 });
  inbox.act("read", [1]);
  await clock.advance(7000);
  assert.equal(posts.length, 4, "at 0, 1, 3 and 7 seconds");
});

test("two tabs do not send the same twice", async () => {
  verdict = () => Promise.reject(new TypeError("network"));
  inbox.act("read", [1]);
  await settle();
  const [, other] = open({});
  verdict = () => Promise.reject(new TypeError("network"));
  await settle();
  posts.length = 0;
  verdict = () => json({ unread: 0, unseen: 0 });
  for (const { window } of [tab, other]) window.dispatchEvent(new Event("online"));
  await settle();
  assert.deepEqual(posts, [["/notifications/1/read/", ""]]);
});

const watch = () => {
  const changes = [];
  inbox.addEventListener("change", ({ detail }) => changes.push(...detail.changed));
  inbox.addEventListener("counts", () => changes.push(counts().join()));
  return changes;
};

for (const confirmed of [false, true]) {
  test(`archived and taken back before the stream told of it: nothing moves (${confirmed ? "" : "not "}confirmed)`, async () => {
    serve([row(1), row(2)]);
    await inbox.load();
    verdict = () => (confirmed ? json({ unread: 3, unseen: 2 }) : new Promise(() => {}));
    inbox.act("archive", [1]);
    inbox.act("unarchive", [1]);
    await settle();
    const changes = watch();
    say("archived", { ids: [1], archived: true, unread: 2, unseen: 1 });
    say("archived", { ids: [1], archived: false, unread: 3, unseen: 2 });
    assert.deepEqual([changes, counts()], [[], [3, 2]]);
  });
}

test("archived, taken back, archived again: the stream that comes after does not bring it back", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  verdict = () => json({ unread: 2, unseen: 1 });
  for (const action of ["archive", "unarchive", "archive"]) inbox.act(action, [1]);
  await settle();
  const changes = watch();
  for (const archived of [true, false, true]) say("archived", { ids: [1], archived, unread: archived ? 2 : 3 });
  assert.deepEqual([changes, inbox.items.get(1).archived, inbox.unread], [[], true, 2]);
});

test("all read, then one marked unread: the stream's word on all does not read that one", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  verdict = () => json({ unread: 1, unseen: 0 });
  inbox.readAll();
  inbox.act("unread", [2]);
  await settle();
  const changes = watch();
  say("read", { all: true, before: 2, unread: 0, unseen: 0 });
  say("read", { ids: [2], read: false, unread: 1, unseen: 0 });
  assert.deepEqual([changes, inbox.items.get(1).read, inbox.items.get(2).read], [[], true, false]);
});

test("what is done elsewhere after one's own doing was heard of is believed", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  verdict = () => json({ unread: 2, unseen: 1 });
  inbox.act("archive", [1]);
  say("archived", { ids: [1, 2], archived: true, unread: 1 }); // on the phone, with another one
  await settle();
  assert.deepEqual([1, 2].map((id) => inbox.items.get(id).archived), [true, true]);
  say("archived", { ids: [1], archived: false, unread: 2 });
  assert.deepEqual([inbox.items.get(1).archived, inbox.unread], [false, 2]);
});

test("a word that the stream owes for long is not waited for", async () => {
  serve([row(1), row(2)]);
  await inbox.load();
  verdict = () => json({ unread: 2, unseen: 1 });
  inbox.act("archive", [1]);
  await clock.advance(9000);
  say("archived", { ids: [1], archived: false, unread: 3 });
  assert.equal(inbox.items.get(1).archived, true);
  inbox.act("read", [2]);
  await clock.advance(11_000);
  say("read", { ids: [2], read: false, unread: 3 });
  assert.deepEqual([inbox.items.get(2).read, inbox.unread], [false, 3]);
});

test("what expires goes when its time has come, and not before", async () => {
  const at = (ms) => new Date(clock.now() + ms).toISOString();
  say("notification", note(1, { expires_at: at(60_000) }));
  say("notification", note(2, { expires_at: at(40 * 86_400_000) }));
  inbox.adopt([{ id: 9, expires_at: at(5000), read: true }]);
  await clock.advance(59_000);
  assert.deepEqual([...inbox.items.keys()], [1, 2]);
  await clock.advance(1000);
  assert.deepEqual([[...inbox.items.keys()], counts()], [[2], [4, 3]]);
  await clock.advance(39 * 86_400_000);
  assert.deepEqual([...inbox.items.keys()], [2]);
  await clock.advance(2 * 86_400_000);
  assert.deepEqual([...inbox.items.keys()], []);
});

test("what a replay brings when it is over is no news, but what it replaced goes", async () => {
  say("notification", note(1, { tag: "order-9" }));
  const added = [];
  inbox.addEventListener("change", ({ detail }) => added.push(...detail.added));
  const expires_at = new Date(clock.now() - 1000).toISOString();
  say("notification", note(2, { tag: "order-9", expires_at }));
  assert.deepEqual([[...inbox.items.keys()], added, counts()], [[], [], [3, 2]]);
  let send;
  tab.page = () => new Promise((resolve) => (send = resolve));
  const loading = inbox.load();
  await settle();
  say("notification", note(3, { expires_at }));
  send(json({ results: [], next: null, unread: 3, unseen: 2, kinds: [] }));
  await loading;
  assert.deepEqual(counts(), [3, 2]);
});

test("what expired while the machine slept, and its clocks with it, goes with the next connection", () => {
  say("notification", note(1, { expires_at: new Date(clock.now() + 60_000).toISOString() }));
  clock.time += 7_200_000;
  say("ready", { unread: null });
  assert.deepEqual([inbox.items.size, counts()], [0, [3, 2]]);
});

test("all read: here at once, there up to what the person knew of", async () => {
  serve([row(2), row(1)]);
  await inbox.load();
  inbox.readAll();
  assert.deepEqual([inbox.items.get(2).read, counts()], [true, [0, 0]]);
  await settle();
  assert.deepEqual(posts, [["/notifications/read-all/", "before=2"]]);
});

test("all read on an older page: there up to what its form says, or what came since", async () => {
  inbox.adopt([row(2), row(1)]);
  inbox.readAll(7);
  say("notification", note(8));
  inbox.readAll(7);
  await settle();
  assert.deepEqual(posts, [["/notifications/read-all/", "before=7"], ["/notifications/read-all/", "before=8"]]);
});

test("all read where a banner is all that is known, and older than others: the inbox is looked at first", async () => {
  inbox.adopt([row(1)]);
  serve([row(3), row(2), row(1)]);
  inbox.readAll();
  await settle();
  assert.deepEqual([posts, counts()], [[["/notifications/read-all/", "before=3"]], [0, 0]]);
});

test("all read without a line, and nothing known: not done, and said", async () => {
  const rejected = [];
  inbox.addEventListener("rejected", ({ detail }) => rejected.push(detail.status));
  tab.page = () => Promise.reject(new TypeError("network"));
  inbox.readAll();
  await settle();
  assert.deepEqual([posts, rejected, inbox.pending, counts()], [[], [0], 0, [3, 2]]);
});

test("seen is said once", async () => {
  inbox.see();
  inbox.see();
  await settle();
  assert.deepEqual([posts.length, counts()[1]], [1, 0]);
});

test("ready brings the count to a page that had none, and does not disturb one that had", () => {
  say("ready", { unread: 9 });
  assert.equal(inbox.unread, 3);
  [client, tab, inbox] = open({});
  say("ready", { unread: null });
  assert.equal(inbox.unread, null);
  say("ready", { unread: 9 });
  assert.deepEqual(counts(), [9, 9]);
});

test("a page that can not be loaded says so", async () => {
  tab.page = () => json({}, { status: 500 });
  await assert.rejects(inbox.load(), /500/);
});

test("asks for the view, and follows next as it is", async () => {
  await inbox.load({ status: "unread", kind: "order.shipped" });
  assert.equal(tab.requests.at(-1).url.search, "?status=unread&kind=order.shipped&format=json&for=u");
  await inbox.load({ next: "/notifications/?before=7" });
  assert.equal(tab.requests.at(-1).url.search, "?before=7&format=json&for=u");
});

test("each request says for whom the page was made, where it knows", async () => {
  serve([row(1)]);
  await inbox.load();
  inbox.act("read", [1]);
  inbox.readAll();
  await settle();
  assert.deepEqual(tab.requests.map(({ url }) => url.searchParams.get("for")), ["u", "u", "u"]);
  [client, tab, inbox] = open({ user: undefined });
  await inbox.load();
  assert.equal(tab.requests.at(-1).url.searchParams.get("for"), null);
});

test("logged out: what was done is kept, and sent when this person is back", async () => {
  serve([row(1)]);
  await inbox.load();
  verdict = () => json({}, { status: 401 });
  const rejected = [];
  inbox.addEventListener("rejected", ({ detail }) => rejected.push(detail));
  inbox.act("archive", [1]);
  await clock.advance(60_000);
  assert.deepEqual([posts.length, inbox.pending, rejected], [1, 1, []]);
  verdict = () => json({ unread: 2, unseen: 2 });
  say("ready", { unread: null });
  await settle();
  assert.deepEqual([posts.length, inbox.pending, inbox.items.get(1).archived], [2, 0, true]);
});

test("a token that is no longer good is replaced by the cookie's, once", async () => {
  tab.document.cookie = "theme=dark; csrftoken=n3w";
  const tokens = [];
  verdict = () => (tokens.push(tab.headers["X-CSRFToken"]), json({ unread: 1, unseen: 1 }, { status: tokens.at(-1) === "n3w" ? 200 : 403 }));
  inbox.act("read", [1]);
  await settle();
  inbox.act("read", [2]);
  await settle();
  assert.deepEqual([tokens, inbox.pending], [["t0ken", "n3w", "n3w"], 0]);
});

test("refused with the cookie's token as well: refused", async () => {
  serve([row(1)]);
  await inbox.load();
  tab.document.cookie = "csrftoken=n3w";
  verdict = () => json({}, { status: 403 });
  const rejected = [];
  inbox.addEventListener("rejected", ({ detail }) => rejected.push(detail.status));
  inbox.act("archive", [1]);
  await settle();
  assert.deepEqual([posts.length, inbox.pending, rejected, inbox.items.get(1).archived], [2, 0, [403], false]);
});
