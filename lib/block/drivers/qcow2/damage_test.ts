/** Damaged tables: what leads to metadata is not given back with the data, and what is said of it. */
import assert from "node:assert/strict";
import { KiB } from "../../../base/mod.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";
import { RequestFlag } from "../../mod.ts";
import type { MemoryDisk } from "../../testing.ts";

const CLUSTER = 64 * KiB;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;
const SNAPSHOT = { name: "s", dateSec: 1, dateNsec: 0, vmClockNsec: 0n };

/** Places in what `written` makes. */
const At = {
  refcountTable: CLUSTER,
  refcountBlock: 2 * CLUSTER,
  l1: 3 * CLUSTER,
  l2: 4 * CLUSTER,
  data: 5 * CLUSTER,
};

/** An image of 1 MiB with data in its first two clusters. */
async function written(): Promise<MemoryDisk> {
  const disk = await diskOf("1M");
  const bench = await Bench.open(disk);
  await bench.write(0, 2 * CLUSTER, 1);
  await bench.close();
  return disk;
}

function setEntry(disk: MemoryDisk, at: number, entry: bigint): void {
  new DataView(disk.bytes.buffer).setBigUint64(at, entry);
}

/** How a cluster is given back. */
const WAYS: Readonly<Record<string, (bench: Bench) => Promise<unknown>>> = {
  discard: async (bench) => await bench.backend.discard(CLUSTER, CLUSTER),
  zeroes: async (bench) => await bench.backend.writeZeroes(CLUSTER, CLUSTER, RequestFlag.mayUnmap),
  "copy on write": (bench) => bench.write(CLUSTER + 4096, 4096, 2),
  "a smaller disk": (bench) =>
    bench.image.truncate(CLUSTER, { exact: true, preallocation: "off" }) as Promise<void>,
};

const TABLES = [
  ["refcount table", At.refcountTable],
  ["refcount block", At.refcountBlock],
  ["active L1 table", At.l1],
  ["active L2 table", At.l2],
] as const;

for (const [name, at] of TABLES) {
  for (const [way, act] of Object.entries(WAYS)) {
    for (const compressed of [false, true]) {
      const entry = compressed ? "a compressed entry" : "an entry";
      Deno.test(`${entry} that leads to the ${name} does not give it back: ${way}`, async () => {
        const disk = await written();
        setEntry(disk, At.l2 + 8, BigInt(at) | (compressed ? COMPRESSED : 0n));
        const before = disk.bytes.slice(0, 5 * CLUSTER);
        const bench = await Bench.open(disk);
        const message = `Preventing invalid release of a cluster at offset ${at} ` +
          `(overlaps with ${name})`;
        await assert.rejects(async () => await act(bench), { errno: "EIO", message });
        await bench.image.releases.idle();
        // Neither what goes on nor what comes next touches it.
        await assert.rejects(bench.write(0, CLUSTER, 3), /the image is corrupt/);
        await bench.close();
        const { events } = bench.test;
        assert.deepEqual(events.map((event) => event.data), [{
          device: "",
          "node-name": "image",
          msg: message,
          offset: at,
          size: CLUSTER,
          fatal: true,
        }]);
        assert.equal(disk.bytes[79]! & 2, 2, "the corrupt bit");
        assert.deepEqual(
          disk.bytes.subarray(CLUSTER, 5 * CLUSTER),
          before.subarray(CLUSTER),
          "the tables are as they were",
        );
      });
    }
  }
}

Deno.test("an L1 entry that leads to the refcount table does not give it back", async () => {
  const disk = await written();
  setEntry(disk, At.l1, BigInt(At.refcountTable));
  const table = disk.bytes.slice(At.refcountTable, At.refcountBlock);
  const bench = await Bench.open(disk);
  // Its L2 table is not its own, and copied.
  await bench.write(CLUSTER, CLUSTER, 2);
  await bench.backend.flush();
  await bench.image.releases.idle();
  const [event] = bench.test.events;
  const msg = `Preventing invalid release of a cluster at offset ${At.refcountTable} ` +
    "(overlaps with refcount table)";
  assert.equal((event?.data as { msg: string }).msg, msg);
  await assert.rejects(bench.write(8 * CLUSTER, CLUSTER, 3), /the image is corrupt/);
  await bench.close();
  assert.deepEqual(disk.bytes.subarray(At.refcountTable, At.refcountBlock), table);
});

Deno.test("a cluster that is not aligned is not given back; that is told, and does no more harm", async () => {
  const disk = await written();
  setEntry(disk, At.l2, COPIED | BigInt(At.refcountBlock + 512));
  const bench = await Bench.open(disk);
  await bench.backend.discard(0, CLUSTER);
  await bench.backend.flush();
  await bench.write(8 * CLUSTER, 4 * CLUSTER, 3);
  await bench.close();
  assert.deepEqual(bench.test.events.map((event) => event.data), [{
    device: "",
    "node-name": "image",
    msg: "Cannot free unaligned cluster 0x20200",
    fatal: false,
  }]);
  assert.equal(disk.bytes[79]! & 2, 0, "the corrupt bit");
  await check(disk, [3]);
});

Deno.test("a zeroed cluster whose place is not aligned is not read", async () => {
  const disk = await written();
  setEntry(disk, At.l2, COPIED | BigInt(At.data + 512) | 1n);
  const bench = await Bench.open(disk);
  const message = "Cluster allocation offset 0x50200 unaligned (L2 offset: 0x40000, L2 index: 0)";
  await assert.rejects(bench.read(0, 4096), { errno: "EIO", message });
  await bench.close();
});

Deno.test("what a snapshot's table calls data is not given back when it is metadata", async () => {
  const disk = await written();
  const first = await Bench.open(disk);
  await first.image.snapshots.create(
    SNAPSHOT,
  );
  await first.write(0, CLUSTER, 2);
  const { id } = first.image.snapshots.list()[0]!;
  const l1 = first.image.header.l1Offset;
  await first.close();
  const u64 = (at: number) => Number(view.getBigUint64(at) & 0xfffffffffffe00n);
  const view = new DataView(disk.bytes.buffer);
  setEntry(disk, u64(u64(u64(64))), BigInt(l1));
  const bench = await Bench.open(disk);
  const message = `Preventing invalid release of a cluster at offset ${l1} ` +
    "(overlaps with active L1 table)";
  await assert.rejects(bench.image.snapshots.delete(id), { errno: "EIO", message });
  await bench.close();
  assert.equal(disk.bytes[79]! & 2, 2, "the corrupt bit");
});

Deno.test("of a corrupt image no snapshot is taken, and its header stays", async () => {
  const disk = await written();
  setEntry(disk, At.l2, COPIED | BigInt(At.data + 512));
  const bench = await Bench.open(disk);
  await assert.rejects(bench.read(0, 512), { errno: "EIO" });
  const refused = { errno: "EIO", message: "the image is corrupt" };
  const create = () => bench.image.snapshots.create(SNAPSHOT);
  await assert.rejects(create, refused);
  await assert.rejects(bench.image.updateHeader({ backingFile: "x" }), refused);
  await bench.close();
});
