/** Commits, one at a time: what each takes, and what becomes of those who ask meanwhile. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { ioError, type MemoryDisk } from "../../testing.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const CLUSTER = 64 * KiB;
/** Where the structures of a new image lie once something was written. */
const BLOCK = 2 * CLUSTER, TABLE = 4 * CLUSTER, DATA = 5 * CLUSTER;

/** Writes to the cluster at `host` wait from now on, nothing else does. */
function holdWrites(disk: MemoryDisk, host: number): void {
  Object.defineProperty(disk, "latency", {
    configurable: true,
    get() {
      const { op, offset } = disk.calls.at(-1)!;
      return op === "write" && offset >= host && offset < host + CLUSTER ? "held" : "sync";
    },
    set(value) {
      Object.defineProperty(disk, "latency", { value, writable: true });
    },
  });
}

for (const [what, host, entry] of [["a table", TABLE, 8], ["counts", BLOCK, 12]] as const) {
  Deno.test(`of ${what} is written what was there when the commit began`, async () => {
    const disk = await diskOf("1M");
    const bench = await Bench.open(disk);
    await bench.write(0, CLUSTER, 1);
    holdWrites(disk, host);
    const flush = bench.backend.flush();
    await disk.arrivals(1);
    // Nothing that leads there may be on disk before its data and its count are.
    await bench.write(CLUSTER, CLUSTER, 2);
    disk.held[0]!.release();
    disk.latency = "sync";
    await flush;
    const view = new DataView(disk.bytes.buffer);
    assert.equal(host === TABLE ? view.getUint32(TABLE + entry) : view.getUint16(BLOCK + entry), 0);
    await bench.backend.flush();
    assert.equal(await bench.image.refcount(DATA + CLUSTER), 1);
    await bench.close();
    await check(disk);
  });
}

Deno.test("who asks while a commit runs shares the next one, which begins also if that one fails", async () => {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  const { image } = bench;
  await bench.write(0, CLUSTER, 1);
  disk.latency = "held";
  const first = image.commit();
  await disk.arrivals(1);
  const second = image.commit();
  assert.equal(image.commit(), second);
  assert.notEqual(second, first);
  disk.latency = "sync";
  disk.held[0]!.release(ioError());
  await assert.rejects(first, { errno: "EIO" });
  assert.equal(image.commits.running, true);
  await second;
  assert.deepEqual([image.commits.running, image.commits.needed], [false, false]);
  assert.equal(new DataView(disk.bytes.buffer).getUint16(BLOCK + 10), 1);
  await bench.close();
  await check(disk);
});

Deno.test("a table that lies where other metadata does is not written", async () => {
  const disk = await diskOf("256M");
  const l1 = Number(new DataView(disk.bytes.buffer).getBigUint64(40));
  new DataView(disk.bytes.buffer).setBigUint64(l1, 1n << 63n | BigInt(BLOCK));
  const bench = await Bench.open(disk);
  // Its entries there are zero: they lead nowhere.
  await bench.write(128 * 1024 * KiB, CLUSTER, 1);
  const before = disk.bytes.slice(BLOCK, BLOCK + CLUSTER);
  await assert.rejects(async () => await bench.backend.flush(), {
    message: /^Preventing invalid write on metadata \(overlaps with /,
  });
  assert.deepEqual(disk.bytes.slice(BLOCK, BLOCK + CLUSTER), before);
  await bench.close();
});
