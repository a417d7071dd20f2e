/** Broken qcow2 images: a seeded share of what `tests/hostile/qcow2_fuzz_main.ts` does. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { lacks } from "../harness/tools.ts";
import { fuzzImages, seedImages } from "./qcow2_fuzz.ts";

const CASES = 600;
/** No case takes longer, on a machine that does other things, too. */
const LONGEST_MS = 10_000;
const MEMORY = 1024 * 1024 * 1024;

Deno.test({
  name: `${CASES} broken qcow2 images harm nobody`,
  ignore: lacks("hostile/qcow2", "qemu-img", "qemu-io"),
  fn: async () => {
    await using dir = TestDir.make();
    const images = await seedImages(dir);
    await fuzzImages(images, 1, CASES, (number, milliseconds) => {
      assert.ok(milliseconds < LONGEST_MS, `case ${number} took ${milliseconds} ms`);
    });
    assert.ok(Deno.memoryUsage().rss < MEMORY);
  },
});
