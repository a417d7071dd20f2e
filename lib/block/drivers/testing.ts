/** For the tests of drivers: a context on the running kernel, and an OpenContext without a graph around it. */
import { CommandError, IoVec, type MaybePromise } from "../../base/mod.ts";
import {
  type BufferPool,
  type Context,
  LinuxSys,
  type Loop,
  type Memory,
  type Sys,
} from "../../sys/mod.ts";
import type { DriverDefinition, DriverInstance, OpenContext } from "../mod.ts";

/** Buffers straight from the kernel. */
class PlainBuffers implements BufferPool {
  inUse = 0;
  readonly kept = 0;
  constructor(readonly sys: Sys) {}
  acquire(length: number): Memory {
    this.inUse++;
    return this.sys.allocate(length);
  }
  release(buffer: Memory): void {
    this.inUse--;
    buffer.unmap();
  }
  surrender(): void {}
  surrendered(): boolean {
    return false;
  }
  trim(): void {}
}

/** Watches nothing; timers end at once, and what was asked of them is kept in `sleeps` (nanoseconds). */
function plainLoop(sleeps: number[]): Loop {
  return {
    watch: () => ({ fd: -1, set() {}, close() {} }),
    defer: (task) => queueMicrotask(task),
    addPoller: () => ({ remove() {} }),
    timer: (ns, task) => {
      sleeps.push(ns);
      queueMicrotask(task);
      return { cancel() {} };
    },
    sleep: (ns) => {
      sleeps.push(ns);
      return Promise.resolve();
    },
    stop: () => Promise.resolve(),
    configure() {},
    counters: { turns: 0, parks: 0, wakes: 0 },
  };
}

/** A context for one test; `end` gives everything back and tells of what was not. */
export interface TestContext extends Context {
  /** What was logged. */
  readonly messages: string[];
  /** How long the loop was asked to sleep, in nanoseconds. */
  readonly sleeps: number[];
  end(): void;
}

/** A context whose system calls go through `wrap`. */
export function testContext(wrap: (sys: Sys) => Sys = (sys) => sys): TestContext {
  const machine = new LinuxSys();
  const sys = wrap(machine);
  const messages: string[] = [];
  const sleeps: number[] = [];
  const log = (message: string) => void messages.push(message);
  const buffers = new PlainBuffers(machine);
  return {
    name: "test",
    sys,
    loop: plainLoop(sleeps),
    buffers,
    log: { error: log, warn: log, info: log },
    trace: (name) => ({ name, enabled: false, emit() {} }),
    messages,
    sleeps,
    end() {
      machine.dispose();
      if (buffers.inUse !== 0) throw new Error(`${buffers.inUse} buffers were not given back`);
    },
  };
}

/** What a test may say about a node. */
export interface TestOpen {
  readOnly?: boolean;
  autoReadOnly?: boolean;
  direct?: boolean;
  child?: OpenContext["child"];
}

/** An OpenContext for `options`, which are the driver's own. */
export function openContext(
  context: Context,
  options: Record<string, unknown>,
  how: TestOpen = {},
): OpenContext {
  const child = how.child ??
    (() => Promise.reject(new CommandError("Parameter 'file' is missing")));
  return {
    context,
    nodeName: "node",
    readOnly: how.readOnly ?? false,
    autoReadOnly: how.autoReadOnly ?? false,
    cache: { direct: how.direct ?? false, noFlush: false },
    discard: "unmap",
    active: true,
    options,
    child,
    optionalChild: child,
    namedChild: child,
    nameOf: ({ filename }) => Promise.resolve(filename),
    degradeToReadOnly(message) {
      throw new CommandError(message);
    },
    trackRequests: () => () => undefined,
    emit() {},
  };
}

/** A test with a context of its own; what the driver has not given back fails it. */
export function inContext(body: (context: TestContext) => Promise<void>): () => Promise<void> {
  return async () => {
    const context = testContext();
    try {
      await body(context);
    } finally {
      context.end();
    }
  };
}

/** Opens a driver without a graph. */
export async function openDriver<O>(
  definition: DriverDefinition<O>,
  context: Context,
  options: O,
  how: TestOpen = {},
): Promise<DriverInstance> {
  const open = openContext(context, options as Record<string, unknown>, how);
  return await definition.open(open, options);
}

/** A piece of native memory as IoVec and as bytes. */
export class Piece {
  readonly memory: Memory;
  constructor(sys: Sys, readonly length: number) {
    this.memory = sys.allocate(Math.max(length, 1));
  }
  get iov(): IoVec {
    return IoVec.of(this.memory.address, this.length);
  }
  get bytes(): Uint8Array {
    return this.memory.bytes.subarray(0, this.length);
  }
  free(): void {
    this.memory.unmap();
  }
}

/** Reads through `read` into new memory, which is given back. */
export async function readBytes(
  sys: Sys,
  read: (offset: number, iov: IoVec, flags: number) => MaybePromise<void>,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const piece = new Piece(sys, length);
  try {
    piece.bytes.fill(0xee); // what a driver does not fill shows
    await read(offset, piece.iov, 0);
    return piece.bytes.slice();
  } finally {
    piece.free();
  }
}
