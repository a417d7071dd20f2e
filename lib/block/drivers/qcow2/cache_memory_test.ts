/**
 * The memory of the caches is what the options say, and what nobody needs is given back. Judged by the memory that
 * the driver maps and by the pages of it that are resident, over an image whose tables are much larger.
 */
import assert from "node:assert/strict";
import { IoVec, KiB, MiB } from "../../../base/mod.ts";
import type { Context, Memory, Sys } from "../../../sys/mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { BlockGraph, type DriverDefinition, Perm } from "../../mod.ts";
import { file } from "../file/mod.ts";
import { testContext } from "../testing.ts";
import { qcow2 } from "./mod.ts";

const CLUSTER = 4 * KiB;
const SIZE = 1024 * MiB;
const PAGE = 4096;

/** Bytes of `memory` that are resident (Linux: Documentation/admin-guide/mm/pagemap). */
function resident({ address, length }: Memory): number {
  const PRESENT = 0x80;
  using map = Deno.openSync("/proc/self/pagemap");
  const entries = new Uint8Array((length / PAGE) * 8);
  map.seekSync((address / PAGE) * 8, Deno.SeekMode.Start);
  for (let done = 0; done < entries.length;) done += map.readSync(entries.subarray(done))!;
  let pages = 0;
  for (let i = 7; i < entries.length; i += 8) if ((entries[i]! & PRESENT) !== 0) pages++;
  return pages * PAGE;
}

/** A disk whose metadata is all there: 2 MiB of L2 tables, 512 KiB of refcount blocks. */
async function setUp(options: Record<string, unknown>) {
  const directory = await Deno.makeTempDir();
  const filename = `${directory}/disk`;
  const format = `cluster_size=${CLUSTER},preallocation=metadata`;
  const { success } = await new Deno.Command("qemu-img", {
    args: ["create", "-qf", "qcow2", "-o", format, filename, String(SIZE)],
  }).output();
  assert.ok(success);
  /** What the driver has mapped itself, and the tasks that wait for the cleaning interval. */
  const mapped = new Set<Memory>();
  const intervals: { readonly ns: number; run(): void }[] = [];
  const base = testContext((sys) =>
    new Proxy(sys, {
      get(target, key) {
        if (key === "allocate") {
          return (length: number) => {
            const memory = target.allocate(length);
            mapped.add(memory);
            const unmap = memory.unmap.bind(memory);
            return Object.assign(memory, {
              unmap() {
                mapped.delete(memory);
                unmap();
              },
            });
          };
        }
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    }) as Sys
  );
  const loop = Object.assign(Object.create(base.loop), {
    timer: (ns: number, run: () => void) => {
      intervals.push({ ns, run });
      return { cancel() {} };
    },
  });
  const context: Context = { ...base, loop };
  const graph = new BlockGraph({
    context,
    drivers: driverRegistry([file, qcow2] as unknown as readonly DriverDefinition<unknown>[]),
    events: { emit: () => {} },
  });
  await graph.add({
    driver: "qcow2",
    "node-name": "q",
    file: { driver: "file", filename },
    ...options,
  }, {
    monitorOwned: true,
  });
  const backend = await graph.backend("q", {
    describe: "a test",
    needed: Perm.consistentRead | Perm.write,
    shared: Perm.all,
  });
  const buffer = base.buffers.acquire(CLUSTER);
  const iov = IoVec.of(buffer.address, CLUSTER);
  const total = (measure: (memory: Memory) => number) =>
    [...mapped].reduce((sum, memory) => sum + measure(memory), 0);
  return {
    backend,
    intervals,
    read: (offset: number) => backend.read(offset, iov),
    write: (offset: number) => backend.write(offset, iov),
    mapped: () => total(({ length }) => length),
    resident: () => total(resident),
    async end() {
      await backend.detach();
      await graph.closeAll();
      base.buffers.release(buffer);
      assert.deepEqual([...mapped], [], "memory that was not given back");
      base.end();
      await Deno.remove(directory, { recursive: true });
    },
  };
}

/** Guest bytes of one L2 table. */
const TABLE = (CLUSTER / 8) * CLUSTER;

/** Reads and writes all over the disk, so that every table is used. */
async function useAll({ read, write }: Awaited<ReturnType<typeof setUp>>): Promise<void> {
  for (let at = 0; at < SIZE; at += TABLE) {
    await read(at);
    await write(at + CLUSTER);
  }
}

for (
  const [name, options, most] of [
    ["l2-cache-size and refcount-cache-size", {
      "l2-cache-size": 128 * KiB,
      "refcount-cache-size": 32 * KiB,
    }, 160 * KiB],
    ["l2-cache-entry-size", { "l2-cache-size": 64 * KiB, "l2-cache-entry-size": 512 }, 80 * KiB],
    ["cache-size", { "cache-size": 256 * KiB }, 256 * KiB],
    ["defaults", {}, SIZE / CLUSTER * 8 + 4 * CLUSTER],
  ] as const
) {
  Deno.test(`caches stay within ${name}, whatever is read and written`, async () => {
    const disk = await setUp(options);
    await useAll(disk);
    await disk.backend.flush();
    assert.ok(disk.mapped() <= most, `${disk.mapped()} bytes`);
    await disk.end();
  });
}

Deno.test("what was not used for cache-clean-interval is given back, what was used stays", async () => {
  const disk = await setUp({ "cache-clean-interval": 7 });
  await useAll(disk);
  await disk.backend.flush();
  const full = disk.resident();
  assert.ok(full >= SIZE / CLUSTER * 8, `${full} bytes`);
  const interval = () => {
    const [next] = disk.intervals.splice(0);
    assert.equal(next!.ns, 7e9);
    next!.run();
  };
  interval(); // all of it was used since the image was opened
  assert.equal(disk.resident(), full);
  for (let at = 0; at < 8 * TABLE; at += TABLE) await disk.read(at);
  interval();
  assert.equal(disk.resident(), 8 * CLUSTER);
  interval();
  assert.equal(disk.resident(), 0);
  await disk.read(TABLE);
  assert.equal(disk.resident(), CLUSTER);
  await disk.end();
});

Deno.test("with a cache-clean-interval of 0 nothing waits for an interval", async () => {
  const disk = await setUp({ "cache-clean-interval": 0 });
  assert.deepEqual(disk.intervals, []);
  await disk.end();
});
