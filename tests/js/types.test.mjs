import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { test } from "node:test";

const FOLDER = new URL("../../notifications/static/notifications/", import.meta.url);
const DOCS = readFileSync(new URL("../../docs/client.md", import.meta.url), "utf8");
const documented = new Set([...DOCS.matchAll(/static\/notifications\/([\w-]+)\.js/g)].map(([, name]) => name));

test("what the documentation imports has types", () => {
  assert.ok(documented.has("transports"));
  for (const name of documented) assert.ok(existsSync(new URL(`${name}.d.ts`, FOLDER)), name);
});

for (const name of ["transports", "backoff", "sse-parser"]) {
  test(`the types of ${name}.js name what it exports`, async () => {
    const types = readFileSync(new URL(`${name}.d.ts`, FOLDER), "utf8");
    const typed = [...types.matchAll(/^export (?:const|function|class) (\w+)/gm)].map(([, word]) => word);
    assert.deepEqual(typed.sort(), Object.keys(await import(new URL(`${name}.js`, FOLDER))).sort());
  });
}
