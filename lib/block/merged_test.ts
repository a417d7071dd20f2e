/** Plans that end in one write: what is read and written for them, and when. */
import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { BlockdevRef } from "../qmp/schema/blockdev.ts";
import { struct } from "../qmp/schema/core.ts";
import { ioError, MemoryDisk, testGraph } from "./testing.ts";
import { defineDriver, type DriverDefinition } from "./driver_types.ts";
import { type FormatInstance, Perm } from "./types.ts";

const user = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};
const CLUSTER = 65536;

/** Copies a cluster from the backing file when it is written first; it lies at the same place in the file. */
const overlay = defineDriver({
  name: "overlay",
  kind: "format",
  options: struct("BlockdevOptionsOverlay", { file: BlockdevRef, backing: BlockdevRef }),
  async open(open): Promise<FormatInstance> {
    const file = await open.child("file", { role: ["metadata", "data", "primary"] });
    const backing = await open.child("backing", { role: ["cow"] });
    const own = new Set<number>();
    return {
      kind: "format",
      size: backing.size,
      locate(start, length, out) {
        const cluster = Math.floor(start / CLUSTER);
        const left = Math.min(length, (cluster + 1) * CLUSTER - start);
        if (own.has(cluster)) out.inChild(file, start, left);
        else out.unallocated(backing, left);
      },
      reserve(start, length, plan) {
        const cluster = Math.floor(start / CLUSTER);
        const end = Math.min(start + length, (cluster + 1) * CLUSTER);
        if (own.has(cluster)) return plan.inChild(file, start, end - start);
        const base = cluster * CLUSTER;
        if (start > base) plan.copy(base, file, base, start - base);
        plan.inChild(file, start, end - start);
        if (end < base + CLUSTER) plan.copy(end, file, end, base + CLUSTER - end);
        plan.onCommit(() => void own.add(cluster));
        plan.onAbandon(() => void abandoned.push(cluster));
      },
      close() {},
    };
  },
}) as DriverDefinition<never>;
const abandoned: number[] = [];

async function setUp() {
  const disks = {
    top: new MemoryDisk(4 * CLUSTER),
    middle: new MemoryDisk(4 * CLUSTER),
    base: new MemoryDisk(4 * CLUSTER),
  };
  for (let i = 0; i < disks.base.bytes.length; i++) disks.base.bytes[i] = (i * 7 + (i >> 8)) & 255;
  const made = testGraph(disks, [overlay]);
  const disk = (name: string) => ({ driver: "memory", disk: name });
  abandoned.length = 0;
  await made.add({ driver: "overlay", "node-name": "o", file: disk("top"), backing: disk("base") });
  const backend = await made.graph.backend("o", user);
  const expected = disks.base.bytes.slice();
  const check = async () => {
    const back = made.memory(4 * CLUSTER);
    await backend.read(0, IoVec.of(back.address, 4 * CLUSTER));
    assert.deepEqual(back.bytes.subarray(0, 4 * CLUSTER), expected);
    assert.equal(made.graph.context.buffers.inUse, 0);
  };
  const end = async () => {
    await check();
    await backend.detach();
    await made.graph.closeAll();
  };
  /** Starts a write of `length` bytes of `value`; what is expected is as if it succeeded. */
  const write = (offset: number, length: number, value: number) => {
    const { address } = made.memory(new Uint8Array(length).fill(value));
    expected.fill(value, offset, offset + length);
    return backend.write(offset, IoVec.of(address, length));
  };
  return { ...made, ...disks, backend, expected, check, end, write };
}

const callsOf = (disk: MemoryDisk) =>
  disk.calls.map(({ op, offset, length }) => `${op} ${length} at ${offset}`);

Deno.test("a small write to a new cluster is one read and one write, done at once", async () => {
  const { top, base, write, end } = await setUp();
  assert.equal(write(CLUSTER + 4096, 4096, 1), undefined);
  assert.deepEqual(callsOf(base), [`read ${CLUSTER} at ${CLUSTER}`]);
  assert.deepEqual(callsOf(top), [`write ${CLUSTER} at ${CLUSTER}`]);
  assert.deepEqual(abandoned, []);
  await end();
});

Deno.test("only what is missing is read: before, behind, around, or nothing", async () => {
  const { top, base, write, end } = await setUp();
  assert.equal(write(0, CLUSTER, 1), undefined);
  assert.deepEqual(callsOf(base), []);
  assert.equal(write(CLUSTER, 1000, 2), undefined);
  assert.equal(write(3 * CLUSTER - 1000, 1000, 3), undefined);
  assert.equal(write(3 * CLUSTER + 1000, 50_000, 4), undefined);
  assert.deepEqual(callsOf(base), [
    `read ${CLUSTER - 1000} at ${CLUSTER + 1000}`,
    `read ${CLUSTER - 1000} at ${2 * CLUSTER}`,
    `read 1000 at ${3 * CLUSTER}`,
    `read ${CLUSTER - 51_000} at ${3 * CLUSTER + 51_000}`,
  ]);
  assert.deepEqual(
    callsOf(top),
    [0, 1, 2, 3].map((i) => `write ${CLUSTER} at ${i * CLUSTER}`),
  );
  await end();
});

Deno.test("a write over the end of a cluster is planned in parts, each of them one write", async () => {
  const { top, write, end } = await setUp();
  await write(CLUSTER - 512, 1024, 9);
  assert.deepEqual(callsOf(top), [`write ${CLUSTER} at 0`, `write ${CLUSTER} at ${CLUSTER}`]);
  await end();
});

Deno.test("what is read late is written when it is there", async () => {
  const { top, base, write, end } = await setUp();
  base.latency = "held";
  const done = write(1000, 50_000, 5);
  assert.equal(base.held.length, 2);
  base.held[1]!.release();
  await Promise.resolve();
  assert.deepEqual(top.calls, []);
  base.held[0]!.release();
  await done;
  assert.equal(top.calls.length, 1);
  base.latency = "sync";
  await end();
});

Deno.test("when a read fails the plan is abandoned after the other one has ended", async () => {
  const { top, base, write, expected, end, graph } = await setUp();
  base.latency = "held";
  const before = expected.slice();
  const failed = assert.rejects(async () => await write(1000, 50_000, 5), { errno: "EIO" });
  base.held[0]!.release(ioError("EIO"));
  for (let i = 0; i < 10; i++) await Promise.resolve();
  assert.deepEqual(abandoned, []);
  assert.notEqual(graph.context.buffers.inUse, 0, "the other read still needs its memory");
  base.held[0]!.release();
  await failed;
  assert.deepEqual([abandoned, top.calls], [[0], []]);
  expected.set(before);
  base.latency = "sync";
  await end();
});

Deno.test("a read or write that fails at once abandons the plan and gives the memory back", async () => {
  const { top, base, write, expected, end } = await setUp();
  const before = expected.slice();
  for (const disk of [base, top]) {
    disk.fault = () => ioError("ENOSPC");
    assert.throws(() => write(4096, 4096, 5), { errno: "ENOSPC" });
    assert.throws(() => write(1000, 50_000, 5), { errno: "ENOSPC" });
    disk.fault = undefined;
  }
  assert.deepEqual(abandoned, [0, 0, 0, 0]);
  expected.set(before);
  await end();
});

Deno.test("what the data replaces need not be readable", async () => {
  const { base, write, end } = await setUp();
  base.fault = ({ op, offset, length }) =>
    op === "read" && offset < 8192 && offset + length > 4096 ? ioError("EIO") : undefined;
  assert.equal(write(4096, 4096, 8), undefined);
  base.fault = undefined;
  await end();
});

Deno.test("formats on formats: plans of those below do not disturb the one above", async () => {
  const { add, graph, memory, base, end } = await setUp();
  const disk = (name: string) => ({ driver: "memory", disk: name });
  await add({
    driver: "overlay",
    "node-name": "stack",
    file: { driver: "overlay", file: disk("middle"), backing: disk("base") },
    backing: "o",
  });
  const backend = await graph.backend("stack", user);
  const { address } = memory(new Uint8Array(4096).fill(6));
  assert.equal(backend.write(8192, IoVec.of(address, 4096)), undefined);
  assert.equal(backend.write(CLUSTER + 8192, IoVec.of(address, 4096)), undefined);
  const expected = base.bytes.slice();
  expected.fill(6, 8192, 8192 + 4096).fill(6, CLUSTER + 8192, CLUSTER + 8192 + 4096);
  const back = memory(4 * CLUSTER);
  await backend.read(0, IoVec.of(back.address, 4 * CLUSTER));
  assert.deepEqual(back.bytes.subarray(0, 4 * CLUSTER), expected);
  await backend.detach();
  await end();
});
