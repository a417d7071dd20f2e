/** For tests: a context without a machine, whose native memory is fake. */
import { alignUp, assert } from "../base/mod.ts";
import type { BufferPool, Context, Loop, Memory, Sys, TracePoint } from "../sys/mod.ts";

/** Native memory that is not: one array, addresses from BASE on. Reuses nothing, so stale use shows. */
const BASE = 0x10000;

class FakeMemory {
  readonly buffer = new ArrayBuffer(1 << 20, { maxByteLength: 1 << 30 });
  readonly bytes = new Uint8Array(this.buffer);
  #next = BASE;

  allocate(length: number): Memory {
    const size = alignUp(Math.max(length, 1), 4096);
    const address = this.#next;
    this.#next += size + 4096;
    if (this.#next > this.buffer.byteLength) {
      this.buffer.resize(alignUp(this.#next, 1 << 20));
    }
    const bytes = this.viewAt(address, size);
    let mapped = true;
    return {
      address,
      length: size,
      bytes,
      view: new DataView(this.buffer, address, size),
      unmap: () => {
        assert(mapped, "memory unmapped twice");
        mapped = false;
        bytes.fill(0xee);
      },
    };
  }
  viewAt(address: number, length: number): Uint8Array {
    assert(address >= BASE && address + length <= this.#next, "access outside native memory");
    return new Uint8Array(this.buffer, address, length);
  }
}

/** A buffer pool that reuses by size, and counts: tests see what was not given back. */
class FakePool implements BufferPool {
  inUse = 0;
  readonly #free = new Map<number, Memory[]>();
  constructor(private readonly memory: FakeMemory) {}
  get kept(): number {
    return 0;
  }
  acquire(length: number): Memory {
    const size = alignUp(Math.max(1, length), 4096);
    const buffer = this.#free.get(size)?.pop() ?? this.memory.allocate(size);
    this.inUse += buffer.length;
    return buffer;
  }
  release(buffer: Memory): void {
    this.inUse -= buffer.length;
    buffer.bytes.fill(0xee);
    const list = this.#free.get(buffer.length);
    if (list === undefined) this.#free.set(buffer.length, [buffer]);
    else list.push(buffer);
  }
  surrender(): void {}
  surrendered(): boolean {
    return false;
  }
  trim(): void {
    this.#free.clear();
  }
}

/** A context for tests of the block core: memory, chance and traces; calls of the machine throw. */
export interface TestContext extends Context {
  /** What was logged and traced, in order. */
  readonly lines: string[];
}

/** Makes one. */
export function testContext(): TestContext {
  const memory = new FakeMemory();
  const lines: string[] = [];
  const points = new Map<string, TracePoint>();
  let now = 1;
  let random = 7;
  const calls: Partial<Sys> = {
    allocate: (length) => memory.allocate(length),
    copy: (target, source, length) => {
      memory.bytes.copyWithin(target, source, source + length);
    },
    fill: (target, value, length) => void memory.bytes.fill(value, target, target + length),
    isZero: (address, length) => memory.viewAt(address, length).every((byte) => byte === 0),
    viewAt: (address, length) => memory.viewAt(address, length),
    monotonicNs: () => now += 1000,
    randomBytes: (length) =>
      Uint8Array.from({ length }, () => (random = (random * 75 + 74) % 65537) & 255),
  };
  const sys = new Proxy(calls, {
    get(target, key) {
      const value = Reflect.get(target, key);
      assert(value !== undefined, `sys.${String(key)} is not there in testContext`);
      return value;
    },
  }) as Sys;
  const counters = { turns: 0, parks: 0, wakes: 0 };
  const defer = (task: () => void) => {
    counters.turns++;
    queueMicrotask(task);
  };
  return {
    name: "test",
    // The proxy would dominate a benchmark: what is there is handed out as it is.
    sys: Object.assign(Object.create(sys), calls) as Sys,
    loop: new Proxy({ defer, counters }, {
      get(target, key) {
        const value = Reflect.get(target, key);
        assert(value !== undefined, `loop.${String(key)} is not there in testContext`);
        return value;
      },
    }) as Loop,
    buffers: new FakePool(memory),
    log: {
      error: (message) => void lines.push(`error: ${message}`),
      warn: (message) => void lines.push(`warning: ${message}`),
      info: (message) => void lines.push(`info: ${message}`),
    },
    trace(name) {
      let point = points.get(name);
      if (point === undefined) {
        point = { name, enabled: false, emit: (text) => void lines.push(`${name} ${text}`) };
        points.set(name, point);
      }
      return point;
    },
    lines,
  };
}
