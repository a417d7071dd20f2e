/** The block core at the wrong moment: nothing is lost, closed twice, left drained or waited for without need. */
import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import type { BlockBackend } from "./backend_types.ts";
import { ioError, MemoryDisk, type TestGraph, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

/** Runs `body` with node `n` on a memory disk, and a user that may write. */
function test(
  name: string,
  prepare: (disk: MemoryDisk) => void,
  body: (made: TestGraph & { disk: MemoryDisk; backend: BlockBackend }) => Promise<void>,
  size = 1 << 20,
): void {
  Deno.test(name, async () => {
    const disk = new MemoryDisk(size);
    prepare(disk);
    const made = testGraph({ d: disk });
    await made.add({ driver: "memory", "node-name": "n", disk: "d" });
    const backend = await made.graph.backend("n", {
      describe: "an unnamed block device",
      needed: Perm.consistentRead | Perm.write,
      shared: Perm.all,
    });
    await body({ ...made, disk, backend });
    await backend.detach();
    await made.graph.closeAll();
    assert.equal(made.context.buffers.inUse, 0, "buffers");
  });
}

const count = (disk: MemoryDisk, op: string) => disk.calls.filter((call) => call.op === op).length;

test(
  "a flush waits for no flush that began after it and covers it",
  () => {},
  async ({ disk, backend, memory }) => {
    const iov = IoVec.of(memory(512).address, 512);
    const write = () => {
      disk.latency = "sync";
      assert.equal(backend.write(0, iov), undefined);
      disk.latency = "held";
    };
    write();
    const flushes = [backend.flush()];
    write();
    flushes.push(backend.flush(), backend.flush());
    disk.held[0]!.release();
    await disk.arrivals(1);
    write();
    disk.held[0]!.release();
    await Promise.all(flushes);
    assert.equal(count(disk, "flush"), 2);
    const last = backend.flush();
    await disk.arrivals(1);
    disk.held[0]!.release();
    await last;
  },
);

test(
  "a flush after a zero write that failed half-way reaches the disk",
  (disk) => disk.limits = { writeZeroesAlignment: 4096 },
  async ({ disk, backend }) => {
    disk.fault = ({ op, offset }) => op === "write-zeroes" && offset > 0 ? ioError() : undefined;
    assert.throws(() => backend.writeZeroes(0, 5000), { errno: "EIO" });
    disk.fault = undefined;
    await backend.flush();
    assert.equal(count(disk, "flush"), 1);
  },
);

test(
  "zeroes that go as data leave turns to others",
  (disk) => disk.canZero = false,
  async ({ disk, graph, backend }) => {
    disk.bytes.fill(7);
    disk.fault = () => {
      // Its clock goes on by a microsecond whenever it is looked at: each write takes its time.
      for (let us = 0; us < 600; us++) graph.context.sys.monotonicNs();
      return undefined;
    };
    const zeroed = backend.writeZeroes(512, (20 << 20) - 512);
    assert.ok(count(disk, "write") <= 2, `${count(disk, "write")} writes at once`);
    await zeroed;
    assert.equal(disk.bytes.findIndex((byte) => byte === 0), 512);
    assert.ok(disk.bytes.subarray(512).every((byte) => byte === 0));
  },
  20 << 20,
);

test(
  "a driver that cannot quiesce leaves nothing drained",
  () => {},
  async ({ disk, graph, backend, memory }) => {
    const fields = Object.getOwnPropertyDescriptor(disk, "quiesced")!;
    Object.defineProperty(disk, "quiesced", {
      ...{ configurable: true, get: () => assert.fail("cannot quiesce"), set: () => {} },
    });
    await assert.rejects(graph.drain(), { message: "cannot quiesce" });
    Object.defineProperty(disk, "quiesced", fields);
    assert.equal(backend.read(0, IoVec.of(memory(512).address, 512)), undefined);
    (await graph.drain()).end();
    assert.equal(disk.quiesced, 0);
  },
);

for (const alignment of [1, 512]) {
  test(
    `requests of more segments than the driver takes are split (alignment ${alignment})`,
    (disk) => disk.limits = { maxSegments: 3, requestAlignment: alignment },
    async ({ disk, backend, memory }) => {
      const source = Uint8Array.from({ length: 8192 }, (_, i) => i * 7);
      const { address } = memory(source);
      const scattered = (base: number) => {
        const iov = new IoVec();
        // In turn from the front and the back, so that no two segments are neighbours.
        for (let i = 0; i < 8; i++) iov.add(base + (i % 2 === 0 ? i : 8 - i) * 1024, 1024);
        return iov;
      };
      await backend.write(512, scattered(address));
      const target = memory(8192);
      await backend.read(512, scattered(target.address));
      assert.deepEqual(target.bytes.subarray(0, 8192), source);
      assert.deepEqual(disk.bytes.subarray(512, 1536), source.subarray(0, 1024));
      assert.deepEqual(disk.bytes.subarray(1536, 2560), source.subarray(7168, 8192));
    },
  );
}

Deno.test("a child that two parents give up in one reopen is closed once", async () => {
  const disks = { d: new MemoryDisk(4096), e: new MemoryDisk(4096) };
  const { add, graph } = testGraph(disks);
  await add({ driver: "memory", "node-name": "y", disk: "e" });
  const raw = (name: string, file: unknown) => ({ driver: "raw", "node-name": name, file });
  await add(raw("a", { driver: "memory", "node-name": "x", disk: "d" }));
  await add(raw("b", "x"));
  await graph.reopen([raw("a", "y"), raw("b", "y")]);
  assert.equal(disks.d.closed, 1);
  assert.equal(graph.find("x"), undefined);
  await graph.closeAll();
  assert.equal(disks.e.closed, 1);
});
