/** The engine with drivers that answer late, and that read their own metadata while they answer. */
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
const BLOCK = 512;

/** Answers when the test says; block i lies at block i ^ 1 of the file. */
function slow() {
  const gates: { start: number; go(error?: Error): void }[] = [];
  const wait = (start: number) =>
    new Promise<void>((resolve, reject) =>
      gates.push({ start, go: (error) => error === undefined ? resolve() : reject(error) })
    );
  const log: string[] = [];
  const swap = (start: number) => start % (2 * BLOCK) < BLOCK ? start + BLOCK : start - BLOCK;
  const driver = defineDriver({
    name: "slow",
    kind: "format",
    options: struct("BlockdevOptionsSlow", { file: BlockdevRef }),
    async open(open): Promise<FormatInstance> {
      const file = await open.child("file", { role: ["data"] });
      return {
        kind: "format",
        size: file.size,
        async locate(start, length, out) {
          await wait(start);
          out.inChild(file, swap(start), Math.min(length, BLOCK - start % BLOCK));
        },
        async reserve(start, length, plan) {
          plan.onAbandon(() => log.push(`abandon ${start}`));
          await wait(start);
          plan.inChild(file, swap(start), Math.min(length, BLOCK - start % BLOCK));
          plan.onCommit(() => void log.push(`commit ${start}`));
        },
        close() {},
      };
    },
  }) as DriverDefinition<never>;
  const arrived = async (count: number) => {
    while (gates.length < count) await new Promise<void>((resolve) => setTimeout(resolve, 0));
  };
  return { gates, driver, log, arrived };
}

async function setUp() {
  const disk = new MemoryDisk(4096);
  disk.bytes.set(Uint8Array.from({ length: 4096 }, (_, i) => i >> 9));
  const format = slow();
  const made = testGraph({ d: disk }, [format.driver]);
  await made.add({ driver: "slow", "node-name": "s", file: { driver: "memory", disk: "d" } });
  const backend = await made.graph.backend("s", user);
  const end = async () => {
    await backend.detach();
    await made.graph.closeAll();
  };
  return { ...made, ...format, disk, backend, end };
}

Deno.test("answers that come late, and in another order, go to the requests that asked", async () => {
  const { gates, backend, memory, arrived, end } = await setUp();
  const [one, two, three] = [memory(512), memory(512), memory(512)];
  const reads = [
    backend.read(0, IoVec.of(one.address, 512)),
    backend.read(1024, IoVec.of(two.address, 512)),
    backend.read(2048, IoVec.of(three.address, 512)),
  ];
  await arrived(3);
  for (const at of [2, 0, 1]) gates[at]!.go();
  await Promise.all(reads);
  assert.deepEqual([one.bytes[0], two.bytes[0], three.bytes[0]], [1, 3, 5]);
  await end();
});

Deno.test("a range in several places is asked for piece by piece", async () => {
  const { gates, backend, memory, arrived, end } = await setUp();
  const buffer = memory(2048);
  const read = backend.read(256, IoVec.of(buffer.address, 1024));
  for (let i = 0; i < 3; i++) {
    await arrived(i + 1);
    gates[i]!.go();
  }
  await read;
  assert.deepEqual(gates.map(({ start }) => start), [256, 512, 1024]);
  assert.deepEqual([0, 255, 256, 767, 768, 1023].map((i) => buffer.bytes[i]), [1, 1, 0, 0, 3, 3]);
  await end();
});

Deno.test("a locate that fails fails the read, after the pieces before it", async () => {
  const { gates, backend, memory, arrived, disk, end } = await setUp();
  disk.latency = "held";
  const read = assert.rejects(
    async () => await backend.read(0, IoVec.of(memory(1024).address, 1024)),
    { errno: "EINVAL" },
  );
  await arrived(1);
  gates[0]!.go();
  await arrived(2);
  gates[1]!.go(ioError("EINVAL"));
  assert.equal(disk.held.length, 1);
  disk.held[0]!.release();
  await read;
  await end();
});

Deno.test("each plan is carried out and committed before the next part is planned", async () => {
  const { gates, backend, memory, arrived, disk, log, end } = await setUp();
  const buffer = memory(Uint8Array.from({ length: 1024 }, (_, i) => 100 + (i >> 9)));
  const write = backend.write(0, IoVec.of(buffer.address, 1024));
  await arrived(1);
  gates[0]!.go();
  await arrived(2);
  assert.deepEqual(log, ["commit 0"]);
  gates[1]!.go();
  await write;
  assert.deepEqual(log, ["commit 0", "commit 512"]);
  assert.deepEqual([disk.bytes[0], disk.bytes[512]], [101, 100]);
  await end();
});

Deno.test("plans made late go to the writes that asked; one that fails is abandoned alone", async () => {
  const { gates, backend, memory, arrived, disk, log, end } = await setUp();
  const one = memory(new Uint8Array(512).fill(71));
  const two = memory(new Uint8Array(512).fill(72));
  const writes = [
    backend.write(0, IoVec.of(one.address, 512)),
    assert.rejects(async () => await backend.write(1024, IoVec.of(two.address, 512)), {
      errno: "ENOSPC",
    }),
  ];
  await arrived(2);
  gates[1]!.go(ioError("ENOSPC"));
  gates[0]!.go();
  await Promise.all(writes);
  assert.deepEqual(log.sort(), ["abandon 1024", "commit 0"]);
  assert.deepEqual([disk.bytes[512], disk.bytes[1536]], [71, 3]);
  await end();
});

Deno.test("a format may read its metadata through another format while it answers", async () => {
  const disk = new MemoryDisk(8192);
  disk.bytes[4096] = 3; // the table: one byte a block, its place in the file
  disk.bytes.fill(9, 4096 + 3 * 512, 4096 + 4 * 512);
  const table = defineDriver({
    name: "table",
    kind: "format",
    options: struct("BlockdevOptionsTable", { file: BlockdevRef }),
    async open(open): Promise<FormatInstance> {
      const file = await open.child("file", { role: ["metadata", "data"] });
      const scratch = open.context.sys.allocate(512);
      const iov = IoVec.of(scratch.address, 1);
      return {
        kind: "format",
        size: 2048,
        locate(start, length, out) {
          assert.equal(file.read(Math.floor(start / 512), iov, 0), undefined);
          out.inChild(file, scratch.bytes[0]! * 512 + start % 512, Math.min(length, 512));
        },
        close() {},
      };
    },
  }) as DriverDefinition<never>;
  const { graph, add, memory } = testGraph({ d: disk }, [table]);
  await add({
    driver: "table",
    "node-name": "t",
    "read-only": true,
    file: { driver: "raw", offset: 4096, file: { driver: "memory", disk: "d" } },
  });
  const backend = await graph.backend("t", { ...user, needed: Perm.consistentRead });
  const buffer = memory(512);
  assert.equal(backend.read(0, IoVec.of(buffer.address, 512)), undefined);
  assert.ok(buffer.bytes.subarray(0, 512).every((byte) => byte === 9));
  await backend.detach();
  await graph.closeAll();
});
