/** Broken qcow2 images: a seeded share of what `tests/hostile/qcow2_fuzz_main.ts` does. */
import assert from "node:assert/strict";
import { Journal } from "../crash/journal.ts";
import { Machine } from "../crash/machine.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { lacks, ok } from "../harness/tools.ts";
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

Deno.test({
  name:
    "bitmaps of an image that was made empty are lost, and that is told: no table can hold them",
  ignore: lacks("hostile/qcow2", "qemu-img"),
  fn: async () => {
    await using dir = TestDir.make();
    const path = dir.file("d.qcow2");
    await ok("qemu-img", ["create", "-q", "-f", "qcow2", path, "1M"]);
    await ok("qemu-img", ["bitmap", "--add", path, "b"]);
    const disk = new Journal().disk(Deno.readFileSync(path), new Dice(1));
    const machine = await Machine.open({ file: disk });
    await machine.resize(0);
    await machine.close();
    assert.equal(machine.messages.length, 1);
    assert.match(
      machine.messages[0]!,
      /lost persistent bitmaps of node 'image': .*bitmap 'b'.* empty/,
    );
    Deno.writeFileSync(path, disk.bytes);
    await ok("qemu-img", ["check", path]);
  },
});
