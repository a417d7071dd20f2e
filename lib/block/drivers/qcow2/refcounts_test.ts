/** Counts as broken images have them, and what is written of them. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const CLUSTER = 64 * KiB;

/** Where the first block of counts lies. */
function firstBlock({ disk, image }: Bench): number {
  return Number(new DataView(disk.bytes.buffer).getBigUint64(image.header.refcountTableOffset));
}

Deno.test("counts of 64 bits are exact up to the largest safe number, and that number beyond it", async () => {
  const bench = await Bench.open(await diskOf("-o", "refcount_bits=64", "1M"));
  const view = new DataView(bench.disk.bytes.buffer);
  const block = firstBlock(bench);
  const most = Number.MAX_SAFE_INTEGER;
  const counts = [
    1n,
    2n ** 32n,
    2n ** 53n - 2n,
    2n ** 53n - 1n,
    2n ** 53n,
    2n ** 53n + 1n,
    2n ** 63n,
  ];
  counts.forEach((count, i) => view.setBigUint64(block + (100 + i) * 8, count));
  // Read again: the block is in memory already.
  bench.image.refcounts.cache.drop();
  const read = await Promise.all(counts.map((_, i) => bench.image.refcount((100 + i) * CLUSTER)));
  assert.deepEqual(read, [1, 2 ** 32, most - 1, most, most, most, most]);
  await bench.close();
});

Deno.test("what lies behind all that the table covers has no references", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=512,refcount_bits=64", "64K"));
  const { refcounts, geometry: { refcountBlockEntries, clusterSize } } = bench.image;
  const covered = refcounts.table.length * refcountBlockEntries * clusterSize;
  for (const at of [covered - clusterSize, covered, covered * 2]) {
    assert.equal(await bench.image.refcount(at), 0);
  }
  assert.equal(bench.image.corrupted, false);
  await bench.close();
  await check(bench.disk);
});

for (const [what, entry] of [["unaligned", 0x50200n], ["beyond all offsets", 2n ** 53n]] as const) {
  Deno.test(`a block of counts whose offset is ${what} is not used: the image is corrupt`, async () => {
    const disk = await diskOf("1M");
    const table = Number(new DataView(disk.bytes.buffer).getBigUint64(48));
    new DataView(disk.bytes.buffer).setBigUint64(table + 8, entry);
    const bench = await Bench.open(disk);
    const { refcountBlockEntries } = bench.image.geometry;
    const message = `Refblock offset 0x${entry.toString(16)} unaligned (reftable index: 0x1)`;
    const counted = async () => await bench.image.refcount(refcountBlockEntries * CLUSTER);
    await assert.rejects(counted, { errno: "EIO", message });
    assert.equal(bench.image.corrupted, true);
    assert.ok(disk.calls.every(({ offset }) => offset < 2 ** 53));
    await bench.close();
  });
}

Deno.test("entries of a table that has moved are not written once more", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=4k", "1M"));
  await bench.write(0, 64 * KiB, 1);
  const { image } = bench;
  await image.snapshots.create({ name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
  const table = image.header.refcountTableOffset;
  const inTable = bench.disk.calls.filter(({ op, offset }) =>
    op === "write" && offset >= table && offset < table + 4 * KiB
  );
  assert.deepEqual(inTable.map(({ length }) => length), [4 * KiB]);
  await bench.close();
  await check(bench.disk);
});

Deno.test("entries for new blocks are written once", async () => {
  const bench = await Bench.open(await diskOf("-o", "cluster_size=512,refcount_bits=64", "1M"));
  await bench.write(0, 40 * KiB, 1);
  await bench.backend.flush();
  const { image: { header, refcounts, releases } } = bench;
  await releases.idle();
  const inTable = () =>
    bench.disk.calls.filter(({ op, offset }) =>
      op === "write" && offset >= header.refcountTableOffset &&
      offset < header.refcountTableOffset + header.refcountTableClusters * 512
    ).length;
  assert.ok(inTable() > 0);
  assert.equal(refcounts.hasDirtyTable, false);
  bench.disk.calls.length = 0;
  await bench.write(0, 512, 2);
  await bench.backend.flush();
  assert.equal(inTable(), 0);
  await bench.close();
  await check(bench.disk);
});
