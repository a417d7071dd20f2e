import assert from "node:assert/strict";
import zlib from "node:zlib";
import { createContext } from "./context.ts";
import { OwnedInflateThreads } from "./inflate_threads.ts";
import { LinuxSys, type Memory } from "./mod.ts";

const ROOM = 65536;

function text(seed: number): Uint8Array {
  return Uint8Array.from({ length: ROOM }, (_, at) => 97 + (((at * at + seed) >> 3) % 23));
}

/** A context with threads of its own, and streams and room for them in native memory. */
class Bench implements AsyncDisposable {
  readonly sys = new LinuxSys();
  readonly context = createContext({ name: "test", sys: this.sys });
  readonly errors: unknown[] = [];
  readonly threads: OwnedInflateThreads;
  readonly #memory: Memory[] = [];

  constructor(most: number) {
    const onError = (error: unknown) => void this.errors.push(error);
    this.threads = new OwnedInflateThreads(this.sys, this.context.loop, onError, most);
  }

  alloc(bytes: Uint8Array | number): Memory {
    const memory = this.sys.allocate(typeof bytes === "number" ? bytes : bytes.length);
    if (typeof bytes !== "number") memory.bytes.set(bytes);
    this.#memory.push(memory);
    return memory;
  }

  /** What the threads make of `stream`; undefined: it was not taken. */
  run(stream: Uint8Array, target: Memory): Promise<number> | undefined {
    return this.threads.run(this.alloc(stream).address, stream.length, target.address, ROOM);
  }

  /** Asks until a thread takes a stream. */
  async running(): Promise<void> {
    const [stream, target] = [zlib.deflateRawSync(text(0)), this.alloc(ROOM)];
    for (;;) {
      const taken = this.run(stream, target);
      if (taken !== undefined) return void await taken;
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.threads.close();
    await this.context.close();
    for (const memory of this.#memory) memory.unmap();
    this.sys.dispose();
    assert.deepEqual(this.errors, []);
  }
}

Deno.test("streams in any number are inflated, each to its own place", async () => {
  await using bench = new Bench(2);
  await bench.running();
  const jobs = Array.from({ length: 200 }, (_, seed) => {
    const target = bench.alloc(ROOM);
    const want = text(seed);
    return { want, target, done: bench.run(zlib.deflateRawSync(want), target) };
  });
  const taken = jobs.filter(({ done }) => done !== undefined);
  assert.equal(taken.length, 64, "the rest is refused");
  for (const { want, target, done } of taken) {
    assert.equal(await done, ROOM);
    assert.deepEqual(target.bytes.subarray(0, ROOM), want);
  }
});

Deno.test("a broken stream is told, and a short or long one by what it makes", async () => {
  await using bench = new Bench(1);
  await bench.running();
  const target = bench.alloc(2 * ROOM);
  target.bytes.fill(0x55);
  assert.equal(await bench.run(new Uint8Array(100).fill(0xff), target), -1);
  assert.equal(await bench.run(zlib.deflateRawSync(text(1).subarray(0, 1000)), target), 1000);
  assert.equal(await bench.run(zlib.deflateRawSync(text(2)).subarray(0, 20), target)! < ROOM, true);
  const long = new Uint8Array(2 * ROOM).fill(7);
  assert.equal(await bench.run(zlib.deflateRawSync(long), target), ROOM);
  assert.equal(target.bytes.subarray(ROOM).every((byte) => byte === 0x55), true);
  const whole = text(3);
  assert.equal(await bench.run(zlib.deflateRawSync(whole), target), ROOM);
  assert.deepEqual(target.bytes.subarray(0, ROOM), whole);
});

Deno.test("a few streams start no thread, and no threads can be started where there is one core", async () => {
  await using bench = new Bench(0);
  const [stream, target] = [zlib.deflateRawSync(text(0)), bench.alloc(ROOM)];
  for (let at = 0; at < 100; at++) assert.equal(bench.run(stream, target), undefined);
  await using other = new Bench(1);
  for (let at = 0; at < 32; at++) assert.equal(other.run(stream, other.alloc(ROOM)), undefined);
});

Deno.test("threads that are still starting are ended by close", async () => {
  await using bench = new Bench(2);
  const [stream, target] = [zlib.deflateRawSync(text(0)), bench.alloc(ROOM)];
  for (let at = 0; at < 40; at++) assert.equal(bench.run(stream, target), undefined);
});

Deno.test("streams that come one at a time are left to be inflated inline", async () => {
  await using bench = new Bench(1);
  await bench.running();
  const [stream, target] = [zlib.deflateRawSync(text(0)), bench.alloc(ROOM)];
  const { loop } = bench.context;
  for (let taken: Promise<number> | undefined = Promise.resolve(0); taken !== undefined;) {
    await taken;
    const turns = loop.counters.turns;
    while (loop.counters.turns - turns < 2) await new Promise<void>((go) => loop.defer(go));
    taken = bench.run(stream, target);
  }
});
