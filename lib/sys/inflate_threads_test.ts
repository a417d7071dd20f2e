import assert from "node:assert/strict";
import zlib from "node:zlib";
import { createContext } from "./context.ts";
import { OwnedInflateThreads } from "./inflate_threads.ts";
import { Libdeflate } from "./libdeflate.ts";
import { Libzstd } from "./libzstd.ts";
import { LinuxSys, type Loop, type Memory, type StreamFormat } from "./mod.ts";

const ROOM = 65536;
const IDLE_NS = 5e9;

function text(seed: number): Uint8Array {
  return Uint8Array.from({ length: ROOM }, (_, at) => 97 + (((at * at + seed) >> 3) % 23));
}

/** A loop whose timers expire when the test says so. */
class Clock {
  readonly timers = new Map<() => void, number>();
  readonly loop: Loop;

  constructor(loop: Loop) {
    this.loop = new Proxy(loop, {
      get: (target, name) => {
        if (name === "timer") return (ns: number, task: () => void) => this.#timer(ns, task);
        const value = Reflect.get(target, name, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
  }

  #timer(ns: number, task: () => void): { cancel(): void } {
    this.timers.set(task, ns);
    return { cancel: () => void this.timers.delete(task) };
  }

  /** Lets all timers expire that are set now. */
  expire(): void {
    for (const task of [...this.timers.keys()]) {
      this.timers.delete(task);
      task();
    }
  }
}

interface Options {
  readonly most?: number;
  readonly libdeflate?: string;
  readonly libzstd?: string;
}

/** What makes `bytes`. */
function pack(format: StreamFormat, bytes: Uint8Array): Uint8Array {
  return new Uint8Array(
    format === "zstd" ? zlib.zstdCompressSync(bytes) : zlib.deflateRawSync(bytes),
  );
}

/** A context with threads of its own, and streams and room for them in native memory. */
class Bench implements AsyncDisposable {
  readonly sys = new LinuxSys();
  readonly context = createContext({ name: "test", sys: this.sys });
  readonly clock = new Clock(this.context.loop);
  readonly errors: unknown[] = [];
  readonly threads: OwnedInflateThreads;
  readonly #memory: Memory[] = [];

  constructor(options: Options, readonly format: StreamFormat = "deflate") {
    const onError = (error: unknown) => void this.errors.push(error);
    this.threads = new OwnedInflateThreads(this.sys, this.clock.loop, onError, options);
  }

  alloc(bytes: Uint8Array | number): Memory {
    const memory = this.sys.allocate(typeof bytes === "number" ? bytes : bytes.length);
    if (typeof bytes !== "number") memory.bytes.set(bytes);
    this.#memory.push(memory);
    return memory;
  }

  /** What the threads make of `stream`; undefined: it was not taken. */
  run(stream: Uint8Array, target: Memory, room = ROOM): Promise<boolean> | undefined {
    const { address } = this.alloc(stream);
    return this.threads.run(address, stream.length, target.address, room, this.format);
  }

  /** Asks until a thread takes a stream. */
  async running(): Promise<void> {
    const [stream, target] = [pack(this.format, text(0)), this.alloc(ROOM)];
    for (;;) {
      const taken = this.run(stream, target);
      if (taken !== undefined) return void await taken;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  /** This process' threads that are Workers, but for those of `others`: ones of an earlier test may still be ending. */
  workers(others?: ReadonlySet<string>): Set<string> {
    const tasks = [...Deno.readDirSync("/proc/self/task")].map(({ name }) => name);
    return new Set(tasks.filter((id) => !others?.has(id) && comm(id).startsWith("worker-")));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.threads.close();
    assert.equal(this.threads.threads, 0);
    await this.context.close();
    for (const memory of this.#memory) memory.unmap();
    this.sys.dispose();
    assert.deepEqual(this.errors, []);
  }
}

function comm(task: string): string {
  try {
    return Deno.readTextFileSync(`/proc/self/task/${task}/comm`);
  } catch {
    return ""; // it has just ended
  }
}

function isHere(library: { close(): void } | undefined): boolean {
  library?.close();
  return library !== undefined;
}

const DECODERS: { decoder: string; format: StreamFormat; options: Options }[] = [
  { decoder: "zlib", format: "deflate", options: { libdeflate: "libdeflate.is.not.here" } },
  { decoder: "the runtime's zstd", format: "zstd", options: { libzstd: "libzstd.is.not.here" } },
];
if (isHere(Libdeflate.open())) {
  DECODERS.push({ decoder: "libdeflate", format: "deflate", options: {} });
}
if (isHere(Libzstd.open())) DECODERS.push({ decoder: "libzstd", format: "zstd", options: {} });

for (const { decoder, format, options } of DECODERS) {
  Deno.test(`${decoder}: streams in any number are inflated, each to its own place`, async () => {
    await using bench = new Bench({ most: 2, ...options }, format);
    await bench.running();
    const jobs = Array.from({ length: 200 }, (_, seed) => {
      const target = bench.alloc(ROOM);
      const want = text(seed);
      return { want, target, filled: bench.run(pack(format, want), target) };
    });
    const taken = jobs.filter(({ filled }) => filled !== undefined);
    assert.ok(taken.length >= 1 && taken.length <= 64, `${taken.length} taken`);
    for (const { want, target, filled } of taken) {
      assert.equal(await filled, true);
      assert.deepEqual(target.bytes.subarray(0, ROOM), want);
    }
  });

  Deno.test(`${decoder}: what does not fill its room is told, and nothing beyond is touched`, async () => {
    await using bench = new Bench({ most: 1, ...options }, format);
    await bench.running();
    const target = bench.alloc(2 * ROOM);
    target.bytes.fill(0x55);
    const broken = new Uint8Array(100).fill(0xff);
    const short = pack(format, text(1).subarray(0, 1000));
    const cut = pack(format, text(2)).subarray(0, 20);
    for (const stream of [broken, short, cut]) assert.equal(await bench.run(stream, target), false);
    // The runtime's decoders take the front part of it; the libraries leave the answer to whoever decodes inline.
    const bomb = pack(format, new Uint8Array(64 * ROOM).fill(7));
    assert.equal(await bench.run(bomb, target), !decoder.startsWith("lib"));
    assert.equal(target.bytes.subarray(ROOM).every((byte) => byte === 0x55), true);
    const whole = text(3);
    assert.equal(await bench.run(pack(format, whole), target), true);
    assert.deepEqual(target.bytes.subarray(0, ROOM), whole);
  });

  Deno.test(`${decoder}: threads end when they are idle, and are started again`, async () => {
    await using bench = new Bench({ most: 2, ...options }, format);
    const others = bench.workers();
    bench.context.startPoller();
    while (bench.workers(others).size === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    const before = bench.workers();
    for (let round = 0; round < 2; round++) {
      await bench.running();
      assert.deepEqual([...bench.clock.timers.values()], [IDLE_NS]);
      bench.clock.expire(); // there was work: they stay
      assert.ok(bench.threads.threads > 0);
      assert.ok(bench.workers(before).size > 0);
      bench.clock.expire();
      assert.equal(bench.threads.threads, 0);
      assert.equal(bench.clock.timers.size, 0);
      while (bench.workers(before).size > 0) await new Promise((resolve) => setTimeout(resolve, 1));
    }
  });
}

Deno.test("threads stay for what is under way", async () => {
  await using bench = new Bench({ most: 1 });
  await bench.running();
  bench.clock.expire();
  const target = bench.alloc(ROOM);
  const filled = bench.run(zlib.deflateRawSync(text(1)), target);
  assert.notEqual(filled, undefined);
  bench.clock.expire();
  bench.clock.expire();
  assert.equal(bench.threads.threads, 1);
  assert.equal(await filled, true);
});

Deno.test("a few streams start no thread, and no threads are started where there is one core", async () => {
  await using bench = new Bench({ most: 0 });
  const [stream, target] = [zlib.deflateRawSync(text(0)), bench.alloc(ROOM)];
  for (let at = 0; at < 100; at++) assert.equal(bench.run(stream, target), undefined);
  assert.equal(bench.clock.timers.size, 0);
  await using other = new Bench({ most: 1 });
  for (let at = 0; at < 32; at++) assert.equal(other.run(stream, other.alloc(ROOM)), undefined);
  assert.equal(other.threads.threads, 0);
});

Deno.test("threads that are still starting are ended by close", async () => {
  await using bench = new Bench({ most: 2 });
  const [stream, target] = [zlib.deflateRawSync(text(0)), bench.alloc(ROOM)];
  for (let at = 0; at < 40; at++) assert.equal(bench.run(stream, target), undefined);
  assert.equal(bench.threads.threads, 1);
});

Deno.test("streams that come one at a time are left to be inflated inline", async () => {
  await using bench = new Bench({ most: 1 });
  await bench.running();
  const [stream, target] = [zlib.deflateRawSync(text(0)), bench.alloc(ROOM)];
  const { loop } = bench.context;
  for (let taken: Promise<boolean> | undefined = Promise.resolve(true); taken !== undefined;) {
    await taken;
    const turns = loop.counters.turns;
    while (loop.counters.turns - turns < 2) await new Promise<void>((go) => loop.defer(go));
    taken = bench.run(stream, target);
  }
});

Deno.test("while threads have enough to do streams are left to the context, for a millisecond of a turn", async () => {
  await using bench = new Bench({ most: 1 });
  await bench.running();
  const stream = pack("deflate", text(0));
  const rooms = Array.from({ length: 32 }, () => bench.alloc(ROOM));
  const began = performance.now();
  const first = rooms.map((room) => bench.run(stream, room));
  const quick = performance.now() - began < 1;
  const left = first.filter((filled) => filled === undefined).length;
  assert.ok(left < rooms.length, "none was taken");
  if (quick) assert.ok(left > 0, "all were taken");
  while (performance.now() - began < 2);
  const late = bench.run(stream, bench.alloc(ROOM));
  assert.notEqual(late, undefined);
  for (const filled of [...first, late]) assert.notEqual(await filled, false);
});

Deno.test("what jobs under way are to make is bounded, but for a single one", async () => {
  await using bench = new Bench({ most: 1 });
  await bench.running();
  const mib = 1024 * 1024;
  const stream = zlib.deflateRawSync(new Uint8Array(2 * mib));
  const [first, second, third] = [1, 2, 3].map(() =>
    bench.run(stream, bench.alloc(2 * mib), 2 * mib)
  );
  assert.equal(third, undefined);
  assert.deepEqual(await Promise.all([first, second]), [true, true]);
  const large = zlib.deflateRawSync(new Uint8Array(8 * mib));
  const alone = bench.run(large, bench.alloc(8 * mib), 8 * mib);
  assert.equal(bench.run(stream, bench.alloc(2 * mib), 2 * mib), undefined);
  assert.equal(await alone, true);
  assert.equal(await bench.run(stream, bench.alloc(2 * mib), 2 * mib), true);
});
