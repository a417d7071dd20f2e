import assert from "node:assert/strict";
import { Wide } from "./wide.ts";

Deno.test("integers become BigInts, exactly: small, beyond 32 and 52 bits, and negative", () => {
  const wide = new Wide();
  const edges = [0, 1, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32, 2 ** 40 + 12345, 2 ** 47];
  const far = [2 ** 52 - 1, 2 ** 52, 2 ** 52 + 1, Number.MAX_SAFE_INTEGER, -1, -100, -(2 ** 40)];
  for (const n of [...edges, ...far]) assert.equal(wide.of(n), BigInt(n));
});

Deno.test("what is no number of bytes at all is refused", () => {
  const wide = new Wide();
  for (const n of [NaN, Infinity, -Infinity]) assert.throws(() => wide.of(n), RangeError);
});
