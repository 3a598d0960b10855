import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff, retryAfter } from "../../notifications/static/notifications/backoff.js";

test("the ceiling doubles up to the cap", () => {
  const backoff = new Backoff({ base: 1000, cap: 30_000, random: () => 1 });
  assert.deepEqual(Array.from({ length: 7 }, () => backoff.next()), [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
});

test("full jitter: anything between nothing and the ceiling", () => {
  const randoms = [0, 0.5, 0.25];
  const backoff = new Backoff({ random: () => randoms.shift() });
  assert.deepEqual([backoff.next(), backoff.next(), backoff.next()], [0, 1000, 1000]);
});

test("a thousand failures do not overflow", () => {
  const backoff = new Backoff({ random: () => 1 });
  for (let i = 0; i < 2000; i += 1) backoff.next();
  assert.equal(backoff.next(), 30_000);
});

test("reset begins anew", () => {
  const backoff = new Backoff({ random: () => 1 });
  backoff.next();
  backoff.next();
  backoff.reset();
  assert.equal(backoff.next(), 1000);
});

test("Retry-After in seconds, as a date, in the past, and nonsense", () => {
  const now = Date.parse("2030-01-01T00:00:00Z");
  assert.equal(retryAfter("120", now), 120_000);
  assert.equal(retryAfter("Tue, 01 Jan 2030 00:00:30 GMT", now), 30_000);
  assert.equal(retryAfter("Mon, 31 Dec 2029 00:00:00 GMT", now), 0);
  assert.equal(retryAfter("soon", now), null);
  assert.equal(retryAfter(null, now), null);
});
