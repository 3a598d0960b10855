import assert from "node:assert/strict";
import { test } from "node:test";
import { SSEParser } from "../../notifications/static/notifications/sse-parser.js";

/** Parse the chunks (text or bytes); returns [events as [type, id, data], retries]. */
function parse(...chunks) {
  const events = [];
  const retries = [];
  const parser = new SSEParser({ event: (...event) => events.push(event), retry: (ms) => retries.push(ms) });
  for (const chunk of chunks) parser.push(typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk);
  return [events, retries];
}

const events = (...chunks) => parse(...chunks)[0];

const CASES = {
  "a plain event": ["data: a\n\n", [["message", "", "a"]]],
  "named, with an id": ["id: 7\nevent: read\ndata: a\n\n", [["read", "7", "a"]]],
  "CRLF ends lines": ["data: a\r\n\r\ndata: b\r\n\r\n", [["message", "", "a"], ["message", "", "b"]]],
  "CR ends lines": ["data: a\r\rdata: b\r\r", [["message", "", "a"], ["message", "", "b"]]],
  "mixed line ends": ["data: a\n\r\ndata: b\r\n\n", [["message", "", "a"], ["message", "", "b"]]],
  "several data lines": ["data: a\ndata\ndata: b\n\n", [["message", "", "a\n\nb"]]],
  "one space after the colon goes": ["data:a\ndata:  b\n\n", [["message", "", "a\n b"]]],
  "colons in the value stay": ["data: a:b: c\n\n", [["message", "", "a:b: c"]]],
  "no data, no event": ["event: read\nid: 1\n\n", []],
  "empty data is an event": ["data\n\n", [["message", "", ""]]],
  "a type without data is forgotten": ["event: read\n\ndata: a\n\n", [["message", "", "a"]]],
  "comments are passed over": [": hello\ndata: a\n:\n\n", [["message", "", "a"]]],
  "unknown fields are passed over": ["datum: x\n data: y\ndata: a\n\n", [["message", "", "a"]]],
  "an id stays": ["id: 1\ndata: a\n\ndata: b\n\n", [["message", "1", "a"], ["message", "1", "b"]]],
  "an empty id resets": ["id: 1\ndata: a\n\nid\ndata: b\n\n", [["message", "1", "a"], ["message", "", "b"]]],
  "NUL in an id: ignored": ["id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [["message", "1", "a"], ["message", "1", "b"]]],
  "an id counts without data": ["id: 1\n\ndata: a\n\n", [["message", "1", "a"]]],
  "a leading byte order mark goes": ["\uFEFFdata: a\n\n", [["message", "", "a"]]],
  "a second byte order mark does not": ["\uFEFF\uFEFFdata: a\n\ndata: b\n\n", [["message", "", "b"]]],
  "U+2028 and NEL end nothing": ["data: a\u2028b\u0085c\n\n", [["message", "", "a\u2028b\u0085c"]]],
  "what is unfinished at the end is dropped": ["data: a\n\ndata: b\n", [["message", "", "a"]]],
};

for (const [name, [text, expected]] of Object.entries(CASES)) {
  test(name, () => assert.deepEqual(events(text), expected));
  test(`${name}, byte by byte`, () => {
    const bytes = new TextEncoder().encode(text);
    assert.deepEqual(events(...Array.from(bytes, (byte) => Uint8Array.of(byte))), expected);
  });
}

test("CRLF split across chunks is one line end", () => {
  assert.deepEqual(events("data: a\r", "\ndata: b\r", "\n\r", "\n"), [["message", "", "a\nb"]]);
});

test("an empty chunk between CR and LF changes nothing", () => {
  assert.deepEqual(events("data: a\r", "", "\n\n"), [["message", "", "a"]]);
});

test("a character of several bytes split across chunks stays whole", () => {
  const bytes = new TextEncoder().encode("data: ä€😀\n\n");
  for (let cut = 1; cut < bytes.length; cut += 1) {
    assert.deepEqual(events(bytes.slice(0, cut), bytes.slice(cut)), [["message", "", "ä€😀"]]);
  }
});

test("retry takes digits only", () => {
  assert.deepEqual(parse("retry: 1500\nretry: 1.5\nretry: -1\nretry\nretry: 0\n")[1], [1500, 0]);
});

test("a resumed stream begins with the id that it was resumed from", () => {
  const seen = [];
  new SSEParser({ event: (...event) => seen.push(event) }, "9").push(new TextEncoder().encode("data: a\n\n"));
  assert.deepEqual(seen, [["message", "9", "a"]]);
});
