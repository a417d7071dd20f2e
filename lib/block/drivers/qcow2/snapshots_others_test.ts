/** Snapshot tables as others write them, or break them; and what is refused while a snapshot is in use. */
import assert from "node:assert/strict";
import { KiB, MiB } from "../../../base/mod.ts";
import { ioError } from "../../testing.ts";
import { readSnapshotTable, serialiseSnapshotTable, type Snapshot } from "./snapshots_table.ts";
import { Bench, check, diskOf } from "./testing_bench.ts";

const CLUSTER = 4 * KiB;
const text = new TextEncoder();
const now = (name: string) => ({ name, dateSec: 1, dateNsec: 2, vmClockNsec: 3n });

/** An image with data, and a snapshot of it for each of `changes`; its table says what these say. */
async function withTable(changes: readonly Partial<Snapshot>[]): Promise<Bench> {
  const disk = await diskOf("-o", `cluster_size=${CLUSTER}`, "1M");
  const made = await Bench.open(disk);
  await made.write(0, 64 * KiB, 1);
  for (let i = 0; i < changes.length; i++) await made.image.snapshots.create(now(`s${i}`));
  await made.close();
  const { snapshotsOffset, snapshotCount } = made.image.header;
  const read = (offset: number, length: number) => {
    const bytes = new Uint8Array(length);
    bytes.set(disk.bytes.subarray(offset, offset + length));
    return Promise.resolve(bytes);
  };
  const { snapshots } = await readSnapshotTable(read, snapshotsOffset, snapshotCount);
  const table = serialiseSnapshotTable(snapshots.map((one, i) => ({ ...one, ...changes[i] })), 0);
  assert.ok(table.length <= CLUSTER);
  disk.bytes.set(table, snapshotsOffset);
  return await Bench.open(disk);
}

Deno.test("a new snapshot's identifier is one more than the highest number, whatever else there is", async () => {
  const ids = ["7", " +41", "x99", "", "12a", "9007199254740991"];
  const bench = await withTable(ids.map((id) => ({ id: text.encode(id) })));
  const { snapshots } = bench.image;
  await snapshots.create(now("new"));
  assert.deepEqual(snapshots.list().map(({ id }) => id), [...ids, "42"]);
  await bench.close();
  await check(bench.disk);
});

Deno.test("of a name as many bytes are kept as the original keeps", async () => {
  const bench = await withTable([]);
  await bench.image.snapshots.create(now("n".repeat(300)));
  assert.equal(bench.image.snapshots.list()[0]!.name, "n".repeat(255));
  await bench.close();
  await check(bench.disk);
});

Deno.test("a snapshot stays until the last of its readers is gone", async () => {
  const bench = await withTable([{}]);
  const { snapshots } = bench.image;
  const views = [await snapshots.view("1"), await snapshots.view("1")];
  for (const view of views) {
    await assert.rejects(snapshots.delete("1"), { errno: "EBUSY" });
    await view.close();
  }
  await snapshots.delete("1");
  await bench.close();
  await check(bench.disk);
});

Deno.test("a snapshot that could not be opened for reading is not in use", async () => {
  const bench = await withTable([{}]);
  const { snapshots } = bench.image;
  bench.disk.fault = ({ op }) => op === "read" ? ioError() : undefined;
  await assert.rejects(snapshots.view("1"), { errno: "EIO" });
  bench.disk.fault = undefined;
  await snapshots.delete("1");
  await bench.close();
  await check(bench.disk);
});

Deno.test("tables of snapshots are looked after from the moment in which they are there", async () => {
  const bench = await withTable([]);
  const { image } = bench;
  await image.snapshots.create(now("a"));
  const { l1Offset } = image.snapshots.find("1");
  const places = [
    [image.header.snapshotsOffset, "snapshot table"],
    [Number(l1Offset), "inactive L1 table"],
  ] as const;
  for (const [offset, kind] of places) {
    await assert.rejects(image.writeMetadata(offset, new Uint8Array(8), "active L2 table"), {
      message: `Preventing invalid write on metadata (overlaps with ${kind})`,
    });
  }
  await bench.close();
});

const broken: readonly (readonly [string, Partial<Snapshot>, string])[] = [
  ["is longer than any may be", { l1Size: 4 * MiB + 1 }, "Snapshot L1 table too large"],
  ["lies at no cluster", { l1Offset: 512n }, "Snapshot L1 table offset invalid"],
  ["lies beyond all offsets", { l1Offset: 2n ** 53n }, "Snapshot L1 table offset invalid"],
];
for (const [what, change, message] of broken) {
  Deno.test(`a snapshot whose L1 table ${what} is listed, and not used`, async () => {
    const bench = await withTable([change]);
    const { snapshots } = bench.image;
    const refused = { errno: "EINVAL", message };
    assert.equal(snapshots.list().length, 1);
    await assert.rejects(snapshots.view("1"), refused);
    await assert.rejects(snapshots.apply("1"), refused);
    await assert.rejects(snapshots.delete("1"), refused);
    assert.ok((await bench.read(0, 64 * KiB)).every((byte) => byte === 1));
    await bench.close();
  });
}

Deno.test("a snapshot whose tables cannot reach the end of its disk is not read", async () => {
  const bench = await withTable([{ l1Size: 0 }, { diskSize: 2n ** 62n }]);
  const { snapshots } = bench.image;
  const short = { errno: "EINVAL", message: "Snapshot L1 table is too small" };
  await assert.rejects(snapshots.view("1"), short);
  await assert.rejects(snapshots.view("2"), short);
  const large = { errno: "EINVAL", message: "Snapshot of too large a disk" };
  await assert.rejects(snapshots.apply("2"), large);
  assert.equal(bench.image.size, MiB);
  await bench.close();
});

Deno.test("a snapshot is not applied to a disk that another length was given meanwhile", async () => {
  const bench = await withTable([{}]);
  const { image } = bench;
  const how = { exact: true, preallocation: "off" } as const;
  await image.truncate(2 * MiB, how);
  const outcome = assert.rejects(image.snapshots.apply("1"), {
    errno: "EINVAL",
    message: "The snapshot is of a disk of another length",
  });
  await image.truncate(3 * MiB, how);
  await outcome;
  assert.equal(image.size, 3 * MiB);
  assert.ok((await bench.read(0, 64 * KiB)).every((byte) => byte === 1));
  await bench.close();
  await check(bench.disk);
});

Deno.test("a disk whose bitmaps would not learn of it does not go back to a snapshot", async () => {
  const bench = await withTable([{}]);
  const { image } = bench;
  const bitmaps = { count: 1, directorySize: 32, directoryOffset: 0 };
  await image.updateHeader({ bitmaps });
  const refused = { errno: "ENOTSUP", message: "Device has active dirty bitmaps" };
  await assert.rejects(image.snapshots.apply("1"), refused);
  await image.updateHeader({ bitmaps: undefined });
  await image.snapshots.apply("1");
  await bench.close();
  await check(bench.disk);
});
