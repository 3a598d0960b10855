import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { eventSource, polling, sse, websocket } from "../../notifications/static/notifications/transports.js";
import { FakeClock, fakeTab, json, note, ready, settle } from "./fakes.mjs";

let clock, env, port, log;

beforeEach(() => {
  clock = new FakeClock();
  env = fakeTab(clock);
  log = [];
  port = {
    event: (type, cursor, data) => log.push([type, cursor, data]),
    retry: (ms) => log.push(["retry", ms]),
    end: (info) => log.push(["end", info]),
  };
});

const config = (more) => ({ url: "/notifications/stream/", cursor: "c1", env, ...more });
const ended = () => log.filter(([type]) => type === "end").map(([, info]) => info);
/** Streams are read by real machinery: give it real turns. */
const turns = async () => {
  for (let i = 0; i < 5; i += 1) await new Promise((resolve) => setImmediate(resolve));
};

test("sse asks for an event stream from the cursor", async () => {
  sse(config({ headers: { Authorization: "Bearer x" } }), port);
  await settle();
  const [request] = env.requests;
  assert.equal(request.url.href, "https://site.example/notifications/stream/?cursor=c1");
  assert.equal(request.headers.Accept, "text/event-stream");
  assert.equal(request.headers.Authorization, "Bearer x");
  assert.equal(request.cache, "no-store");
});

test("each of them says for whom the page was made, where it knows", async () => {
  for (const open of [sse, polling, websocket, eventSource]) {
    const { close } = open(config({ user: "k e+y" }), port);
    await settle();
    close();
  }
  const addresses = [...env.requests.map(({ url }) => url), ...[env.WebSocket, env.EventSource].map(({ all }) => new URL(all[0].url))];
  assert.deepEqual(addresses.map((url) => url.searchParams.get("for")), ["k e+y", "k e+y", "k e+y", "k e+y"]);
});

test("sse passes on events of any type, retry and the end", async () => {
  sse(config(), port);
  await settle();
  const [stream] = env.streams;
  stream.write("retry: 2500\n\n");
  stream.send("ready", ready(), "c1");
  stream.send("order.progress", { percent: 5 }, "c2");
  stream.send("heartbeat", {});
  stream.end();
  await turns();
  assert.deepEqual(log, [
    ["retry", 2500],
    ["ready", "c1", ready()],
    ["order.progress", "c2", { percent: 5 }],
    ["heartbeat", "c2", {}],
    ["end", { reason: "closed" }],
  ]);
});

test("sse passes over data that is not JSON", async () => {
  sse(config(), port);
  await settle();
  env.streams[0].write("data: {oops\n\ndata: 1\n\n");
  await turns();
  assert.deepEqual(log, [["message", "c1", 1]]);
});

test("sse reports a refusal with its status and what Retry-After asks", async () => {
  env.answer = () => json({}, { status: 429, headers: { "Retry-After": "7" } });
  sse(config(), port);
  await settle();
  assert.deepEqual(ended(), [{ reason: "HTTP 429", status: 429, wait: 7000 }]);
});

test("sse takes a page instead of a stream for a proxy's", async () => {
  env.answer = () => new Response("<h1>Welcome to the hotel</h1>", { headers: { "Content-Type": "text/html" } });
  sse(config(), port);
  await settle();
  assert.deepEqual(ended(), [{ reason: "blocked" }]);
});

test("sse reports a line that breaks, before and in the stream", async () => {
  env.answer = () => Promise.reject(new TypeError("network"));
  sse(config(), port);
  await settle();
  assert.deepEqual(ended(), [{ reason: "network" }]);
  log.length = 0;
  env.answer = fakeTab(clock).answer;
  const tab = fakeTab(clock);
  sse({ ...config(), env: tab }, port);
  await settle();
  tab.streams[0].fail();
  await turns();
  assert.deepEqual(ended(), [{ reason: "network" }]);
});

test("sse closed is closed on the wire", async () => {
  const link = sse(config(), port);
  await settle();
  link.close();
  assert.equal(env.streams[0].closed, true);
});

test("EventSource hears the types it knows and those it is told", () => {
  const link = eventSource(config({ types: ["a"] }), port);
  link.listen("b");
  link.listen("b");
  const [source] = env.EventSource.all;
  assert.equal(source.url, "https://site.example/notifications/stream/?cursor=c1");
  for (const type of ["ready", "a", "b", "c"]) source.send(type, { type }, "c2");
  assert.deepEqual(log.map(([type]) => type), ["ready", "a", "b"]);
});

test("EventSource tells an event of type error from a failure", async () => {
  eventSource(config(), port);
  const [source] = env.EventSource.all;
  source.send("error", { code: 1, message: "x" });
  assert.deepEqual(log, [["error", "", { code: 1, message: "x" }]]);
  source.fail();
  await settle();
  assert.deepEqual(ended(), [{ reason: "closed" }]);
  assert.equal(source.closed, true, "it must not reconnect by itself");
});

test("EventSource hides the status: a request of our own finds it out", async () => {
  env.answer = () => json({}, { status: 401 });
  eventSource(config(), port);
  env.EventSource.all[0].fail();
  await settle();
  assert.deepEqual(ended(), [{ reason: "HTTP 401", status: 401, wait: null }]);
});

test("EventSource that fails where a stream answers is blocked; where nothing answers it is the line", async () => {
  eventSource(config(), port);
  env.EventSource.all[0].fail();
  await settle();
  env.answer = () => Promise.reject(new TypeError("network"));
  eventSource(config(), port);
  env.EventSource.all[1].fail();
  await settle();
  assert.deepEqual(ended(), [{ reason: "blocked" }, { reason: "network" }]);
});

test("websocket connects with the subprotocol and the page's security", () => {
  websocket(config({ url: "/ws/notifications/" }), port);
  const [socket] = env.WebSocket.all;
  assert.equal(socket.url, "wss://site.example/ws/notifications/?cursor=c1");
  assert.equal(socket.protocol, "notifications.v1");
});

test("websocket passes on frames and passes over what is not one", () => {
  websocket(config(), port);
  const [socket] = env.WebSocket.all;
  socket.frame("notification", note(1), "c2");
  socket.onmessage({ data: "nonsense" });
  socket.onmessage({ data: "null" });
  assert.deepEqual(log, [["notification", "c2", note(1)]]);
});

test("websocket acknowledges each 128 KiB, and nothing before", async () => {
  websocket(config(), port);
  const [socket] = env.WebSocket.all;
  socket.frame("notification", note(1), "c2");
  await clock.advance(3_600_000);
  assert.deepEqual(socket.sent, []);
  socket.frame("notification", note(2, { body: "x".repeat(140_000) }), "c3");
  await clock.advance(0);
  assert.deepEqual(socket.sent, [{ type: "ack", cursor: "c3" }]);
  socket.frame("notification", note(3, { body: "x".repeat(140_000) }), "c4");
  socket.frame("notification", note(4), "c5");
  await clock.advance(0);
  assert.equal(socket.sent.length, 1, "not faster than the server lets frames in");
  await clock.advance(60);
  assert.deepEqual(socket.sent[1], { type: "ack", cursor: "c5" });
  await clock.advance(3_600_000);
  assert.equal(socket.sent.length, 2);
});

test("websocket acknowledges for the first time somewhere between 64 and 128 KiB", async () => {
  for (const [random, length] of [[0, 131_072], [0.5, 98_304], [1, 65_536]]) {
    env.random = () => random;
    websocket(config(), port);
    const socket = env.WebSocket.all.at(-1);
    socket.frame("notification", note(1, { body: "x".repeat(length - 1000) }), "c2");
    await clock.advance(1000);
    assert.equal(socket.sent.length, 0);
    socket.frame("notification", note(2, { body: "x".repeat(1000) }), "c3");
    await clock.advance(1000);
    assert.deepEqual(socket.sent, [{ type: "ack", cursor: "c3" }]);
    socket.frame("notification", note(3, { body: "x".repeat(120_000) }), "c4");
    await clock.advance(1000);
    assert.equal(socket.sent.length, 1, "from then on after each 128 KiB");
  }
});

test("websocket counts bytes, as the server does, and not letters", async () => {
  env.random = () => 0;
  websocket(config(), port);
  const [socket] = env.WebSocket.all;
  socket.frame("notification", note(1, { body: "界".repeat(43_000) }), "c2");
  await clock.advance(1000);
  assert.equal(socket.sent.length, 0);
  socket.frame("notification", note(2, { body: "界".repeat(1000) }), "c3");
  await clock.advance(1000);
  assert.equal(socket.sent.length, 1);
});

test("websocket never sends more than the server's 20 frames a second, however much comes", async () => {
  websocket(config(), port);
  const [socket] = env.WebSocket.all;
  for (let i = 0; i < 200; i += 1) {
    socket.frame("notification", note(i, { body: "x".repeat(140_000) }), `c${i}`);
    await clock.advance(5);
  }
  assert.ok(socket.sent.length >= 10 && socket.sent.length <= 20, String(socket.sent.length));
});

test("websocket tells a refused handshake from a lost connection and a verdict", () => {
  for (const code of [1006, 4401]) {
    websocket(config(), port);
    env.WebSocket.all.at(-1).drop(code);
  }
  websocket(config(), port);
  env.WebSocket.all.at(-1).frame("ready", ready(), "c1");
  env.WebSocket.all.at(-1).drop(1006);
  assert.deepEqual(ended(), [
    { code: 1006, reason: "refused" },
    { code: 4401, reason: "closed" },
    { code: 1006, reason: "closed" },
  ]);
});

test("websocket closed by us reports nothing and acknowledges nothing", async () => {
  const link = websocket(config(), port);
  const [socket] = env.WebSocket.all;
  socket.frame("notification", note(1), "c2");
  log.length = 0;
  link.close();
  socket.drop();
  await clock.advance(5000);
  assert.deepEqual([log, socket.sent], [[], []]);
});

test("polling asks again from where it got, when the answer says", async () => {
  const answers = [
    { events: [{ type: "ready", cursor: "c1", data: ready() }, { type: "notification", cursor: "c2", data: note(1) }], cursor: "c2", retry: 3000 },
    { events: [{ type: "ready", cursor: "c2", data: ready() }], cursor: "c2", retry: 3000 },
  ];
  env.answer = () => json(answers.shift());
  const link = polling(config({ url: "/notifications/events/" }), port);
  await clock.advance(2999);
  assert.equal(env.requests.length, 1);
  await clock.advance(1);
  assert.equal(env.requests[1].url.searchParams.get("cursor"), "c2");
  assert.deepEqual(log.map(([type]) => type), ["ready", "notification", "ready"]);
  link.close();
  await clock.advance(60_000);
  assert.equal(env.requests.length, 2);
});

test("polling reports refusals, foreign pages and a broken line", async () => {
  const answers = [json({}, { status: 403 }), new Response("<h1>hotel</h1>"), json({ hello: 1 })];
  for (const answer of answers) {
    env.answer = () => answer;
    polling(config(), port);
    await settle();
  }
  env.answer = () => Promise.reject(new TypeError("network"));
  polling(config(), port);
  await settle();
  assert.deepEqual(ended().map(({ reason }) => reason), ["HTTP 403", "blocked", "blocked", "network"]);
});
