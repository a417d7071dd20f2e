/** Limits as qemu-storage-daemon 7.2.22 has them; grammar is tested in ../parity_test.ts and ../fuzz_test.ts. */
import assert from "node:assert/strict";
import { JsonDouble, JsonReader, parseJson, writeJson } from "./mod.ts";

/** Values and errors of the pieces, in order. */
function read(...pieces: string[]): unknown[] {
  const out: unknown[] = [];
  const reader = new JsonReader({
    value: () => void out.push("value"),
    error: (m) => void out.push(m),
  });
  for (const piece of pieces) reader.feed(new TextEncoder().encode(piece));
  return out;
}

Deno.test("1024 levels are read; one more is an error", () => {
  assert.deepEqual(read("[".repeat(1024), "]".repeat(1024)), ["value"]);
  assert.deepEqual(read("[".repeat(1025)), ["JSON nesting depth limit exceeded"]);
  assert.equal(read("[".repeat(1025) + "]".repeat(3))[1], "JSON parse error, expecting value");
});

Deno.test("2 Mi tokens are read; one more is an error, and reading goes on after it", () => {
  const elements = "1,".repeat(1 << 16);
  const some = Array.from({ length: 15 }, () => elements);
  assert.deepEqual(read("[", ...some, "1]", "{}"), ["value", "value"]);
  const many = [...some, elements];
  assert.deepEqual(read("[", ...many, "1]"), [
    "JSON token count limit exceeded",
    "value",
    "JSON parse error, expecting value",
  ]);
});

Deno.test("a value above 64 MiB is an error, and the next line is read again", () => {
  const mebibyte = "a".repeat(1 << 20);
  const many = Array.from({ length: 65 }, () => mebibyte);
  assert.deepEqual(read('"', ...many, '"\n{}'), ["JSON token size limit exceeded", "value"]);
});

Deno.test("integers are exact; what was written as a double is told apart", () => {
  assert.equal(parseJson("18446744073709551615"), 2n ** 64n - 1n);
  assert.equal(parseJson("-9223372036854775808"), -(2n ** 63n));
  assert.equal(parseJson("9007199254740991"), Number.MAX_SAFE_INTEGER);
  assert.deepEqual(parseJson("1e3"), new JsonDouble(1000));
  assert.deepEqual(parseJson("18446744073709551616"), new JsonDouble(2 ** 64));
  assert.equal(
    writeJson({ a: undefined, b: 1e21, c: new JsonDouble(1e3), d: 0.1 }),
    '{"b": 1e+21, "c": 1000, "d": 0.10000000000000001}',
  );
});

Deno.test("frozen objects at many places are written at each of them, and looked at once", () => {
  let looked = 0;
  const inner = Object.freeze({
    get a() {
      looked++;
      return "x";
    },
  });
  const outer = { list: [inner, Object.freeze({ inner })], inner };
  assert.equal(
    writeJson(outer),
    '{"list": [{"a": "x"}, {"inner": {"a": "x"}}], "inner": {"a": "x"}}',
  );
  assert.equal(looked, 1);
  assert.equal(JSON.stringify(JSON.parse(writeJson(outer, true))), JSON.stringify(outer));
});
