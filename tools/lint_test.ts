/// <reference lib="deno.unstable" />
import assert from "node:assert/strict";
import plugin, { functionLimit } from "./lint.ts";

/** Messages for `text`, were it the file `name`. */
function messages(name: string, text: string): string[] {
  const file = new URL(`../${name}`, import.meta.url).pathname;
  return Deno.lint.runPlugin(plugin, file, text).map((found) => found.message);
}

Deno.test("a function over the limit is found, one at the limit is not", () => {
  const body = (lines: number) => `function f() {\n${"  void 0;\n".repeat(lines - 2)}}\n`;
  assert.deepEqual(messages("lib/a/b.ts", body(functionLimit)), []);
  assert.deepEqual(messages("lib/a/b.ts", body(functionLimit + 1)), [
    `function of ${functionLimit + 1} lines: at most ${functionLimit}`,
  ]);
});

Deno.test("the machine is reached from lib/sys alone, tests and tools apart", () => {
  const uses: [string, string][] = [
    ["Deno.open('x');", "Deno outside lib/sys"],
    ["setTimeout(() => {}, 1);", "setTimeout outside lib/sys"],
    ["const now = Date.now();", "Date.now outside lib/sys"],
    ["const now = new Date();", "Date outside lib/sys"],
    ["const chance = Math.random();", "Math.random outside lib/sys"],
    ["const w = new Worker('x');", "Worker outside lib/sys"],
  ];
  for (const [text, message] of uses) {
    assert.deepEqual(messages("lib/nbd/x.ts", text), [message], text);
    assert.deepEqual(messages("main.ts", text), [message], text);
    for (
      const file of ["lib/sys/x.ts", "lib/nbd/x_test.ts", "lib/nbd/testing_x.ts", "tools/x.ts"]
    ) {
      assert.deepEqual(messages(file, text), [], `${file}: ${text}`);
    }
  }
});

Deno.test("a member, key or type of such a name is no use of the machine", () => {
  const text = `
    const timers = { setTimeout: 1 };
    timers.setTimeout;
    interface Loop { setImmediate(): void; fetch: number }
    const max = Math.max(1, 2);
  `;
  assert.deepEqual(messages("lib/nbd/x.ts", text), []);
});

Deno.test("module-level let is found; a local one and a const are not", () => {
  assert.deepEqual(messages("lib/nbd/x.ts", "let count = 0;"), ["module-level let"]);
  assert.deepEqual(messages("lib/nbd/x.ts", "const f = () => { let n = 0; return n; };"), []);
  assert.deepEqual(messages("tools/x.ts", "let count = 0;"), []);
});

Deno.test("an export needs a doc comment of its own", () => {
  const missing = ["export without a doc comment"];
  assert.deepEqual(messages("lib/nbd/x.ts", "export const a = 1;"), missing);
  assert.deepEqual(messages("lib/nbd/x.ts", "/* a */\nexport const a = 1;"), missing);
  assert.deepEqual(
    messages("lib/nbd/x.ts", "/** x */\nconst b = 1;\nexport const a = 1;"),
    missing,
  );
  assert.deepEqual(messages("lib/nbd/x.ts", "/** a */\nexport const a = 1;"), []);
  assert.deepEqual(
    messages("lib/nbd/x.ts", "/** a */\n// deno-lint-ignore no-explicit-any\nexport type A = any;"),
    [],
  );
  assert.deepEqual(messages("lib/nbd/x.ts", 'export { a } from "./a.ts";'), []);
  assert.deepEqual(messages("lib/qmp/schema/x.ts", "export const a = 1;"), []);
});
