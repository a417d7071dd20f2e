import assert from "node:assert/strict";
import { resolveLimits } from "./limits.ts";

Deno.test("a node without limits takes anything up to 2 GiB", () => {
  const limits = resolveLimits(undefined, []);
  assert.equal(limits.requestAlignment, 1);
  assert.equal(limits.memoryAlignment, 1);
  assert.equal(limits.maxTransfer, 2 ** 31 - 1);
});

Deno.test("a node takes no more at once than its children, in whole blocks of its own", () => {
  const child = resolveLimits({ maxTransfer: 10000, memoryAlignment: 512, maxSegments: 4 }, []);
  const limits = resolveLimits({ requestAlignment: 4096 }, [child]);
  assert.equal(limits.maxTransfer, 8192);
  assert.equal(limits.memoryAlignment, 512);
  assert.equal(limits.maxSegments, 4);
  assert.equal(limits.requestAlignment, 4096, "the alignment is its own");
  assert.equal(limits.discardAlignment, 4096, "never finer than a block");
});

Deno.test("an alignment that is no power of two is a mistake of ours", () => {
  for (const requestAlignment of [0, 3, 1000]) {
    assert.throws(() => resolveLimits({ requestAlignment }, []), { name: "AssertionError" });
  }
});
