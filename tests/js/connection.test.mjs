import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { CLOSED, CONNECTING, Connection, OPEN } from "../../notifications/static/notifications/connection.js";
import { FakeClock, fakeTab, note, ready, settle } from "./fakes.mjs";

let clock, env, attempts, events, states;

beforeEach(() => {
  clock = new FakeClock();
  env = fakeTab(clock);
  [attempts, events, states] = [[], [], []];
});

/** A connection over fake transports: each attempt lands in `attempts`, where the test plays the server. */
function connection(order = ["websocket", "sse", "polling"], more = {}) {
  const opener = (name) => (config, port) => {
    const attempt = { name, port, cursor: config.cursor, closed: false };
    attempts.push(attempt);
    return { close: () => (attempt.closed = true) };
  };
  const names = ["websocket", "sse", "polling"];
  return new Connection(
    {
      urls: Object.fromEntries(names.map((name) => [name, `/${name}/`])),
      openers: Object.fromEntries(names.map((name) => [name, opener(name)])),
      order,
      cursor: "c0",
      memory: "way",
      ...more,
    },
    { event: (...event) => events.push(event), state: (state) => states.push(state) },
    env,
  );
}

async function started(...args) {
  const it = connection(...args);
  it.start();
  await settle();
  return it;
}

const last = () => attempts.at(-1);
const accept = (attempt = last(), data) => attempt.port.event("ready", "c0", ready(data));
const names = () => attempts.map(({ name }) => name);

test("opens the first transport from the cursor, and is open at ready", async () => {
  const it = await started();
  assert.deepEqual([names(), last().cursor, it.state.readyState], [["websocket"], "c0", CONNECTING]);
  await clock.advance(40);
  accept(last(), { connection: "k1" });
  const { readyState, transport, latency, connection: id, fallback } = it.state;
  assert.deepEqual([readyState, transport, latency, id, fallback], [OPEN, "websocket", 40, "k1", null]);
  assert.deepEqual(events, [["ready", "c0", ready({ connection: "k1" })]]);
});

test("nothing is believed before ready", async () => {
  await started();
  last().port.event("notification", "c9", note(9));
  assert.deepEqual(events, []);
});

test("keeps the cursor of the last event and resumes from it", async () => {
  const it = await started();
  accept();
  last().port.event("notification", "c1", note(1));
  last().port.event("heartbeat", "", {});
  assert.equal(it.cursor, "c1");
  last().port.end({ reason: "closed" });
  await clock.advance(1000);
  assert.equal(last().cursor, "c1");
});

test("a repeated ready, as polling says it, is passed on once for each connection", async () => {
  await started(["polling"]);
  accept();
  accept();
  assert.equal(events.length, 1);
});

test("refused, silent, blocked: the next transport at once, with the reason", async () => {
  const it = await started();
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  assert.deepEqual(names(), ["websocket", "sse"]);
  assert.equal(it.state.fallback, "websocket: refused");
  await clock.advance(3000);
  assert.deepEqual(names(), ["websocket", "sse", "polling"]);
  assert.equal(attempts[1].closed, true);
  accept();
  assert.deepEqual([it.state.transport, it.state.fallback], ["polling", "sse: silent"]);
});

test("501 from a WSGI server leads on to polling", async () => {
  await started(["sse", "polling"]);
  last().port.end({ reason: "HTTP 501", status: 501 });
  await clock.advance(0);
  assert.deepEqual(names(), ["sse", "polling"]);
});

test("a transport that can not be constructed is blocked", async () => {
  const it = connection(["websocket", "sse"]);
  env.random = () => 0;
  const broken = connection(["websocket", "sse"], { openers: { websocket: () => { throw new Error("CSP"); }, sse: () => ({ close() {} }) } });
  broken.start();
  await clock.advance(0);
  assert.equal(broken.state.fallback, "websocket: blocked");
  it.stop();
});

test("a server that is down is no reason to leave the transport that worked", async () => {
  const it = await started();
  accept();
  await clock.advance(10_000);
  last().port.end({ code: 1006, reason: "closed" });
  await clock.advance(1000);
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  last().port.end({ reason: "network" });
  assert.deepEqual(names(), ["websocket", "websocket", "sse"]);
  await clock.advance(30_000);
  assert.equal(attempts[3].name, "websocket");
  accept(attempts[3]);
  assert.equal(it.state.transport, "websocket");
});

test("backs off with a doubling ceiling while the line is down, and from the start after a steady connection", async () => {
  const it = await started(["sse"]);
  const waits = [];
  for (let i = 0; i < 7; i += 1) {
    last().port.end({ reason: "network" });
    waits.push(it.state.retryAt - clock.now());
    await clock.advance(waits.at(-1));
  }
  assert.deepEqual(waits, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
  accept();
  await clock.advance(4999);
  last().port.end({ reason: "closed" });
  assert.equal(it.state.retryAt - clock.now(), 30_000, "too short to count as well again");
  await clock.advance(30_000);
  accept();
  await clock.advance(5000);
  last().port.end({ reason: "closed" });
  assert.equal(it.state.retryAt - clock.now(), 1000);
});

test("retry: of the stream sets the first ceiling", async () => {
  const it = await started(["sse"]);
  last().port.retry(4000);
  last().port.end({ reason: "network" });
  assert.equal(it.state.retryAt - clock.now(), 4000);
});

test("retry: never makes waits shorter: an outage is no reason to dial without a pause", async () => {
  const it = await started(["sse"]);
  last().port.retry(0);
  last().port.end({ reason: "network" });
  assert.equal(it.state.retryAt - clock.now(), 1000);
});

test("the retry: of a bye is for that once, be it short or long", async () => {
  for (const retry of [0, 20_000]) {
    const it = await started(["sse"]);
    accept();
    last().port.retry(retry);
    last().port.event("bye", "", { reason: "access", retry });
    assert.equal(it.state.retryAt - clock.now(), retry);
    await clock.advance(retry);
    last().port.end({ reason: "network" });
    assert.equal(it.state.retryAt - clock.now(), 1000);
    it.drop();
  }
});

test("Retry-After is waited for, whatever wakes the page", async () => {
  const it = await started(["sse"]);
  last().port.end({ reason: "HTTP 429", status: 429, wait: 20_000 });
  await clock.advance(5000);
  it.wake(true);
  await clock.advance(14_999);
  assert.equal(attempts.length, 1);
  await clock.advance(1);
  assert.equal(attempts.length, 2);
});

test("bye says when to come back", async () => {
  const it = await started();
  accept();
  last().port.event("bye", "", { reason: "shutdown", retry: 2345 });
  assert.equal(attempts[0].closed, true);
  assert.deepEqual([it.state.reason, it.state.retryAt - clock.now()], ["shutdown", 2345]);
  await clock.advance(2345);
  assert.equal(attempts.length, 2);
});

test("bye without a time to come back is the end", async () => {
  const it = await started();
  accept();
  last().port.event("bye", "", { reason: "closed for good", retry: null });
  await clock.advance(3_600_000);
  const { readyState, reason } = it.state;
  assert.deepEqual([readyState, reason, attempts.length, clock.waiting], [CLOSED, "closed for good", 1, 0]);
});

test("a transport that was chosen is not remembered as the best there is", async () => {
  const chosen = await started(["polling"]);
  accept();
  chosen.drop();
  const it = await started();
  accept();
  assert.deepEqual([it.state.transport, it.state.fallback], ["websocket", null]);
});

test("a better transport that takes over says why it is not the best", async () => {
  const it = await started();
  last().port.end({ reason: "refused" });
  await clock.advance(0);
  last().port.end({ reason: "silent" });
  await clock.advance(0);
  accept();
  assert.deepEqual([it.state.transport, it.state.fallback], ["polling", "sse: silent"]);
  await clock.advance(40_000);
  last().port.end({ reason: "blocked" });
  await settle();
  accept();
  assert.deepEqual([it.state.transport, it.state.fallback], ["sse", "websocket: blocked"]);
});

test("offline, as the browser says: not live any more, and back with the network", async () => {
  const it = await started();
  accept();
  await clock.advance(5000);
  it.lost();
  assert.deepEqual([it.state.readyState, it.state.reason, attempts[0].closed], [CONNECTING, "offline", true]);
  await clock.advance(1000);
  last().port.end({ reason: "network" });
  await clock.advance(1001);
  const before = attempts.length;
  it.wake(true);
  await settle();
  assert.equal(attempts.length, before + 1);
  accept();
  assert.equal(it.state.readyState, OPEN);
});

test("who was let in before asks once more: it may have a new session by now", async () => {
  const it = await started();
  for (const revoke of [
    () => last().port.event("bye", "", { reason: "revoked", retry: null }),
    () => last().port.end({ code: 4401, reason: "closed" }),
  ]) {
    const before = attempts.length;
    accept();
    revoke();
    await clock.advance(2500);
    assert.equal(attempts.length, before + 1);
  }
  const before = attempts.length;
  last().port.end({ status: 401, reason: "HTTP 401" });
  await clock.advance(3_600_000);
  assert.deepEqual([it.state.readyState, it.state.reason, attempts.length], [CLOSED, "unauthorized", before]);
});

for (const [info, reason] of [
  [{ status: 400, reason: "HTTP 400" }, "malformed"],
  [{ status: 401, reason: "HTTP 401" }, "unauthorized"],
  [{ status: 403, reason: "HTTP 403" }, "forbidden"],
  [{ code: 4400, reason: "closed" }, "malformed"],
  [{ code: 4401, reason: "closed" }, "unauthorized"],
  [{ code: 4403, reason: "closed" }, "forbidden"],
]) {
  test(`${info.status ?? info.code} is the end, and says so`, async () => {
    const it = await started();
    last().port.end(info);
    await clock.advance(3_600_000);
    assert.deepEqual([it.state.readyState, it.state.reason, attempts.length], [CLOSED, reason, 1]);
    it.wake(true);
    await clock.advance(1000);
    assert.equal(attempts.length, 1, "waking changes nothing");
    it.start();
    await settle();
    assert.equal(attempts.length, 2, "but it can be started again");
  });
}

test("4429 and 4408 come back after a while", async () => {
  for (const code of [4429, 4408]) {
    const it = await started(["websocket"]);
    accept();
    last().port.end({ code, reason: "closed" });
    assert.equal(it.state.readyState, CONNECTING);
    it.stop();
  }
});

test("silence for three heartbeats reopens the connection", async () => {
  const it = await started(["sse"]);
  accept(last(), { heartbeat: 10_000 });
  for (let i = 0; i < 5; i += 1) {
    await clock.advance(10_000);
    last().port.event("heartbeat", "", {});
  }
  await clock.advance(29_999);
  assert.equal(attempts.length, 1);
  await clock.advance(1);
  assert.equal(attempts.length, 2);
  assert.equal(attempts[0].closed, true);
  assert.equal(it.state.readyState, CONNECTING);
});

test("gone silent twice running after a good beginning: something holds the stream back, another transport", async () => {
  const it = await started(["sse", "polling"]);
  for (let i = 0; i < 2; i += 1) {
    accept();
    await clock.advance(45_000);
  }
  assert.deepEqual(names(), ["sse", "sse", "polling"]);
  assert.equal(it.state.fallback, "sse: stale");
});

test("waking cuts a wait short, but not within a second of the last attempt", async () => {
  const it = await started(["sse"]);
  last().port.end({ reason: "network" });
  it.wake();
  await settle();
  assert.equal(attempts.length, 1);
  await clock.advance(1000);
  last().port.end({ reason: "network" });
  await clock.advance(1001);
  it.wake();
  await settle();
  assert.equal(attempts.length, 3);
});

test("waking trusts a lively connection and reopens one that went quiet", async () => {
  const it = await started(["sse"]);
  accept();
  await clock.advance(15_000);
  it.wake();
  await clock.advance(0);
  assert.equal(attempts.length, 1);
  await clock.advance(10_000);
  it.wake();
  await clock.advance(0);
  assert.equal(attempts.length, 2);
});

test("a clock that jumped (the laptop slept) is a connection gone quiet", async () => {
  const it = await started(["sse"]);
  accept();
  clock.time += 3_600_000;
  it.wake();
  await clock.advance(0);
  assert.equal(attempts.length, 2);
});

test("paused is closed until it is woken, and goes on from the cursor", async () => {
  const it = await started(["sse"]);
  accept();
  last().port.event("notification", "c5", note(5));
  it.pause();
  assert.deepEqual([last().closed, it.state.reason, clock.waiting], [true, "paused", 0]);
  await clock.advance(3_600_000);
  it.wake();
  await settle();
  assert.deepEqual([attempts.length, last().cursor], [2, "c5"]);
});

test("after falling back it tries the better way beside the other, and moves when that one is ready", async () => {
  const it = await started(["websocket", "sse"]);
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  const poor = last();
  accept(poor);
  await clock.advance(40_000);
  const better = last();
  assert.equal(better.name, "websocket");
  assert.equal(poor.closed, false, "the old one stays until the new one is ready");
  poor.port.event("notification", "c1", note(1));
  accept(better);
  assert.equal(poor.closed, true);
  poor.port.event("notification", "c2", note(2));
  better.port.event("notification", "c2", note(2));
  assert.deepEqual(events.filter(([type]) => type === "notification").map(([, cursor]) => cursor), ["c1", "c2"]);
  assert.deepEqual([it.state.transport, it.state.fallback], ["websocket", null]);
});

test("a better way that stays shut is tried less and less often, and costs the open one nothing", async () => {
  const it = await started(["websocket", "sse"]);
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  const poor = last();
  accept(poor);
  const times = [];
  for (let i = 0; i < 400; i += 1) {
    await clock.advance(10_000);
    poor.port.event("heartbeat", "", {});
    if (last() !== poor && !last().closed) {
      times.push(clock.now());
      last().port.end({ code: 1006, reason: "refused" });
    }
  }
  const gaps = times.slice(1).map((time, i) => time - times[i]);
  assert.ok(gaps.length >= 3 && gaps.length < 10, String(gaps));
  assert.ok(gaps.every((gap, i) => i === 0 || gap >= gaps[i - 1]), String(gaps));
  assert.deepEqual([it.state.readyState, it.state.transport, poor.closed], [OPEN, "sse", false]);
});

test("the network's return is an occasion to try the better way", async () => {
  const it = await started(["websocket", "sse"]);
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  accept();
  it.wake(true);
  await settle();
  assert.deepEqual(names(), ["websocket", "sse", "websocket"]);
});

test("what worked is tried first the next time", async () => {
  const one = await started();
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  accept();
  one.stop();
  await started();
  assert.equal(last().name, "sse");
});

test("stop closes everything and nothing is left to fire", async () => {
  const it = await started(["websocket", "sse"]);
  last().port.end({ code: 1006, reason: "refused" });
  await clock.advance(0);
  accept();
  it.wake(true);
  await settle();
  it.stop();
  assert.ok(attempts.slice(1).every(({ closed }) => closed));
  assert.deepEqual([clock.waiting, it.state.readyState], [0, CLOSED]);
});

test("without a URL for any of its transports there is nothing to connect", () => {
  assert.throws(() => connection(["sse"], { urls: { polling: "/p/" } }), TypeError);
});
