import assert from "node:assert/strict";
import { BlockError, IoVec } from "../base/mod.ts";
import type { BlockBackend } from "./backend_types.ts";
import { ioError, MemoryDisk, type TestGraph, testGraph } from "./testing.ts";
import { Perm, RequestFlag } from "./types.ts";

const writer = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};

interface Setup extends TestGraph {
  readonly disk: MemoryDisk;
  readonly backend: BlockBackend;
  end(): Promise<void>;
}

/** A raw node on a memory disk of 1 MiB; `more`: options of both. */
async function setUp(
  more: Record<string, unknown> = {},
  prepare: (disk: MemoryDisk) => void = () => {},
  user: Partial<Parameters<TestGraph["graph"]["backend"]>[1]> = {},
): Promise<Setup> {
  const disk = new MemoryDisk(1 << 20);
  prepare(disk);
  const made = testGraph({ d: disk });
  await made.add({ driver: "memory", "node-name": "n", disk: "d", ...more });
  const backend = await made.graph.backend("n", { ...writer, ...user });
  const end = async () => {
    disk.latency = "sync";
    disk.fault = undefined;
    for (const call of [...disk.held]) call.release();
    await backend.detach();
    await made.graph.closeAll();
    assert.equal(made.context.buffers.inUse, 0, "buffers");
  };
  return { ...made, disk, backend, end };
}
const ops = (disk: MemoryDisk) =>
  disk.calls.map(({ op, offset, length }) => `${op} ${offset}+${length}`);

Deno.test("what the driver does at once completes at once, and is on no list", async () => {
  const { graph, backend, memory, end } = await setUp();
  const { address } = memory(4096);
  assert.equal(backend.write(0, IoVec.of(address, 4096)), undefined);
  assert.equal(backend.read(0, IoVec.of(address, 4096)), undefined);
  assert.equal(backend.writeZeroes(0, 4096), undefined);
  assert.equal(backend.flush(), undefined);
  assert.deepEqual(graph.requests(), []);
  assert.deepEqual(backend.statistics, {
    read: { operations: 1, bytes: 4096, failed: 0 },
    write: { operations: 2, bytes: 8192, failed: 0 },
    flush: { operations: 1, bytes: 0, failed: 0 },
    discard: { operations: 0, bytes: 0, failed: 0 },
  });
  await end();
});

Deno.test("requests in flight can be seen until they complete", async () => {
  const { graph, disk, backend, memory, end } = await setUp({}, (d) => d.latency = "held");
  const { address } = memory(512);
  const read = backend.read(1024, IoVec.of(address, 512));
  const [request] = graph.requests();
  assert.deepEqual({ ...request, startedNs: 0 }, {
    op: "read",
    node: "n",
    offset: 1024,
    length: 512,
    startedNs: 0,
  });
  assert.ok(request!.startedNs > 0);
  assert.equal(graph.find("n")!.requests.size, 1);
  assert.equal(backend.inFlight, 1);
  let idle = false;
  const waiting = backend.idle().then(() => idle = true);
  disk.held[0]!.release(ioError());
  await assert.rejects(async () => await read, { errno: "EIO" });
  await waiting;
  assert.ok(idle);
  assert.equal(backend.inFlight, 0);
  assert.equal(graph.find("n")!.requests.size, 0);
  assert.equal(backend.statistics.read.failed, 1);
  await end();
});

Deno.test("requests beyond maxTransfer are split on block boundaries", async () => {
  const { disk, backend, memory, end } = await setUp({}, (d) => {
    d.limits = { maxTransfer: 4096, requestAlignment: 512 };
  });
  const { address } = memory(12288);
  await backend.read(512, IoVec.of(address, 10240));
  assert.deepEqual(ops(disk), ["read 512+4096", "read 4608+4096", "read 8704+2048"]);
  await end();
});

Deno.test("FUA is emulated with one flush where the driver has none", async () => {
  for (const [supported, calls] of [[0, ["write", "flush"]], [1, ["write"]]] as const) {
    const { disk, backend, memory, end } = await setUp({}, (d) => d.supportedFlags = supported);
    await backend.write(0, IoVec.of(memory(512).address, 512), RequestFlag.fua);
    assert.deepEqual(disk.calls.map((call) => call.op), calls);
    assert.equal(disk.calls[0]!.flags, supported);
    await end();
  }
});

Deno.test("a writethrough user's writes are all on stable storage", async () => {
  const { disk, backend, memory, end } = await setUp({}, () => {}, { writethrough: true });
  await backend.write(0, IoVec.of(memory(512).address, 512));
  await backend.writeZeroes(0, 512);
  assert.deepEqual(disk.calls.map((call) => call.op), ["write", "flush", "write-zeroes", "flush"]);
  await end();
});

Deno.test("a flush is sent only when something was written since the last", async () => {
  const { disk, backend, memory, end } = await setUp();
  const iov = IoVec.of(memory(512).address, 512);
  await backend.flush();
  await backend.write(0, iov);
  await backend.flush();
  await backend.flush();
  assert.deepEqual(disk.calls.map((call) => call.op), ["write", "flush"]);
  disk.fault = ({ op }) => op === "flush" ? ioError() : undefined;
  await backend.write(0, iov);
  await assert.rejects(async () => await backend.flush(), { errno: "EIO" });
  disk.fault = undefined;
  await backend.flush();
  assert.equal(disk.calls.at(-1)!.op, "flush", "a failed flush covers nothing");
  await end();
});

Deno.test("a write that failed may have been made in part: the next flush is sent", async () => {
  for (const latency of ["sync", "async"] as const) {
    const { disk, backend, memory, end } = await setUp();
    disk.latency = latency;
    disk.fault = ({ op }) => op.startsWith("write") ? ioError() : undefined;
    const iov = IoVec.of(memory(512).address, 512);
    const requests = {
      write: async () => await backend.write(0, iov),
      zeroes: async () => await backend.writeZeroes(0, 4096),
    };
    for (const [name, request] of Object.entries(requests)) {
      await assert.rejects(request, { errno: "EIO" });
      disk.calls.length = 0;
      await backend.flush();
      assert.deepEqual(disk.calls.map((call) => call.op), ["flush"], `${name}, ${latency}`);
    }
    await end();
  }
});

Deno.test("flushes that come together share one, unless a write came between", async () => {
  const { disk, backend, memory, end } = await setUp();
  const iov = IoVec.of(memory(512).address, 512);
  await backend.write(0, iov);
  disk.latency = "held";
  const flushes = [backend.flush(), backend.flush()];
  assert.deepEqual(disk.held.map((call) => call.op), ["flush"]);
  const write = backend.write(512, iov);
  disk.held[1]!.release();
  await write;
  flushes.push(backend.flush());
  disk.held[0]!.release();
  await disk.arrivals(1);
  assert.equal(disk.held.length, 1);
  disk.held[0]!.release();
  await Promise.all(flushes);
  assert.deepEqual(disk.calls.map((call) => call.op), ["write", "flush", "write", "flush"]);
  await end();
});

Deno.test("cache.no-flush drops flushes", async () => {
  const { disk, backend, memory, end } = await setUp({ cache: { "no-flush": true } });
  await backend.write(0, IoVec.of(memory(512).address, 512));
  await backend.flush();
  assert.deepEqual(disk.calls.map((call) => call.op), ["write"]);
  await end();
});

Deno.test("detect-zeroes turns zeroes into zero writes", async () => {
  for (
    const [options, op, flags] of [
      [{}, "write", 0],
      [{ "detect-zeroes": "on" }, "write-zeroes", 0],
      [{ "detect-zeroes": "unmap", discard: "unmap" }, "write-zeroes", RequestFlag.mayUnmap],
    ] as const
  ) {
    const { disk, backend, memory, end } = await setUp(options);
    const buffer = memory(1024);
    await backend.write(0, IoVec.of(buffer.address, 1024));
    assert.deepEqual([disk.calls[0]!.op, disk.calls[0]!.flags], [op, flags]);
    buffer.bytes[1023] = 1;
    await backend.write(0, IoVec.of(buffer.address, 1024));
    assert.equal(disk.calls[1]!.op, "write");
    await end();
  }
});

Deno.test("discard=ignore drops discards, but zeroes that a user of the node writes may unmap", async () => {
  const { disk, backend, end } = await setUp({ discard: "ignore" });
  await backend.discard(0, 4096);
  await backend.writeZeroes(0, 4096, RequestFlag.mayUnmap);
  const calls = disk.calls.map(({ op, flags }) => [op, flags]);
  assert.deepEqual(calls, [["write-zeroes", RequestFlag.mayUnmap]]);
  await end();
});

Deno.test("zeroes that come from a parent may unmap where the child's discard says so", async () => {
  for (const [discard, flags] of [["unmap", RequestFlag.mayUnmap], ["ignore", 0]] as const) {
    const disk = new MemoryDisk(1 << 20);
    const { graph, add } = testGraph({ d: disk });
    const file = { driver: "memory", disk: "d", discard };
    await add({ driver: "raw", "node-name": "r", discard: "unmap", file } as never);
    const backend = await graph.backend("r", writer);
    await backend.writeZeroes(0, 4096, RequestFlag.mayUnmap);
    assert.deepEqual(disk.calls.map(({ op, flags }) => [op, flags]), [["write-zeroes", flags]]);
    await backend.detach();
    await graph.closeAll();
  }
});

Deno.test("discards keep to whole blocks and fail for nobody who cannot", async () => {
  const { disk, backend, end } = await setUp({ discard: "unmap" }, (d) => {
    d.limits = { discardAlignment: 4096, maxDiscard: 8192 };
  });
  await backend.discard(100, 20000);
  assert.deepEqual(ops(disk), ["discard 4096+8192", "discard 12288+4096"]);
  disk.fault = () => new BlockError("ENOTSUP", "cannot");
  await backend.discard(0, 4096);
  disk.fault = () => ioError();
  await assert.rejects(async () => await backend.discard(0, 4096), { errno: "EIO" });
  await end();
});

Deno.test("zeroes that the driver cannot write go as data, unless that is refused", async () => {
  const { disk, backend, memory, end } = await setUp();
  disk.fault = ({ op }) => op === "write-zeroes" ? new BlockError("EOPNOTSUPP", "no") : undefined;
  await backend.write(0, IoVec.of(memory(new Uint8Array(8192).fill(1)).address, 8192));
  await assert.rejects(
    async () => await backend.writeZeroes(0, 4096, RequestFlag.noFallback),
    { kind: "not-supported" },
  );
  await backend.writeZeroes(0, 4096);
  assert.ok(disk.bytes.subarray(0, 4096).every((byte) => byte === 0));
  assert.equal(disk.bytes[4096], 1);
  disk.fault = ({ op }) => op === "write-zeroes" ? ioError("ENOSPC") : undefined;
  await assert.rejects(async () => await backend.writeZeroes(0, 4096), { errno: "ENOSPC" });
  await end();
});

Deno.test("the write threshold tells once, with what was beyond it", async () => {
  const { graph, backend, memory, events, end } = await setUp();
  const iov = IoVec.of(memory(512).address, 512);
  graph.find("n")!.writeThreshold = 1000;
  await backend.write(0, iov);
  assert.deepEqual(events, []);
  await backend.write(1024, iov);
  await backend.write(2048, iov);
  assert.deepEqual(events, [{
    name: "BLOCK_WRITE_THRESHOLD",
    data: { "node-name": "n", "amount-exceeded": 536, "write-threshold": 1000 },
  }]);
  assert.equal(graph.find("n")!.writeThreshold, 0);
  await end();
});

Deno.test("a short tail reads as zeroes and can be written", async () => {
  const disk = new MemoryDisk(1000);
  disk.bytes.fill(7);
  const { graph, add, memory } = testGraph({ d: disk });
  await add({ driver: "raw", "node-name": "r", file: { driver: "memory", disk: "d" } });
  const backend = await graph.backend("r", writer);
  assert.equal(backend.size, 1024);
  const buffer = memory(1024);
  buffer.bytes.fill(0xee);
  await backend.read(0, IoVec.of(buffer.address, 1024));
  assert.deepEqual([...buffer.bytes.subarray(998, 1003)], [7, 7, 0, 0, 0]);
  assert.equal(buffer.bytes[1023], 0);
  const out = { length: 0, allocated: false, data: false, zero: false };
  await backend.status(1000, 24, true, out);
  assert.deepEqual([out.length, out.zero], [24, true]);
  await backend.write(1023, IoVec.of(memory(Uint8Array.of(9)).address, 1));
  assert.equal(disk.bytes.length, 1024);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("requests are traced under QEMU's names", async () => {
  const { context, backend, memory, end } = await setUp();
  context.trace("bdrv_co_preadv_part").enabled = true;
  context.trace("bdrv_co_pwrite_zeroes").enabled = true;
  await backend.read(512, IoVec.of(memory(512).address, 512));
  await backend.writeZeroes(0, 512, RequestFlag.fua);
  assert.deepEqual(context.lines, [
    "bdrv_co_preadv_part bs n offset 512 bytes 512 flags 0x0",
    "bdrv_co_pwrite_zeroes bs n offset 0 bytes 512 flags 0x1",
  ]);
  await end();
});

// --- drain ---

Deno.test("a drained node's requests wait in their order; sections nest", async () => {
  const { graph, disk, backend, memory, end } = await setUp({}, (d) => d.latency = "held");
  const iov = IoVec.of(memory(512).address, 512);
  const first = backend.write(0, iov);
  let drained = false;
  const draining = graph.drain("n").then((section) => {
    drained = true;
    return section;
  });
  const later = [backend.write(512, iov), backend.flush(), backend.read(1024, iov)];
  assert.equal(disk.held.length, 1, "nothing new reaches the driver");
  assert.equal(drained, false, "a request is in flight");
  disk.held[0]!.release();
  await first;
  const section = await draining;
  assert.equal(disk.quiesced, 1);
  assert.equal(backend.inFlight, 3);
  const inner = await graph.drain();
  assert.equal(disk.quiesced, 1, "quiesced once");
  section.end();
  section.end();
  assert.equal(disk.held.length, 0);
  disk.latency = "sync";
  inner.end();
  await Promise.all(later);
  assert.equal(disk.quiesced, 0);
  assert.deepEqual(disk.calls.map((call) => call.op), ["write", "write", "flush", "read"]);
  await end();
});

Deno.test("a user that comes while all is drained waits as well", async () => {
  const { graph, disk, memory, end } = await setUp();
  const section = await graph.drain();
  const late = await graph.backend("n", writer);
  const read = late.read(0, IoVec.of(memory(512).address, 512));
  assert.ok(read instanceof Promise);
  assert.equal(disk.calls.length, 0);
  section.end();
  await read;
  await late.detach();
  await end();
});

Deno.test("draining one node leaves others alone", async () => {
  const { graph, add, memory, end } = await setUp();
  await add({ driver: "memory", "node-name": "m", disk: "d" });
  const other = await graph.backend("m", writer);
  const section = await graph.drain("n");
  assert.equal(other.read(0, IoVec.of(memory(512).address, 512)), undefined);
  section.end();
  await other.detach();
  await end();
});

Deno.test("the seam itself refuses writes where a node is read-only or inactive, whoever asks", async () => {
  const states = [
    [{ "read-only": true }, "Block node is read-only"],
    [{ active: false }, "node 'n' is inactive"],
  ] as const;
  for (const [options, message] of states) {
    const disk = new MemoryDisk(1 << 20);
    const { graph, add, memory } = testGraph({ d: disk });
    await add(
      { driver: "memory", "node-name": "n", disk: "d", discard: "unmap", ...options } as never,
    );
    const { seam } = graph, node = graph.find("n")!;
    const iov = IoVec.of(memory(512).address, 512);
    const refused = { errno: "EPERM", message };
    assert.throws(() => seam.write(node, 0, iov, 0), refused);
    assert.throws(() => seam.writeZeroes(node, 0, 512, 0), refused);
    assert.throws(() => seam.discard(node, 0, 512), refused);
    node.changed(0, 512); // something to flush, were it to be
    assert.equal(seam.flush(node), undefined);
    assert.deepEqual(ops(disk), []);
    await graph.closeAll();
  }
});

Deno.test("a parent writes to its child with the permission for it, and beyond its end only with that to resize", async () => {
  const disk = new MemoryDisk(1 << 20);
  const { graph, add, memory } = testGraph({ d: disk });
  await add({ driver: "raw", "node-name": "r", file: { driver: "memory", disk: "d" } });
  const iov = IoVec.of(memory(512).address, 512);
  const { children: [edge] } = graph.find("r")!;
  const last = (1 << 20) - 256;
  edge!.needed = Perm.consistentRead;
  for (const act of [() => edge!.write(0, iov, 0), () => edge!.writeZeroes(0, 512, 0)]) {
    assert.throws(act, { errno: "EPERM", message: "write without permission" });
  }
  for (const needed of [Perm.write, Perm.writeUnchanged]) {
    edge!.needed = needed;
    const beyond = { errno: "EIO", message: "write beyond the end of the node" };
    assert.throws(() => edge!.write(last, iov, 0), beyond);
    assert.throws(() => edge!.writeZeroes(last, 512, 0), beyond);
    assert.deepEqual(ops(disk), []);
    edge!.write(last - 256, iov, 0);
    assert.deepEqual(ops(disk).splice(0), [`write ${last - 256}+512`]);
    disk.calls.length = 0;
  }
  edge!.needed = Perm.write | Perm.resize;
  edge!.write(last, iov, 0);
  assert.deepEqual(ops(disk), [`write ${last}+512`]);
  await graph.closeAll();
});
