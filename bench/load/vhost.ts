/**
 * The load generator of the vhost-user rows: a front-end with split rings, indirect descriptors and event indices,
 * as Linux's driver uses them. Everything is laid out beforehand; a request costs it a store or two.
 *
 * With notifications it waits for a call whenever nothing is done, and kicks when the device wants to be kicked. It
 * waits as a virtual CPU does under KVM with its default halt_poll_ns: 200 us of polling for the event, then asleep
 * (`halt: 0` sleeps at once). In polling mode it asks for no calls and spins on the used rings.
 *
 * It ends as a machine that is shut down: requests in flight are waited for, then each queue is stopped
 * (GET_VRING_BASE), then the connection closed.
 */
import { createContext, EPOLL, type EpollEvents, type OwnedContext } from "../../lib/sys/mod.ts";
import { Frontend, GUEST_BASE } from "../../lib/vhost/testing.ts";
import type { SplitDriver } from "../../lib/vhost/testing_driver.ts";
import { BlkFeature } from "../../lib/vhost/config.ts";
import { Feature } from "../../lib/vhost/wire.ts";
import { cpuUs } from "../proc.ts";
import { serveLines } from "../served.ts";

/** What is to be done. */
export interface VhostWork {
  readonly socket: string;
  readonly write: boolean;
  readonly blockSize: number;
  /** Requests in flight on each queue. */
  readonly depth: number;
  readonly queues: number;
  readonly polling: boolean;
  /** How long a call is polled for before the generator sleeps, in microseconds [200]. */
  readonly halt?: number;
  readonly seconds: number;
  /** Seconds of load before that [0.2]. */
  readonly warmup?: number;
  /** The disk's size in bytes. */
  readonly size: number;
  readonly seed: number;
  /** Whose CPU time is measured. */
  readonly pid: number;
}

/** What came of it. */
export interface VhostResult {
  /** Requests a second. */
  readonly rate: number;
  /** CPU time of the server and of this generator, in microseconds a request. */
  readonly cpuUs: number;
  readonly ownCpuUs: number;
  /** Requests for each kick, and for each sleep. */
  readonly perKick: number;
  readonly perSleep: number;
}

/** Descriptors of a table: header, data, status. */
const TABLE = 16 * 3;
const INDIRECT = 4;
const NEXT = 1;
const WRITE = 2;
/** Used requests between two looks at the clock. */
const CLOCK_EVERY = 256;
/** Milliseconds without an answer after which a server is taken for dead. */
const PATIENCE_MS = 2000;

/** One queue: slots whose tables never change, but for the sector. */
class LoadQueue {
  readonly #halves: Uint16Array;
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;
  readonly #available: number;
  readonly #used: number;
  readonly #mask: number;
  readonly #headers: number[] = [];
  readonly #statuses: number[] = [];
  readonly #blocks: number;
  readonly #sectorsPerBlock: number;
  #avail = 0;
  #seen = 0;
  #kicked = 0;
  #state: number;

  constructor(frontend: Frontend, index: number, work: VhostWork) {
    const ring = frontend.rings[index] as SplitDriver;
    const { memory } = frontend;
    this.#halves = new Uint16Array(memory.bytes.buffer);
    this.#words = new Uint32Array(memory.bytes.buffer);
    this.#bytes = memory.bytes;
    this.#available = ring.available / 2;
    this.#used = ring.used / 2;
    this.#mask = ring.size - 1;
    this.#blocks = Math.floor(work.size / work.blockSize);
    this.#sectorsPerBlock = work.blockSize / 512;
    this.#state = (work.seed * 2654435761 + index * 40503 + 1) >>> 0;
    const { view } = memory;
    const put = (at: number, offset: number, length: number, flags: number, next: number) => {
      view.setBigUint64(at, BigInt(GUEST_BASE + offset), true);
      view.setUint32(at + 8, length, true);
      view.setUint16(at + 12, flags, true);
      view.setUint16(at + 14, next, true);
    };
    for (let slot = 0; slot < work.depth; slot++) {
      // Header and status are in one structure in Linux's driver: in one cache line.
      const table = memory.allocate(TABLE, 64);
      const header = memory.allocate(64, 64);
      const status = header + 16;
      const data = memory.allocate(work.blockSize, 4096);
      view.setUint32(header, work.write ? 1 : 0, true);
      put(table, header, 16, NEXT, 1);
      put(table + 16, data, work.blockSize, NEXT | (work.write ? 0 : WRITE), 2);
      put(table + 32, status, 1, WRITE, 0);
      put(ring.descriptor + 16 * slot, table, TABLE, INDIRECT, 0);
      this.#headers.push(header / 4);
      this.#statuses.push(status);
    }
  }

  /** Makes slot `slot` available for a random block; shown by `publish`. */
  submit(slot: number): void {
    // xorshift32
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x >>> 0;
    const block = this.#state % this.#blocks;
    const word = this.#headers[slot]!;
    this.#words[word + 2] = block * this.#sectorsPerBlock;
    this.#halves[this.#available + 2 + (this.#avail & this.#mask)] = slot;
    this.#avail = (this.#avail + 1) & 0xffff;
  }

  /** Shows what was submitted. Whether the device wants a kick. */
  publish(): boolean {
    const before = this.#kicked;
    if (before === this.#avail) return false;
    Atomics.store(this.#halves, this.#available + 1, this.#avail);
    this.#kicked = this.#avail;
    const event = Atomics.load(this.#halves, this.#used + 2 + 4 * (this.#mask + 1));
    return ((this.#avail - event - 1) & 0xffff) < ((this.#avail - before) & 0xffff);
  }

  /** Requests that were made available and not yet used. */
  get inFlight(): number {
    return (this.#avail - this.#seen) & 0xffff;
  }

  /** Takes what was used and, if `again`, submits each again. How many. */
  recycle(again: boolean): number {
    const index = Atomics.load(this.#halves, this.#used + 1);
    let count = 0;
    while (this.#seen !== index) {
      const slot = this.#words[(this.#used + 2) / 2 + 2 * (this.#seen & this.#mask)]!;
      if (this.#bytes[this.#statuses[slot]!] !== 0) throw new Error("a request failed");
      this.#seen = (this.#seen + 1) & 0xffff;
      if (again) this.submit(slot);
      count++;
    }
    return count;
  }

  /** Asks for a call at the next used request. Whether there is one already. */
  arm(): boolean {
    Atomics.store(this.#halves, this.#available + 3 + this.#mask, this.#seen);
    return Atomics.load(this.#halves, this.#used + 1) !== this.#seen;
  }

  /** Asks for no calls: the event is far away, behind what was used. */
  disarm(): void {
    Atomics.store(
      this.#halves,
      this.#available + 3 + this.#mask,
      (this.#seen + 0x8000) & 0xffff,
    );
  }
}

/** Runs one workload. */
export async function runVhost(work: VhostWork): Promise<VhostResult> {
  const context = createContext({ name: "load" });
  const frontend = Frontend.connect(context, work.socket);
  try {
    await frontend.start({
      features: [Feature.indirectDesc, Feature.eventIdx, BlkFeature.flush, BlkFeature.configWce],
      queues: work.queues,
      queueSize: 128,
      memory: work.queues * work.depth * (work.blockSize + 8192) + (1 << 20),
    });
    const result = drive(context, frontend, work);
    for (let i = 0; i < work.queues; i++) await frontend.stopQueue(i);
    return result;
  } finally {
    frontend.close();
    await context.close();
  }
}

function drive(context: OwnedContext, frontend: Frontend, work: VhostWork): VhostResult {
  const { sys } = context;
  const queues = frontend.rings.map((_, i) => new LoadQueue(frontend, i, work));
  const epfd = sys.epollCreate();
  // Edges: the descriptors need not be read.
  for (const [i, fd] of frontend.calls.entries()) {
    sys.epollCtl(epfd, EPOLL.CTL_ADD, fd, EPOLL.IN | EPOLL.ET, i);
  }
  const ready: EpollEvents = sys.epollEvents(16);
  const halt = (work.halt ?? 200) / 1000;
  const run = new Run(frontend, queues, work, () => {
    const until = performance.now() + halt;
    while (performance.now() < until) if (sys.epollWait(epfd, ready, 0) > 0) return false;
    if (sys.epollWait(epfd, ready, PATIENCE_MS) === 0) throw new Error("nothing is answered");
    return true;
  });
  run.until(performance.now() + 1000 * (work.warmup ?? 0.2));
  run.kicks = run.sleeps = 0;
  const cpu = cpuUs(work.pid);
  const own = cpuUs(Deno.pid);
  const start = performance.now();
  const done = run.until(start + work.seconds * 1000);
  const seconds = (performance.now() - start) / 1000;
  const result = {
    rate: done / seconds,
    cpuUs: (cpuUs(work.pid) - cpu) / done,
    ownCpuUs: (cpuUs(Deno.pid) - own) / done,
    perKick: done / Math.max(1, run.kicks),
    perSleep: done / Math.max(1, run.sleeps),
  };
  run.drain();
  sys.close(epfd);
  return result;
}

/** The loop. */
class Run {
  kicks = 0;
  sleeps = 0;
  #started = false;

  constructor(
    readonly frontend: Frontend,
    readonly queues: readonly LoadQueue[],
    readonly work: VhostWork,
    /** Waits for a call. Whether it slept. */
    readonly wait: () => boolean,
  ) {}

  #publish(index: number): void {
    if (!this.queues[index]!.publish()) return;
    this.kicks++;
    this.frontend.kick(index, true);
  }

  /** Runs until `deadline`. Requests done. */
  until(deadline: number): number {
    const { queues, work } = this;
    if (!this.#started) {
      this.#started = true;
      for (const [i, queue] of queues.entries()) {
        for (let slot = 0; slot < work.depth; slot++) queue.submit(slot);
        this.#publish(i);
      }
    }
    let done = 0;
    let next = 0;
    for (;;) {
      let any = 0;
      for (let i = 0; i < queues.length; i++) {
        const queue = queues[i]!;
        const count = queue.recycle(true);
        if (count === 0) continue;
        any += count;
        this.#publish(i);
        if (work.polling) queue.disarm();
      }
      done += any;
      if (done >= next || any === 0) {
        next = done + CLOCK_EVERY;
        if (performance.now() >= deadline) return done;
      }
      if (any > 0 || work.polling) continue;
      let more = false;
      for (let i = 0; i < queues.length; i++) if (queues[i]!.arm()) more = true;
      if (more) continue;
      if (this.wait()) this.sleeps++;
    }
  }

  /** Waits for what is in flight. Throws when a server does not answer. */
  drain(): void {
    const deadline = performance.now() + PATIENCE_MS;
    while (this.queues.some((queue) => queue.inFlight > 0)) {
      for (const queue of this.queues) queue.recycle(false);
      if (performance.now() > deadline) throw new Error("requests are not answered");
    }
  }
}

if (import.meta.main) await serveLines(runVhost);
