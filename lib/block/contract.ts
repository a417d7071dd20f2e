/**
 * The contract every driver keeps, as tests: what is written is read back, beyond the end is zero, zeroes
 * and discards do what they say, status tells the truth, requests that overlap do not lose bytes. Run it
 * on a driver with `driverContract(name, factory)` in its test file.
 */
import assert from "node:assert/strict";
import { alignDown, alignUp, BlockError, IoVec, isNotSupported } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Context, Memory } from "../sys/mod.ts";
import type { BlockBackend } from "./backend_types.ts";
import { driverRegistry } from "./graph_types.ts";
import { BlockGraph } from "./graph.ts";
import type { DriverDefinition } from "./driver_types.ts";
import { type BlockStatus, Perm, RequestFlag } from "./types.ts";

/** A disk to be tested: made anew for each test. */
export interface ContractSubject {
  readonly context: Context;
  readonly drivers: readonly DriverDefinition<unknown>[];
  /** The node to test, without its name. Inline children are fine. */
  readonly options: BlockdevOptionsValue;
  /** Its length in bytes: a multiple of 512, at least 64 KiB. All of it reads as zeroes. */
  readonly size: number;
  /** What it cannot do, with the reason: such tests are skipped and say so. */
  readonly cannot?: Partial<Record<"write" | "resize" | "contents", string>>;
  /** Gives everything back (files, context). */
  end(): void | Promise<void>;
}

/** An opened subject. */
class Bench {
  private constructor(
    readonly subject: ContractSubject,
    readonly graph: BlockGraph,
    readonly disk: BlockBackend,
  ) {}
  readonly #memory: Memory[] = [];

  static async open(subject: ContractSubject): Promise<Bench> {
    const graph = new BlockGraph({
      context: subject.context,
      drivers: driverRegistry(subject.drivers),
      events: { emit: () => {} },
    });
    const writable = subject.cannot?.write === undefined;
    const options = { discard: "unmap", "read-only": !writable, ...subject.options };
    await graph.add({ ...options, "node-name": "tested" } as BlockdevOptionsValue, {
      monitorOwned: true,
    });
    const disk = await graph.backend("tested", {
      describe: "the contract",
      needed: Perm.consistentRead | (writable ? Perm.write : 0),
      shared: Perm.all,
    });
    return new Bench(subject, graph, disk);
  }

  async close(): Promise<void> {
    await this.disk.detach();
    await this.graph.closeAll();
    for (const memory of this.#memory) memory.unmap();
    await this.subject.end();
  }

  memory(length: number): Memory {
    const memory = this.subject.context.sys.allocate(length);
    this.#memory.push(memory);
    return memory;
  }
  async read(offset: number, length: number): Promise<Uint8Array> {
    const memory = this.memory(length);
    memory.bytes.fill(0xee);
    await this.disk.read(offset, IoVec.of(memory.address, length));
    return memory.bytes.slice(0, length);
  }
  async write(offset: number, bytes: Uint8Array, flags = 0, shift = 0): Promise<void> {
    const memory = this.memory(bytes.length + shift);
    memory.bytes.set(bytes, shift);
    await this.disk.write(offset, IoVec.of(memory.address + shift, bytes.length), flags);
  }
  async status(offset: number, length: number): Promise<BlockStatus> {
    const out: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
    await this.disk.status(offset, length, true, out);
    return out;
  }
}

/** Bytes that tell where they belong. */
function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => 1 + ((i * 7 + seed * 31) % 255));
}

/** A small generator of its own, so that a failure can be repeated from its seed. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

type Part = "write" | "resize" | "contents";

/** Registers the contract's tests for one driver. */
export function driverContract(
  name: string,
  factory: () => ContractSubject | Promise<ContractSubject>,
): void {
  const promise = (
    text: string,
    needs: readonly Part[],
    body: (bench: Bench) => Promise<void>,
  ) => {
    // Registering tests is what this file is for; it is imported by tests only.
    // deno-lint-ignore qsd/machine-only-in-sys
    Deno.test(`${name}: ${text}`, async (t) => {
      const subject = await factory();
      const missing = needs.find((part) => subject.cannot?.[part] !== undefined);
      if (missing !== undefined) {
        await t.step({
          name: `skipped: ${subject.cannot![missing]}`,
          ignore: true,
          fn: () => {},
        });
        return await subject.end();
      }
      const bench = await Bench.open(subject);
      try {
        await body(bench);
      } finally {
        await bench.close();
      }
    });
  };
  basics(promise);
  zeroesAndStatus(promise);
  ends(promise);
  models(promise);
}

type Register = (
  text: string,
  needs: readonly Part[],
  body: (bench: Bench) => Promise<void>,
) => void;

function basics(promise: Register): void {
  promise("reads back what was written, whatever the offset and length", [
    "write",
    "contents",
  ], async (bench) => {
    for (const [offset, length] of [[0, 512], [4096, 8192], [1, 1], [511, 2], [513, 5000]]) {
      const bytes = pattern(length!, offset!);
      await bench.write(offset!, bytes, 0, offset! % 64);
      assert.deepEqual(await bench.read(offset!, length!), bytes, `${length} at ${offset}`);
    }
  });

  promise("gathers from and scatters to many segments", ["write", "contents"], async (bench) => {
    const length = 12288;
    const bytes = pattern(length, 5);
    const from = bench.memory(length);
    from.bytes.set(bytes);
    const iov = new IoVec();
    for (let at = 0, size = 1; at < length; at += size, size = (size * 3) % 1021 + 1) {
      iov.add(from.address + at, Math.min(size, length - at));
    }
    await bench.disk.write(1024, iov);
    from.bytes.fill(0);
    await bench.disk.read(1024, iov);
    assert.deepEqual(from.bytes.slice(0, length), bytes);
  });

  promise("keeps what was flushed, and takes FUA", ["write", "contents"], async (bench) => {
    await bench.write(0, pattern(4096, 1), RequestFlag.fua);
    await bench.write(4096, pattern(4096, 2));
    await bench.disk.flush();
    await bench.disk.flush();
    assert.deepEqual(await bench.read(4096, 4096), pattern(4096, 2));
  });

  promise("refuses requests that reach beyond the end, with EIO", [], async (bench) => {
    const { size } = bench.disk;
    for (const [offset, length] of [[size, 1], [size - 512, 1024], [-1, 1], [2 ** 53 - 2, 1]]) {
      await assert.rejects(
        bench.read(offset!, length!),
        (error) => error instanceof BlockError && error.errno === "EIO",
      );
    }
    assert.equal(bench.disk.statistics.read.failed, 4);
  });

  promise("refuses writes to a read-only node with EPERM", [], async (bench) => {
    await bench.disk.detach();
    await bench.graph.del("tested");
    await bench.graph.add(
      { ...bench.subject.options, "node-name": "ro", "read-only": true } as BlockdevOptionsValue,
      { monitorOwned: true },
    );
    const disk = await bench.graph.backend("ro", {
      describe: "the contract",
      needed: Perm.consistentRead,
      shared: Perm.all,
    });
    const memory = bench.memory(512);
    await assert.rejects(
      async () => await disk.write(0, IoVec.of(memory.address, 512)),
      (error) => error instanceof BlockError && error.errno === "EPERM",
    );
    await assert.rejects(
      bench.graph.backend("ro", { describe: "w", needed: Perm.write, shared: Perm.all }),
      { message: "Block node is read-only" },
    );
    await disk.detach();
  });
}

function zeroesAndStatus(promise: Register): void {
  promise("writes zeroes, with and without unmapping", ["write", "contents"], async (bench) => {
    for (const flags of [0, RequestFlag.mayUnmap, RequestFlag.fua]) {
      await bench.write(0, pattern(32768, 3));
      await bench.disk.writeZeroes(1000, 20000, flags);
      const bytes = await bench.read(0, 32768);
      assert.deepEqual(bytes.slice(0, 1000), pattern(32768, 3).slice(0, 1000));
      assert.ok(bytes.slice(1000, 21000).every((byte) => byte === 0), "zeroes");
      assert.deepEqual(bytes.slice(21000), pattern(32768, 3).slice(21000));
    }
  });

  promise("writes zeroes quickly, or refuses with ENOTSUP and changes nothing", [
    "write",
    "contents",
  ], async (bench) => {
    await bench.write(0, pattern(8192, 3));
    try {
      await bench.disk.writeZeroes(0, 8192, RequestFlag.noFallback | RequestFlag.mayUnmap);
      assert.ok((await bench.read(0, 8192)).every((byte) => byte === 0));
    } catch (error) {
      assert.ok(isNotSupported(error), String(error));
      assert.deepEqual(await bench.read(0, 8192), pattern(8192, 3));
    }
  });

  promise("discards no more than it was told", ["write", "contents"], async (bench) => {
    await bench.write(0, pattern(65536, 4));
    await bench.disk.discard(5000, 30000);
    const bytes = await bench.read(0, 65536);
    assert.deepEqual(bytes.slice(0, 5000), pattern(65536, 4).slice(0, 5000));
    assert.deepEqual(bytes.slice(35000), pattern(65536, 4).slice(35000));
  });

  promise(
    "tells status that covers the range and is true",
    ["write", "contents"],
    async (bench) => {
      const { size } = bench.disk;
      await bench.write(8192, pattern(4096, 9));
      await bench.disk.writeZeroes(20480, 4096, RequestFlag.mayUnmap);
      const bytes = await bench.read(0, Math.min(size, 65536));
      for (let at = 0; at < bytes.length;) {
        const status = await bench.status(at, bytes.length - at);
        assert.ok(status.length > 0 && status.length <= bytes.length - at, "progress");
        const part = bytes.slice(at, at + status.length);
        if (status.zero) assert.ok(part.every((byte) => byte === 0), `zero at ${at}`);
        at += status.length;
      }
      const written = await bench.status(8192, 4096);
      assert.ok(written.allocated && !written.zero, "what was written is not zero");
      const { depth, length } = await bench.disk.allocationDepth(8192, 4096);
      assert.ok(depth >= 1 && length > 0 && length <= 4096);
    },
  );
}

function ends(promise: Register): void {
  promise("reads zeroes where nothing was written, up to the very end", [
    "contents",
  ], async (bench) => {
    const { size } = bench.disk;
    assert.equal(size, alignUp(bench.subject.size, 512));
    assert.ok((await bench.read(size - 700, 700)).every((byte) => byte === 0));
  });

  promise("writes and reads the last bytes", ["write", "contents"], async (bench) => {
    const { size } = bench.disk;
    await bench.write(size - 1, Uint8Array.of(7));
    await bench.write(size - 1000, pattern(300, 6));
    const bytes = await bench.read(size - 1000, 1000);
    assert.deepEqual(bytes.slice(0, 300), pattern(300, 6));
    assert.equal(bytes[999], 7);
    assert.equal(bench.disk.size, size);
  });

  promise("grows with zeroes and shrinks", ["write", "resize", "contents"], async (bench) => {
    const { size } = bench.disk;
    await bench.write(size - 512, pattern(512, 8));
    await bench.graph.resize("tested", size + 8192);
    assert.equal(bench.disk.size, size + 8192);
    const bytes = await bench.read(size - 512, 8704);
    assert.deepEqual(bytes.slice(0, 512), pattern(512, 8));
    assert.ok(bytes.slice(512).every((byte) => byte === 0));
    await bench.graph.resize("tested", size - 4096);
    await bench.graph.resize("tested", size);
    assert.ok((await bench.read(size - 4096, 4096)).every((byte) => byte === 0));
  });
}

/** What a discarded range reads as is not defined, but for each byte it is what was there, or zero. */
async function discardAndLearn(
  bench: Bench,
  model: Uint8Array,
  at: number,
  length: number,
  what: string,
): Promise<void> {
  await bench.disk.discard(at, length);
  const bytes = await bench.read(at, length);
  for (let i = 0; i < length; i++) assert.ok(bytes[i] === 0 || bytes[i] === model[at + i], what);
  model.set(bytes, at);
}

function models(promise: Register): void {
  promise("agrees with a byte array over 300 random operations", [
    "write",
    "contents",
  ], async (bench) => {
    const size = Math.min(bench.disk.size, 1 << 20);
    const model = new Uint8Array(size);
    const seed = 20240607;
    const random = randomFrom(seed);
    for (let step = 0; step < 300; step++) {
      const offset = random(size);
      let length = 1 + random(Math.min(size - offset, random(8) === 0 ? 200000 : 9000));
      let at = offset;
      if (random(2) === 0) {
        at = alignDown(offset, 4096);
        length = Math.min(alignUp(length, 4096), size - at);
      }
      const what = `seed ${seed}, step ${step}: ${length} at ${at}`;
      switch (random(7)) {
        case 0:
        case 1: {
          const bytes = pattern(length, step);
          await bench.write(at, bytes, random(4) === 0 ? RequestFlag.fua : 0, random(3) * 8);
          model.set(bytes, at);
          break;
        }
        case 2:
          await bench.disk.writeZeroes(at, length, random(2) * RequestFlag.mayUnmap);
          model.fill(0, at, at + length);
          break;
        case 3:
          await discardAndLearn(bench, model, at, length, what);
          break;
        case 4:
          await bench.disk.flush();
          break;
        default:
          assert.deepEqual(await bench.read(at, length), model.slice(at, at + length), what);
      }
    }
    assert.deepEqual(await bench.read(0, size), model);
    assert.equal(bench.disk.inFlight, 0);
  });

  promise("loses no byte of small writes that share blocks and run together", [
    "write",
    "contents",
  ], async (bench) => {
    const length = 16384;
    const model = new Uint8Array(length);
    const random = randomFrom(7);
    for (let round = 0; round < 8; round++) {
      const writes: Promise<void>[] = [];
      // Each byte is written by one request only: whatever the order, all of them must be there.
      for (let at = 0; at < length;) {
        const size = Math.min(length - at, 1 + random(700));
        const bytes = pattern(size, round * 100 + at);
        model.set(bytes, at);
        writes.push(bench.write(at, bytes));
        at += size;
      }
      await Promise.all(writes);
      assert.deepEqual(await bench.read(0, length), model, `round ${round}`);
    }
  });
}
