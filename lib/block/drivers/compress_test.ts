import assert from "node:assert/strict";
import { IoVec } from "../../base/mod.ts";
import { type BlockBackend, type DriverDefinition, Perm } from "../mod.ts";
import { defineDriver } from "../driver_types.ts";
import { RequestFlag } from "../types.ts";
import { MemoryDisk, type TestGraph, testGraph } from "../testing.ts";
import { BlockdevRef } from "../../qmp/schema/blockdev.ts";
import { struct } from "../../qmp/schema/core.ts";
import { compress } from "./compress.ts";

const UNIT = 4096;

/** A format that stores compressed units as they are, and notes them. */
function packing(stored: string[]): DriverDefinition<never> {
  return defineDriver({
    name: "packing",
    kind: "format",
    options: struct("BlockdevOptionsPacking", { file: BlockdevRef }),
    async open(open) {
      const file = await open.child("file", { role: ["data"] });
      return {
        kind: "format" as const,
        get size() {
          return file.size;
        },
        compressedUnit: UNIT,
        writeCompressed(offset: number, iov: IoVec) {
          stored.push(`${offset}+${iov.total}`);
          return file.write(offset, iov, 0);
        },
        locate: (start, length, out) => out.inChild(file, start, length),
        reserve: (start, length, plan) => {
          stored.push(`${plan.intent} ${start}+${length}`);
          plan.inChild(file, start, length);
        },
        truncate: (size, how) => file.truncate(size, how),
        close: () => {},
      };
    },
  }) as DriverDefinition<never>;
}

interface Bench {
  readonly graph: TestGraph;
  readonly disk: MemoryDisk;
  readonly stored: string[];
  readonly backend: BlockBackend;
}

async function bench(size: number, act: (bench: Bench) => Promise<void>): Promise<void> {
  const disk = new MemoryDisk(size);
  const stored: string[] = [];
  const graph = testGraph({ disk }, [packing(stored), compress as DriverDefinition<never>]);
  await graph.add({ driver: "memory", "node-name": "disk", disk: "disk", discard: "unmap" });
  await graph.add({ driver: "packing", "node-name": "image", file: "disk", discard: "unmap" });
  await graph.add({ driver: "compress", "node-name": "top", file: "image", discard: "unmap" });
  const backend = await graph.graph.backend("top", {
    describe: "the test",
    needed: Perm.consistentRead | Perm.write,
    shared: Perm.all,
  });
  await act({ graph, disk, stored, backend });
  await backend.detach();
  await graph.graph.closeAll();
}

async function write({ graph, backend }: Bench, offset: number, bytes: Uint8Array): Promise<void> {
  await backend.write(offset, IoVec.of(graph.memory(bytes).address, bytes.length));
}
const full = (length: number, value: number) => new Uint8Array(length).fill(value);

Deno.test("whole clusters are written compressed, each by itself", () =>
  bench(64 * 1024, async (it) => {
    await write(it, UNIT, full(3 * UNIT, 7));
    assert.deepEqual(it.stored, ["4096+4096", "8192+4096", "12288+4096"]);
    assert.deepEqual(it.disk.bytes.slice(UNIT, 4 * UNIT), full(3 * UNIT, 7));
  }));

Deno.test("a part of a cluster is written with the rest of it", () =>
  bench(64 * 1024, async (it) => {
    await write(it, 0, full(2 * UNIT, 1));
    it.stored.length = 0;
    await write(it, 1000, full(UNIT, 2));
    const want = full(2 * UNIT, 1);
    want.fill(2, 1000, 1000 + UNIT);
    assert.deepEqual(it.disk.bytes.slice(0, 2 * UNIT), want);
    assert.deepEqual(it.stored, ["0+4096", "4096+4096"]);
  }));

Deno.test("the last cluster of an image may be short", () =>
  bench(2 * UNIT + 1024, async (it) => {
    await write(it, 2 * UNIT, full(1024, 3));
    await write(it, 2 * UNIT + 512, full(512, 4));
    assert.deepEqual(it.stored, ["8192+1024", "8192+1024"]);
    assert.equal(it.disk.bytes.length, 2 * UNIT + 1024);
    assert.deepEqual(
      it.disk.bytes.slice(2 * UNIT),
      new Uint8Array([...full(512, 3), ...full(512, 4)]),
    );
  }));

Deno.test("zeroes, discards and reads pass through", () =>
  bench(64 * 1024, async (it) => {
    await write(it, 0, full(2 * UNIT, 1));
    it.stored.length = 0;
    await it.backend.writeZeroes(0, UNIT);
    await it.backend.discard(UNIT, UNIT);
    assert.deepEqual(it.stored, ["zeroes 0+4096", "discard 4096+4096"]);
    const memory = it.graph.memory(full(2 * UNIT, 9));
    await it.backend.read(0, IoVec.of(memory.address, 2 * UNIT));
    assert.deepEqual(memory.bytes.slice(0, 2 * UNIT), full(2 * UNIT, 0));
  }));

Deno.test("a child that cannot compress is refused with the original's words", () =>
  bench(64 * 1024, async ({ graph }) => {
    for (const [driver, file] of [["memory", "disk"], ["compress", "top"]]) {
      await assert.rejects(
        graph.add({ driver: "compress", "node-name": "x", file: file! }),
        { message: `Compression is not supported for underlying format: ${driver}` },
      );
    }
    await graph.add({ driver: "raw", "node-name": "window", file: "disk" });
    await assert.rejects(graph.add({ driver: "compress", "node-name": "x", file: "window" }), {
      message: "Compression is not supported for underlying format: raw",
    });
  }));

Deno.test("compressed writes that are not of whole clusters are EINVAL, and ENOTSUP where there are none", () =>
  bench(64 * 1024, async ({ graph }) => {
    const { address } = graph.memory(8192);
    const open = (name: string) =>
      graph.graph.backend(name, { describe: "x", needed: Perm.write, shared: Perm.all });
    const image = await open("image");
    for (const [offset, length] of [[512, UNIT], [0, 512], [0, UNIT + 512]] as const) {
      await assert.rejects(
        async () =>
          await image.write(offset, IoVec.of(address, length), RequestFlag.writeCompressed),
        { errno: "EINVAL" },
      );
    }
    await image.detach();
    await graph.add({ driver: "raw", "node-name": "window", file: "disk" });
    const window = await open("window");
    await assert.rejects(
      async () => await window.write(0, IoVec.of(address, UNIT), RequestFlag.writeCompressed),
      { errno: "ENOTSUP" },
    );
    await window.detach();
  }));
