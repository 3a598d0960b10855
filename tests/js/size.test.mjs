import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const FOLDER = new URL("../../notifications/static/notifications/", import.meta.url);
const CLIENT = "notifications session connection transports tabs backoff sse-parser".split(" ").map((name) => `${name}.js`);
const ALL = readdirSync(FOLDER).filter((name) => name.endsWith(".js"));

const read = (names) => Buffer.concat(names.map((name) => readFileSync(new URL(name, FOLDER))));
const gzipped = (names) => gzipSync(read(names), { level: 9 }).length;

test("the client's modules are at most 15 KiB gzipped, each by itself", () => {
  assert.ok(CLIENT.reduce((sum, name) => sum + gzipped([name]), 0) <= 15 * 1024);
});

test("with inbox and elements they are at most 30 KiB gzipped together", () => {
  assert.ok(gzipped(ALL) <= 30 * 1024);
});

test("without their comments they are that also each by itself", () => {
  // Comments stand on lines of their own or behind code; no text in the modules looks like one.
  const bare = (name) => String(read([name])).replace(/\/\*\*.*?\*\/\n?/gs, "").replace(/^\s*\/\/.*\n|\s+\/\/ .*$/gm, "");
  const sum = ALL.reduce((sum, name) => sum + gzipSync(bare(name), { level: 9 }).length, 0);
  assert.ok(sum <= 30 * 1024, `${sum} bytes`);
});

test("the client imports nothing of the elements", () => {
  for (const name of CLIENT) {
    const imported = [...String(read([name])).matchAll(/from "\.\/([^"]+)"/g)].map(([, file]) => file);
    assert.deepEqual(imported.filter((file) => !CLIENT.includes(file)), [], name);
  }
});

test("no module writes markup, evaluates text or styles inline", () => {
  for (const name of ALL) {
    assert.doesNotMatch(String(read([name])), /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function/, name);
  }
});
