/** The snapshot table: what is written is read, what is not known is kept, and what is too much is refused. */
import assert from "node:assert/strict";
import { readSnapshotTable, serialiseSnapshotTable, type Snapshot } from "./snapshots_table.ts";

const text = new TextEncoder();

function snapshot(change: Partial<Snapshot> = {}): Snapshot {
  const extra = new Uint8Array(40).fill(7);
  return {
    l1Offset: 0x123450000n,
    l1Size: 77,
    id: text.encode("1"),
    name: text.encode("a name"),
    dateSec: 1700000000,
    dateNsec: 999999999,
    vmClockNsec: 123456789012345n,
    vmStateSize: 2n ** 33n,
    diskSize: 5n << 30n,
    icount: 0x0707070707070707n,
    extra,
    ...change,
  };
}

/** `bytes` lie at 4096; what is behind them is zero. */
const from = (bytes: Uint8Array) => (offset: number, length: number) => {
  const out = new Uint8Array(length);
  const start = offset - 4096;
  out.set(bytes.subarray(Math.min(start, bytes.length), start + length));
  return Promise.resolve(out);
};

Deno.test("a table is read as it was written, unknown extra data included", async () => {
  const list = [snapshot(), snapshot({ id: text.encode("22"), name: text.encode("") })];
  const bytes = serialiseSnapshotTable(list, 0);
  const { snapshots, length } = await readSnapshotTable(from(bytes), 4096, 2);
  assert.equal(Math.ceil(length / 8) * 8, bytes.length);
  for (const [i, one] of snapshots.entries()) {
    const { extra, ...rest } = one;
    const { extra: _, ...expected } = list[i]!;
    assert.deepEqual(rest, expected);
    assert.deepEqual(extra.subarray(16), list[i]!.extra.subarray(16));
  }
  assert.deepEqual(serialiseSnapshotTable(snapshots, 0), bytes);
});

Deno.test("an entry without extra data gets the length of the disk when it is written", async () => {
  const old = snapshot({ extra: new Uint8Array(), diskSize: undefined, vmStateSize: 9n });
  const bytes = serialiseSnapshotTable([old], 12345);
  const { snapshots: [one] } = await readSnapshotTable(from(bytes), 4096, 1);
  assert.equal(one!.diskSize, 12345n);
  assert.equal(one!.vmStateSize, 9n);
  assert.equal(one!.icount, undefined);
});

Deno.test("an instruction count of -1 is none", async () => {
  const extra = new Uint8Array(24).fill(0xff);
  const bytes = serialiseSnapshotTable([snapshot({ extra, diskSize: 512n })], 0);
  const { snapshots: [one] } = await readSnapshotTable(from(bytes), 4096, 1);
  assert.equal(one!.icount, undefined);
});

Deno.test("too much extra data is refused before it is read", async () => {
  const bytes = serialiseSnapshotTable([snapshot()], 0);
  new DataView(bytes.buffer).setUint32(36, 0xffffffff);
  let most = 0;
  const read = (offset: number, length: number) => {
    most = Math.max(most, length);
    return from(bytes)(offset, length);
  };
  await assert.rejects(readSnapshotTable(read, 4096, 1), {
    errno: "EFBIG",
    message: "Too much extra metadata in snapshot table entry 0",
  });
  assert.ok(most <= 65536);
});

Deno.test("a table that is too large in all is refused", async () => {
  const one = snapshot({ name: new Uint8Array(65535) });
  const bytes = serialiseSnapshotTable([one], 0);
  const again = (offset: number, length: number) =>
    from(bytes)(4096 + (offset - 4096) % bytes.length, length);
  await assert.rejects(readSnapshotTable(again, 4096, 65536), { errno: "EFBIG" });
  assert.throws(() => serialiseSnapshotTable(new Array(1100).fill(one), 0), { errno: "EFBIG" });
});

Deno.test("entries that hold no bytes of their own keep no memory of their own", async () => {
  // All that a header claims past the end of its file.
  const count = 65536;
  const { snapshots } = await readSnapshotTable(from(new Uint8Array(0)), 4096, count);
  assert.equal(snapshots.length, count);
  const kept = snapshots.flatMap(({ id, name, extra }) => [id.buffer, name.buffer, extra.buffer]);
  assert.ok(new Set(kept).size < 5);
});

Deno.test("what small entries hold is kept together", async () => {
  const names = Array.from({ length: 3000 }, (_, i) => new TextEncoder().encode(`name ${i}`));
  const bytes = serialiseSnapshotTable(names.map((name) => snapshot({ name })), 0);
  const { snapshots } = await readSnapshotTable(from(bytes), 4096, names.length);
  assert.deepEqual(snapshots.map(({ name }) => name), names);
  const kept = new Set(
    snapshots.flatMap(({ id, name, extra }) => [id, name, extra].map((part) => part.buffer)),
  );
  assert.ok(kept.size < 10, `${kept.size} pieces of memory`);
});

Deno.test("as much extra data as is allowed is kept", async () => {
  const extra = new Uint8Array(1024).fill(7);
  const bytes = serialiseSnapshotTable([snapshot({ extra })], 0);
  const { snapshots: [one] } = await readSnapshotTable(from(bytes), 4096, 1);
  assert.equal(one!.extra.length, 1024);
});

Deno.test("a size of VM state that does not fit its old field is the largest there", () => {
  for (
    const [size, field] of [[2n ** 32n - 1n, 0xffffffff], [2n ** 32n, 0xffffffff], [7n, 7]] as const
  ) {
    const bytes = serialiseSnapshotTable([snapshot({ vmStateSize: size })], 0);
    assert.equal(new DataView(bytes.buffer).getUint32(32), field);
  }
});
