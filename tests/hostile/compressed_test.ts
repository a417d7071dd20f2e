/** Compressed clusters, sound and broken, read by many at once while threads inflate, and closed in the middle. */
import assert from "node:assert/strict";
import type { TestContext } from "../../lib/block/drivers/testing.ts";
import { type BufferPool, createContext, type Memory } from "../../lib/sys/mod.ts";
import { Journal } from "../crash/journal.ts";
import { Machine } from "../crash/machine.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { lacks, ok } from "../harness/tools.ts";

const CLUSTER = 65536;
const CLUSTERS = 24;
const SIZE = CLUSTERS * CLUSTER;
const CASES = 20;
const READS = 96;

/** A context as the daemon's; but memory that is given back is gone: who still uses it ends the process. */
function unforgiving() {
  const context = createContext({ name: "test" });
  let inUse = 0;
  const buffers: BufferPool = {
    acquire: (length: number) => {
      inUse++;
      return context.sys.allocate(length);
    },
    release: (memory: Memory) => {
      inUse--;
      memory.unmap();
    },
    get inUse() {
      return inUse;
    },
    kept: 0,
    surrender: () => {},
    surrendered: () => false,
    trim: () => {},
  };
  let handedOver = 0;
  const inflaters = {
    run: (...job: Parameters<NonNullable<typeof context.inflaters>["run"]>) => {
      const result = context.inflaters!.run(...job);
      if (result !== undefined) handedOver++;
      return result;
    },
  };
  const shared = { ...context, buffers, inflaters, messages: [], sleeps: [], end: () => {} };
  return {
    shared: shared as TestContext,
    handedOver: () => handedOver,
    close: () => context.close(),
  };
}

/** Letters that repeat a little: streams of about a third of a cluster. */
function content(dice: Dice): Uint8Array {
  return Uint8Array.from({ length: SIZE }, () => 97 + dice.below(8));
}

/** Guest clusters whose streams were changed. */
function breakStreams(bytes: Uint8Array, dice: Dice): Set<number> {
  const image = new Qcow2Bytes(bytes);
  const table = Number(image.u64(image.l1Offset) & 0x00fffffffffffe00n);
  const broken = new Set<number>();
  for (let left = dice.below(12); left > 0; left--) {
    const cluster = dice.below(CLUSTERS);
    const { at, length } = image.compressedRange(image.u64(table + 8 * cluster));
    // Streams share sectors: not those that a neighbour has a part of.
    const where = at + 512 + dice.below(length - 1024);
    bytes[where] = bytes[where]! ^ 1 << dice.below(8);
    broken.add(cluster);
  }
  return broken;
}

for (const type of ["zlib", "zstd"]) {
  Deno.test({
    name:
      `${type}: compressed clusters, sound or broken, do no harm to others, also when the image is closed meanwhile`,
    ignore: lacks("hostile/compressed", "qemu-img"),
    fn: async () => {
      await using dir = TestDir.make();
      const dice = new Dice(4);
      const want = content(dice);
      const [raw, path] = [dir.file("raw"), dir.file("image")];
      Deno.writeFileSync(raw, want);
      const options = ["-f", "raw", "-O", "qcow2", "-o", `compression_type=${type}`];
      await ok("qemu-img", ["convert", "-c", ...options, raw, path]);
      const sound = Deno.readFileSync(path);
      const { shared, handedOver, close } = unforgiving();
      let failed = 0;
      try {
        for (let number = 0; number < CASES; number++) {
          const bytes = sound.slice();
          const broken = breakStreams(bytes, dice);
          const disk = new Journal().disk(bytes, dice);
          const machine = await Machine.open({ file: disk }, { "read-only": true }, shared);
          const reads = Array.from({ length: READS }, async () => {
            const at = dice.below(CLUSTERS - 2) * CLUSTER + dice.below(3) * 512 * dice.below(128);
            const length = dice.below(2) === 0 ? CLUSTER : 512 * (1 + dice.below(64));
            const touched = [at, at + length - 1].map((one) => Math.floor(one / CLUSTER));
            const isBroken = touched.some((cluster) => broken.has(cluster));
            try {
              const got = await machine.read(at, length);
              // No checksum tells a broken stream that makes a cluster all the same.
              const right = got.every((byte, i) => byte === want[at + i]);
              assert.ok(right || isBroken, `wrong bytes in ${length} at ${at}`);
            } catch (error) {
              if (!isBroken || (error as Error).name !== "BlockError") throw error;
              failed++;
            }
          });
          if (dice.below(2) === 0) await Promise.race(reads);
          // Turns of the loop, so that some are with the threads.
          for (let turns = dice.below(4); turns > 0; turns--) await shared.loop.sleep(0);
          const closed = machine.close();
          await Promise.all(reads);
          await closed;
          assert.equal(shared.buffers.inUse, 0);
        }
      } finally {
        await close();
      }
      assert.ok(failed > 0, "none was broken");
      assert.ok(handedOver() > 50, `${handedOver()} were inflated by threads`);
    },
  });
}
