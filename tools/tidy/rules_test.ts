import assert from "node:assert/strict";
import { boundaries, cycles, fileLimit, findAll, leftovers, lengths, untested } from "./rules.ts";

/** Sources from a table of path and text. */
const tree = (files: Record<string, string>) =>
  Object.entries(files).map(([path, text]) => ({ path, text }));
const says = (findings: { path: string; line: number; message: string }[]) =>
  findings.map(({ path, line, message }) => `${path}:${line}: ${message}`);

Deno.test("an import against the layers is found at its line", () => {
  const files = tree({ "lib/base/a.ts": '/** a */\nimport { b } from "../sys/mod.ts";\n' });
  assert.deepEqual(says(boundaries(files)), [
    "lib/base/a.ts:2: lib/base may not import lib/sys: turn it round",
  ]);
});

Deno.test("an import along the layers is none, in any shape", () => {
  const files = tree({
    "lib/block/a.ts":
      'import {\n  type A,\n  b,\n} from "../base/mod.ts";\nimport type { C } from "../sys/mod.ts";\n' +
      'export { d } from "./d.ts";\nimport { str } from "../qmp/schema/core.ts";\n',
    "lib/daemon/a.ts": 'import { b } from "../block/drivers/mod.ts";\n',
  });
  assert.deepEqual(boundaries(files), []);
});

Deno.test("test helpers may import those of folders below", () => {
  const helper = (path: string) => tree({ [path]: 'import { b } from "../block/testing.ts";\n' });
  assert.deepEqual(boundaries(helper("lib/nbd/testing_a.ts")), []);
  assert.deepEqual(says(boundaries(helper("lib/nbd/a.ts"))), [
    "lib/nbd/a.ts:1: imports lib/block/testing.ts: import lib/block/mod.ts, its public face",
  ]);
});

Deno.test("another folder's inside may not be imported, not even by types or over several lines", () => {
  const files = tree({ "lib/nbd/a.ts": 'import type {\n  A,\n} from "../block/node.ts";\n' });
  assert.deepEqual(says(boundaries(files)), [
    "lib/nbd/a.ts:1: imports lib/block/node.ts: import lib/block/mod.ts, its public face",
  ]);
});

Deno.test("a driver may import a helper, but not another driver", () => {
  const files = tree({
    "lib/block/drivers/raw.ts":
      'import { x } from "./file/mod.ts";\nimport { y } from "./shared.ts";\ndefineDriver({});',
    "lib/block/drivers/file/mod.ts": "export const f = defineDriver<O>({});",
    "lib/block/drivers/shared.ts": "",
    "lib/block/drivers/mod.ts": 'import { r } from "./raw.ts";\nimport { f } from "./file/mod.ts";',
  });
  assert.deepEqual(says(boundaries(files)), [
    "lib/block/drivers/raw.ts:1: driver raw imports driver file: share a helper that is no driver",
  ]);
});

Deno.test("a wire codec imports base and codecs only", () => {
  const files = tree({
    "lib/nbd/wire.ts":
      'import { a } from "../base/mod.ts";\nimport { b } from "./connection.ts";\n',
    "lib/nbd/wire_options.ts": 'import { a } from "./wire.ts";\n',
  });
  assert.deepEqual(says(boundaries(files)), [
    "lib/nbd/wire.ts:2: a wire codec imports lib/nbd/connection.ts: only lib/base and codecs",
  ]);
});

Deno.test("tests may import what they like; lib may not import tools", () => {
  const files = tree({
    "lib/base/a_test.ts": 'import { b } from "../sys/inside.ts";\n',
    "lib/sys/a.ts": 'import { b } from "../../tools/x.ts";\n',
  });
  assert.deepEqual(says(boundaries(files)), [
    "lib/sys/a.ts:1: imports tools/x.ts: lib imports only lib",
  ]);
});

Deno.test("a cycle is named once; one of types is none", () => {
  const cycle = tree({
    "lib/base/a.ts": 'import { b } from "./b.ts";\n',
    "lib/base/b.ts": 'export * from "./c.ts";\n',
    "lib/base/c.ts": '\nimport "./a.ts";\n',
  });
  assert.deepEqual(says(cycles(cycle)), [
    "lib/base/a.ts:1: import cycle: lib/base/a.ts -> lib/base/b.ts -> lib/base/c.ts -> lib/base/a.ts",
  ]);
  const types = tree({
    "lib/base/a.ts": 'import { b } from "./b.ts";\n',
    "lib/base/b.ts": 'import type { A } from "./a.ts";\nimport { type B } from "./a.ts";\n',
  });
  assert.deepEqual(cycles(types), []);
});

Deno.test("a file over the limit is found, unless it is a table", () => {
  const long = "\n".repeat(fileLimit + 1), full = "\n".repeat(fileLimit);
  const files = tree({ "a.ts": long, "b.ts": full, "lib/qmp/schema/c.ts": long });
  assert.deepEqual(says(lengths(files)), [
    `a.ts:${fileLimit + 1}: ${fileLimit + 1} lines: at most ${fileLimit}; split it by concern`,
  ]);
});

Deno.test("a driver needs a test, beside it or in its folder", () => {
  const files = tree({
    "lib/block/drivers/a.ts": "defineDriver({})",
    "lib/block/drivers/a_test.ts": "",
    "lib/block/drivers/b/mod.ts": "defineDriver({})",
    "lib/block/drivers/b/inner_test.ts": "",
    "lib/block/drivers/c.ts": "\n\nexport const c = defineDriver<C>({})",
  });
  assert.deepEqual(says(untested(files)), [
    "lib/block/drivers/c.ts:3: driver c has no _test.ts beside it",
  ]);
});

Deno.test("what was left behind and names of registries are found", () => {
  const word = "TO" + "DO", host = "registry.npm" + "js.org";
  const files = tree({ "a.md": `x\n${word}: y\n`, "b.lock": `https://${host}/x` });
  assert.deepEqual(says(leftovers(files)), [
    `a.md:2: leftover ${word}: do it, or open an issue`,
    `b.lock:1: names the registry ${host}: leave it to the user's configuration`,
  ]);
});

Deno.test("findings come in the order of files and lines", () => {
  const word = "FIX" + "ME";
  const files = tree({ "b.ts": `\n${word}\n`, "a.ts": `${word}\n\n${word}` });
  assert.deepEqual(findAll(files).map(({ path, line }) => `${path}:${line}`), [
    "a.ts:1",
    "a.ts:3",
    "b.ts:2",
  ]);
});
