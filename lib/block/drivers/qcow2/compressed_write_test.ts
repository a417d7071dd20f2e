import assert from "node:assert/strict";
import { IoVec, KiB } from "../../../base/mod.ts";
import { ioError } from "../../testing.ts";
import { CompressedSpace } from "./compressed_write.ts";
import type { Image } from "./image.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const CLUSTER = 512;
const ENTRIES = 64;

/** Room for streams in an image with one refcount block at a time in memory; new clusters are `hosts`. */
function spaceOf(hosts: number[]): CompressedSpace {
  let cached = -1;
  const block = (cluster: number) => {
    const index = Math.floor(cluster / ENTRIES);
    return cached === index ? {} : Promise.resolve().then(() => void (cached = index));
  };
  return new CompressedSpace({
    geometry: {
      clusterSize: CLUSTER,
      clusterBits: 9,
      refcountMax: 65535,
      refcountBlockEntries: ENTRIES,
    },
    refcounts: { block, read: () => 1, write: () => {} },
    allocator: {
      claim: () => {
        const slot = block(hosts[0]!);
        return slot instanceof Promise ? slot : hosts.shift()! * CLUSTER;
      },
    },
  } as unknown as Image);
}

/** The place of a stream, and how often it had to be asked for. */
async function claim(space: CompressedSpace, length: number): Promise<[number, number]> {
  for (let times = 1; times < 100; times++) {
    const host = space.claim(length);
    if (typeof host === "number") return [host, times];
    await host;
  }
  throw new Error("no room is ever found");
}

Deno.test("streams share clusters, and go on in the next one if that follows", async () => {
  const space = spaceOf([10, 11, 20]);
  assert.deepEqual(await claim(space, 300), [10 * CLUSTER, 2]);
  assert.deepEqual(await claim(space, 200), [10 * CLUSTER + 300, 1]);
  assert.deepEqual(await claim(space, 100), [10 * CLUSTER + 500, 1]);
  assert.deepEqual(await claim(space, 450), [20 * CLUSTER, 1]);
});

Deno.test("a cache without room for the blocks of two clusters does not keep a stream from its place", async () => {
  const space = spaceOf([10, ENTRIES + 10]);
  assert.deepEqual(await claim(space, 300), [10 * CLUSTER, 2]);
  assert.deepEqual(await claim(space, 300), [(ENTRIES + 10) * CLUSTER, 2]);
});

Deno.test("no stream joins a cluster that a failed one has given back, and others have by now", async () => {
  const LARGE = 64 * KiB;
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  const contents = Uint8Array.from({ length: LARGE }, (_, i) => (i >> 4) & 0x55);
  const { address } = bench.test.memory(contents);
  const compress = () => bench.image.writeCompressed(LARGE, IoVec.of(address, LARGE));
  disk.fault = ({ op }) => op === "write" ? ioError("ENOSPC") : undefined;
  await assert.rejects(compress, { errno: "ENOSPC" });
  disk.fault = undefined;
  await bench.write(0, LARGE, 9);
  await compress();
  assert.ok((await bench.read(0, LARGE)).every((byte) => byte === 9));
  await bench.close();
  await check(disk);
});
