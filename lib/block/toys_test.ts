/**
 * The proof of the driver interfaces: a filter and a read-only format of a page each, and a small writable
 * format with a backing file. They live only here; the contract runs on all that can write.
 */
import assert from "node:assert/strict";
import { IoVec, type MaybePromise } from "../base/mod.ts";
import { BlockdevRef } from "../qmp/schema/blockdev.ts";
import { int, opt, struct } from "../qmp/schema/core.ts";
import type { Memory } from "../sys/types.ts";
import { driverContract } from "./contract.ts";
import { PlanRecord } from "./placement.ts";
import { ioError, MemoryDisk, memoryDriver, testContext, testGraph } from "./testing.ts";
import { defineDriver, type DriverDefinition, type OpenContext } from "./driver_types.ts";
import {
  type Child,
  type FormatInstance,
  type IoInstance,
  Perm,
  type Placement,
  type ReopenChange,
  RequestFlag,
  type WritePlan,
} from "./types.ts";

// --- a filter: counts what passes, and can hold reads back ---

const passed: string[] = [];
const tee = defineDriver({
  name: "tee",
  kind: "filter",
  options: struct("BlockdevOptionsTee", { file: BlockdevRef }),
  async open(open): Promise<IoInstance> {
    const file = await open.child("file", { role: ["filtered", "primary"] });
    return {
      kind: "io",
      get size() {
        return file.size;
      },
      supportedFlags: RequestFlag.fua | RequestFlag.mayUnmap | RequestFlag.noFallback,
      read(offset, iov, flags) {
        passed.push(`read ${iov.total} at ${offset}`);
        return file.read(offset, iov, flags);
      },
      write: (offset, iov, flags) => file.write(offset, iov, flags),
      writeZeroes: (offset, length, flags) => file.writeZeroes(offset, length, flags),
      discard: (offset, length) => file.discard(offset, length),
      status: (offset, length, precise, out) => file.status(offset, length, precise, out),
      close() {},
    };
  },
});

// --- a read-only format: the disk back to front, in chunks of 1000 bytes ---

const mirror = defineDriver({
  name: "mirror",
  kind: "format",
  options: struct("BlockdevOptionsMirror", { file: BlockdevRef }),
  async open(open): Promise<FormatInstance> {
    const file = await open.child("file", { role: ["metadata", "data", "primary"] });
    open.degradeToReadOnly("mirror images are read-only");
    const chunks = Math.floor(file.size / 1000);
    return {
      kind: "format",
      size: chunks * 1000,
      locate(start, length, out) {
        const chunk = Math.floor(start / 1000);
        const inside = start % 1000;
        out.inChild(file, (chunks - 1 - chunk) * 1000 + inside, Math.min(1000 - inside, length));
      },
      close() {},
    };
  },
});

// --- a writable format with a backing file: a table of clusters, then the clusters ---

const CLUSTER = 4096;
const ZERO = 0xffffffff;

/** Entry i: where cluster i lies in the file (in clusters), 0: not here, ZERO: reads as zeroes. */
class Layers implements FormatInstance {
  readonly kind = "format";
  readonly #table: Uint32Array;
  /** Clusters that a write is allocating: others wait for it. */
  readonly #busy = new Map<number, Promise<void>>();
  readonly #free: number[] = [];
  #next: number;
  #dirty = false;

  constructor(
    readonly file: Child,
    public backing: Child | undefined,
    readonly size: number,
    private readonly memory: Memory,
  ) {
    this.#table = new Uint32Array(memory.bytes.buffer, memory.bytes.byteOffset, size / CLUSTER);
    this.#next = 1 + [...this.#table].reduce((max, at) => at === ZERO ? max : Math.max(max, at), 0);
  }

  locate(start: number, length: number, out: Placement): void {
    const first = Math.floor(start / CLUSTER);
    const entry = this.#table[first]!;
    let end = first + 1;
    const last = Math.ceil((start + length) / CLUSTER);
    const follows = (i: number) => entry === 0 || entry === ZERO ? entry : entry + (i - first);
    while (end < last && this.#table[end] === follows(end)) end++;
    const size = Math.min(length, end * CLUSTER - start);
    if (entry === 0) out.unallocated(this.backing, size);
    else if (entry === ZERO) out.zero(size);
    else out.inChild(this.file, entry * CLUSTER + start % CLUSTER, size);
  }

  reserve(start: number, length: number, plan: WritePlan): MaybePromise<void> {
    const { intent } = plan;
    const first = Math.floor(start / CLUSTER);
    const last = Math.ceil((start + length) / CLUSTER);
    for (let i = first; i < last; i++) {
      const busy = this.#busy.get(i);
      if (busy !== undefined) return busy.then(() => this.reserve(start, length, plan));
    }
    const { promise, resolve } = Promise.withResolvers<void>();
    const updates = new Map<number, number>();
    const fresh: number[] = [];
    for (let i = first; i < last; i++) {
      const from = Math.max(start, i * CLUSTER);
      const to = Math.min(start + length, (i + 1) * CLUSTER);
      const entry = this.#table[i]!;
      if (intent === "discard" || intent === "zeroes" && to - from === CLUSTER) {
        plan.metadataOnly(to - from);
        if (to - from === CLUSTER && entry !== ZERO) updates.set(i, ZERO);
      } else if (entry !== 0 && entry !== ZERO) {
        plan.inChild(this.file, entry * CLUSTER + from % CLUSTER, to - from);
      } else {
        const host = this.#free.pop() ?? this.#next++;
        fresh.push(host);
        updates.set(i, host);
        const base = host * CLUSTER;
        if (from > i * CLUSTER) plan.copy(i * CLUSTER, this.file, base, from - i * CLUSTER);
        plan.inChild(this.file, base + from % CLUSTER, to - from);
        const rest = (i + 1) * CLUSTER - to;
        if (rest > 0) plan.copy(to, this.file, base + to % CLUSTER, rest);
      }
    }
    if (updates.size === 0) return;
    for (const i of updates.keys()) this.#busy.set(i, promise);
    const done = () => {
      for (const i of updates.keys()) this.#busy.delete(i);
      resolve();
    };
    plan.onCommit(() => {
      for (const [i, entry] of updates) {
        const old = this.#table[i]!;
        if (old !== 0 && old !== ZERO) this.#free.push(old);
        this.#table[i] = entry;
      }
      this.#dirty = true;
      done();
    });
    plan.onAbandon(() => {
      this.#free.push(...fresh);
      done();
    });
  }

  /** Data first, then the table that refers to it. */
  async flush(): Promise<void> {
    if (!this.#dirty) return;
    this.#dirty = false;
    await this.file.flush();
    await this.file.write(0, IoVec.of(this.memory.address, CLUSTER), 0);
  }
  /** Of what can change, only `backing: null` means something. */
  async prepareReopen(next: OpenContext): Promise<ReopenChange> {
    await next.child("file", { role: ["metadata", "data", "primary"] });
    const backing = await next.optionalChild("backing", { role: ["cow"] });
    return {
      commit: () => {
        if (backing === undefined) this.backing = undefined;
      },
      abort: () => {},
    };
  }
  async close(): Promise<void> {
    await this.flush();
    this.memory.unmap();
  }
}

const layers = defineDriver({
  name: "layers",
  kind: "format",
  options: struct("BlockdevOptionsLayers", {
    file: BlockdevRef,
    backing: opt(BlockdevRef),
    size: int,
  }),
  async open(open, options: { size?: number }): Promise<FormatInstance> {
    const file = await open.child("file", { role: ["metadata", "data", "primary"] });
    const backing = await open.optionalChild("backing", { role: ["cow"] });
    const memory = open.context.sys.allocate(CLUSTER);
    await file.read(0, IoVec.of(memory.address, CLUSTER), 0);
    return new Layers(file, backing, options.size ?? 65536, memory);
  },
});

const toys = [tee, mirror, layers] as unknown as readonly DriverDefinition<never>[];
const user = {
  describe: "an unnamed block device",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
};
const bytesOf = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, i) => (i * seed + (i >> 8)) & 255);

Deno.test("a filter of a page reads, writes and passes its parents' permissions through", async () => {
  const disks = { d: new MemoryDisk(65536) };
  const { graph, add, memory } = testGraph(disks, toys);
  await add({ driver: "tee", "node-name": "t", file: { driver: "memory", disk: "d" } });
  const backend = await graph.backend("t", user);
  assert.equal(disks.d.permissions.needed, user.needed);
  const buffer = memory(bytesOf(8192, 3));
  await backend.write(100, IoVec.of(buffer.address, 8192), RequestFlag.fua);
  // The filter takes FUA itself and hands it down; the memory disk does not, so it is flushed.
  assert.deepEqual(disks.d.calls.map((call) => call.op), ["write", "flush"]);
  passed.length = 0;
  await backend.read(100, IoVec.of(buffer.address, 8192));
  assert.deepEqual(passed, ["read 8192 at 100"]);
  assert.deepEqual(buffer.bytes, bytesOf(8192, 3));
  await backend.detach();
  await graph.closeAll();
});

Deno.test("what a format writes when it is flushed is flushed as well", async () => {
  const disk = new MemoryDisk(65536);
  const { graph, add, memory } = testGraph({ d: disk }, toys);
  await add({ driver: "layers", "node-name": "l", file: { driver: "memory", disk: "d" } });
  const backend = await graph.backend("l", user);
  await backend.write(0, IoVec.of(memory(bytesOf(4096, 3)).address, 4096));
  await backend.flush();
  assert.deepEqual(disk.calls.map(({ op }) => op).filter((op) => op !== "read"), [
    "write",
    "flush",
    "write",
    "flush",
  ]);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("a read-only format of a page is read in pieces, and cannot be written", async () => {
  const disks = { d: new MemoryDisk(10240) };
  disks.d.latency = "async";
  const { graph, add, memory } = testGraph(disks, toys);
  disks.d.bytes.set(bytesOf(10240, 5));
  const options = { driver: "mirror", "node-name": "m", file: { driver: "memory", disk: "d" } };
  await assert.rejects(add(options), { message: "mirror images are read-only" });
  assert.deepEqual(graph.nodes(), []);
  assert.equal(disks.d.closed, 1);
  await add({ ...options, "auto-read-only": true });
  const backend = await graph.backend("m", { ...user, needed: Perm.consistentRead });
  const buffer = memory(4096);
  await backend.read(500, IoVec.of(buffer.address, 3000));
  const whole = bytesOf(10240, 5);
  const expected = [
    ...whole.subarray(9500, 10000),
    ...whole.subarray(8000, 9000),
    ...whole.subarray(7000, 8000),
    ...whole.subarray(6000, 6500),
  ];
  assert.deepEqual([...buffer.bytes.subarray(0, 3000)], expected);
  await assert.rejects(graph.backend("m", user), { message: "Block node is read-only" });
  await backend.detach();
  await graph.closeAll();
});

async function layered(latency: "sync" | "held" | "async" = "sync") {
  const disks = { top: new MemoryDisk(CLUSTER), base: new MemoryDisk(20000) };
  disks.base.bytes.set(bytesOf(20000, 7));
  const made = testGraph(disks, toys);
  await made.add({
    driver: "layers",
    "node-name": "l",
    file: { driver: "memory", disk: "top" },
    backing: { driver: "memory", disk: "base" },
  });
  disks.top.latency = latency;
  return { ...made, disks, backend: await made.graph.backend("l", user) };
}

Deno.test("a short backing file shows, and zeroes beyond its end", async () => {
  const { graph, backend, memory } = await layered();
  const buffer = memory(65536);
  buffer.bytes.fill(0xee);
  await backend.read(0, IoVec.of(buffer.address, 65536));
  assert.deepEqual(buffer.bytes.subarray(0, 20000), bytesOf(20000, 7));
  assert.ok(buffer.bytes.subarray(20000).every((byte) => byte === 0));
  assert.equal((await backend.allocationDepth(0, 4096)).depth, 2);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("copy on write: what surrounds the data goes with it, in one write a cluster", async () => {
  const { graph, backend, memory, disks } = await layered();
  const data = memory(bytesOf(5000, 11));
  disks.top.calls.length = 0;
  await backend.write(3000, IoVec.of(data.address, 5000));
  // Two fresh clusters side by side in the file: head copy, data and tail copy are one write.
  assert.deepEqual(disks.top.calls, [{
    op: "write",
    offset: CLUSTER,
    length: 2 * CLUSTER,
    flags: 0,
  }]);
  const expected = new Uint8Array(65536);
  expected.set(bytesOf(20000, 7));
  expected.set(bytesOf(5000, 11), 3000);
  const buffer = memory(65536);
  await backend.read(0, IoVec.of(buffer.address, 65536));
  assert.deepEqual(buffer.bytes, expected);
  assert.equal(graph.context.buffers.inUse, 0);
  await backend.detach();
  await graph.closeAll();
  assert.deepEqual(new Uint32Array(disks.top.bytes.buffer, 0, 3), new Uint32Array([1, 2, 0]));
});

Deno.test("a write that fails gives its clusters back and leaves what was there", async () => {
  const { graph, backend, memory, disks } = await layered();
  const data = memory(bytesOf(4096, 11));
  disks.top.fault = ({ op }) => op === "write" ? ioError("ENOSPC") : undefined;
  await assert.rejects(
    async () => await backend.write(4096, IoVec.of(data.address, 4096)),
    { errno: "ENOSPC" },
  );
  const buffer = memory(4096);
  await backend.read(4096, IoVec.of(buffer.address, 4096));
  assert.deepEqual(buffer.bytes, bytesOf(20000, 7).subarray(4096, 8192));
  disks.top.fault = undefined;
  disks.top.calls.length = 0;
  await backend.write(4096, IoVec.of(data.address, 4096));
  assert.equal(disks.top.calls[0]!.offset, CLUSTER, "the cluster is used again");
  assert.equal(graph.context.buffers.inUse, 0);
  assert.deepEqual(backend.statistics.write, { operations: 1, bytes: 4096, failed: 1 });
  await backend.detach();
  await graph.closeAll();
});

Deno.test("pieces of one request run together, and a failure waits for the others", async () => {
  const { graph, backend, memory, disks } = await layered();
  const data = memory(bytesOf(8192, 11));
  await backend.write(8192, IoVec.of(data.address, 4096));
  await backend.write(0, IoVec.of(data.address, 4096));
  disks.top.latency = "held";
  const buffer = memory(12288);
  let settled = false;
  const read = Promise.resolve(backend.read(0, IoVec.of(buffer.address, 12288)))
    .finally(() => settled = true);
  const outcome = assert.rejects(read, { errno: "EIO" });
  await disks.top.arrivals(2);
  assert.deepEqual(disks.top.held.map((call) => call.offset), [2 * CLUSTER, CLUSTER]);
  assert.deepEqual(graph.requests().map(({ op, length }) => ({ op, length })), [
    { op: "read", length: 12288 },
  ]);
  disks.top.held[0]!.release(ioError());
  await Promise.resolve();
  await new Promise<void>((resolve) => queueMicrotask(resolve));
  assert.equal(settled, false);
  disks.top.held[0]!.release();
  await outcome;
  assert.deepEqual(graph.requests(), []);
  disks.top.latency = "sync";
  await backend.detach();
  await graph.closeAll();
});

Deno.test("status and depth see through the layers; neighbours that are alike are joined", async () => {
  const { graph, backend, memory } = await layered();
  const data = memory(bytesOf(8192, 11));
  await backend.write(4096, IoVec.of(data.address, 8192));
  await backend.writeZeroes(12288, 8192);
  const extents: string[] = [];
  for (let at = 0; at < 65536;) {
    const out = { length: 0, allocated: false, data: false, zero: false };
    await backend.status(at, 65536 - at, true, out);
    const { depth } = await backend.allocationDepth(at, 1);
    extents.push(
      `${at}+${out.length} ${out.data ? "data" : "hole"}${out.zero ? " zero" : ""} ${depth}`,
    );
    at += out.length;
  }
  // None of the 20000 bytes of the base was written through its driver: holes, like what lies past its end.
  assert.deepEqual(extents, [
    "0+4096 hole zero 2",
    "4096+8192 data 1",
    "12288+8192 hole zero 1",
    "20480+45056 hole zero 2",
  ]);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("reopen with backing: null lets the backing file go; leaving it out is refused", async () => {
  const { graph, backend, memory, disks } = await layered();
  const file = { driver: "memory", disk: "top" };
  const options = { driver: "layers", "node-name": "l", file };
  await assert.rejects(graph.reopen([options]), { message: "backing is missing for 'l'" });
  assert.equal(disks.base.closed, 0);
  await graph.reopen([{ ...options, backing: null }]);
  assert.equal(disks.base.closed, 1);
  assert.equal(graph.nodes().length, 2);
  const buffer = memory(4096);
  buffer.bytes.fill(0xee);
  await backend.read(0, IoVec.of(buffer.address, 4096));
  assert.ok(buffer.bytes.every((byte) => byte === 0));
  await backend.detach();
  await graph.closeAll();
});

Deno.test("plans can be printed", () => {
  const child = { name: "file" } as unknown as Child;
  const plan = new PlanRecord().begin(100, 1000, "data", 0);
  plan.copy(0, child, 4096, 100);
  plan.inChild(child, 4196, 600);
  plan.metadataOnly();
  plan.onCommit(() => {});
  assert.equal(
    String(plan),
    "copy 100 from 0 to file at 4096; data 600 from 100 to file at 4196; " +
      "metadata only for 400 at 700; commit",
  );
});

for (const latency of ["sync", "async"] as const) {
  driverContract(`a copy-on-write toy, ${latency}`, () => {
    const disk = new MemoryDisk(CLUSTER);
    disk.latency = latency;
    if (latency === "async") disk.limits = { requestAlignment: 512, memoryAlignment: 512 };
    return {
      context: testContext(),
      drivers: [memoryDriver({ d: disk, e: new MemoryDisk(4096) }), ...toys] as never,
      options: {
        driver: "layers",
        size: 1 << 20,
        file: { driver: "memory", disk: "d" },
        backing: { driver: "tee", file: { driver: "memory", disk: "e" } },
      },
      size: 1 << 20,
      cannot: { resize: "the toy has a fixed length" },
      end: () => {},
    };
  });
}
