/** The block core at the wrong moment: nothing is lost, closed twice, left drained or waited for without need. */
import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { struct } from "../qmp/schema/core.ts";
import type { BlockBackend } from "./backend_types.ts";
import { MAX_PIECES } from "./bounded.ts";
import { defineDriver } from "./driver_types.ts";
import { ioError, MemoryDisk, type TestGraph, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

const writer = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};

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
    await made.add({ driver: "memory", "node-name": "n", disk: "d", discard: "unmap" });
    const backend = await made.graph.backend("n", writer);
    await body({ ...made, disk, backend });
    await backend.detach();
    await made.graph.closeAll();
    assert.equal(made.context.buffers.inUse, 0, "buffers");
  });
}

const count = (disk: MemoryDisk, op: string) => disk.calls.filter((call) => call.op === op).length;
const ranges = (disk: MemoryDisk, op: string) =>
  disk.calls.filter((call) => call.op === op).map(({ offset, length }) => [offset, length]);

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

for (const latency of ["sync", "async"] as const) {
  test(
    `a flush after a discard that failed half-way reaches the disk (${latency})`,
    (disk) => Object.assign(disk, { latency, limits: { maxDiscard: 4096 } }),
    async ({ disk, backend }) => {
      disk.fault = ({ op, offset }) => op === "discard" && offset > 0 ? ioError() : undefined;
      await assert.rejects(async () => await backend.discard(0, 8192), { errno: "EIO" });
      disk.fault = undefined;
      await backend.flush();
      assert.equal(count(disk, "flush"), 1);
    },
  );

  test(
    `once a piece of a request has failed no more are begun (${latency})`,
    (disk) => Object.assign(disk, { latency, limits: { maxTransfer: 4096 } }),
    async ({ disk, backend, memory }) => {
      disk.fault = ({ offset }) => offset === 0 ? ioError() : undefined;
      const iov = IoVec.of(memory(1 << 20).address, 1 << 20);
      await assert.rejects(async () => await backend.write(0, iov), { errno: "EIO" });
      const begun = count(disk, "write");
      assert.ok(latency === "sync" ? begun === 1 : begun <= MAX_PIECES, `${begun} pieces`);
    },
  );
}

test(
  "pieces of an unaligned write end on blocks: only the first and the last block are read for it",
  (disk) => disk.limits = { maxTransfer: 4096, requestAlignment: 512 },
  async ({ disk, backend, memory }) => {
    await backend.write(100, IoVec.of(memory(10000).address, 10000));
    assert.deepEqual(ranges(disk, "write"), [[0, 4096], [4096, 4096], [8192, 2048]]);
    assert.deepEqual(ranges(disk, "read"), [[0, 512], [9728, 512]]);
  },
);

test(
  "the driver is asked for no byte behind the end of a node whose last sector is short",
  () => {},
  async ({ disk, backend, memory }) => {
    await backend.read(0, IoVec.of(memory(1024).address, 1024));
    assert.deepEqual(ranges(disk, "read"), [[0, 1023]]);
  },
  1023,
);

test(
  "the end of the furthest write is remembered, whichever write is the last",
  () => {},
  async ({ disk, graph, backend, memory }) => {
    const { address } = memory(512);
    for (const latency of ["sync", "async"] as const) {
      disk.latency = latency;
      await backend.write(4096, IoVec.of(address, 512));
      await backend.write(0, IoVec.of(address, 512));
      assert.equal(graph.find("n")!.writeHighest, 4608);
    }
  },
);

Deno.test("a driver that cannot write is not asked to, and be its node made writable", async () => {
  const reader = defineDriver({
    name: "reader",
    kind: "protocol",
    options: struct("BlockdevOptionsReader", {}),
    open: () => ({
      kind: "io" as const,
      size: 4096,
      read: () => {},
      prepareReopen: () => ({ commit: () => {}, abort: () => {} }),
      close: () => {},
    }),
  });
  const { add, graph, memory } = testGraph({}, [reader as never]);
  const options = { driver: "reader", "node-name": "r", "read-only": true } as never;
  await add(options);
  await graph.reopen([{ ...options as object, "read-only": false } as never]);
  const backend = await graph.backend("r", writer);
  const iov = IoVec.of(memory(512).address, 512);
  for (const act of [() => backend.write(0, iov), () => backend.writeZeroes(0, 512)]) {
    const refused = { errno: "EPERM", message: "Block node is read-only" };
    await assert.rejects(async () => await act(), refused);
  }
  await backend.detach();
  await graph.closeAll();
});

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

test(
  "pieces have as many segments as the driver takes",
  (disk) => disk.limits = { maxSegments: 3 },
  async ({ disk, backend, memory }) => {
    const { address } = memory(8192);
    const scattered = (segments: number) => {
      const iov = new IoVec();
      for (let i = 0; i < segments; i++) iov.add(address + i * 1024, 512);
      return iov;
    };
    const pieces = async (segments: number) => {
      disk.calls.length = 0;
      await backend.read(0, scattered(segments));
      return ranges(disk, "read").map(([, length]) => length! / 512);
    };
    assert.deepEqual(await pieces(3), [3]);
    assert.deepEqual(await pieces(4), [3, 1]);
    assert.deepEqual(await pieces(7), [3, 3, 1]);
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
