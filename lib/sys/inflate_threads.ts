/**
 * Threads that inflate, from native memory to native memory, so that the context's own thread serves others in the
 * meantime and more than one core decodes. Node's zlib cannot do it: in Deno its asynchronous calls run on the
 * calling thread.
 *
 * A job is posted in shared memory: words[POSTED] and words[TAKEN] count them, job n lies in slot n % SLOTS. The
 * thread that moves TAKEN on from n owns the job until it stores the result, and then rings an eventfd on the loop,
 * unless it has been rung and was not heard yet. As with the poller (poller.ts), the threads' program is the text of
 * one function, which may use nothing of this module.
 */
import { assert } from "../base/mod.ts";
import { EPOLL } from "./constants.ts";
import { check } from "./errno.ts";
import type { InflateThreads, Loop, Memory, Sys, Watch } from "./types.ts";

/** Jobs that can be under way at once: a power of two. */
const SLOTS = 64;
/** Words: counts of jobs, the order to end, whether the bell has been rung; then one for each slot's result. */
const RESULTS = 4;
/** The result of a slot whose job is under way. */
const UNDER_WAY = -2;
/** A job in `jobs`: address and length of the stream, address and length of the room for what it makes. */
const FIELDS = 4;

/** What a thread is started with. */
interface Start {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly jobs: Float64Array<SharedArrayBuffer>;
  readonly bell: number;
}

/** What the program uses of Node's zlib; see compress.ts. */
interface InflateStream {
  readonly _handle: {
    writeSync(...args: [number, Uint8Array, number, number, Uint8Array, number, number]): void;
    reset(): void;
    onerror: (message: string) => void;
  };
  readonly _writeState: Uint32Array;
}

function program(): void {
  const [POSTED, TAKEN, STOP, RUNG, RESULTS, SLOTS, FIELDS] = [0, 1, 2, 3, 4, 64, 4];
  const FINISH = 4;
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent<Start>) => void;
    postMessage(message: string): void;
    process: {
      getBuiltinModule(name: string): { createInflateRaw(options: object): InflateStream };
    };
  };
  const view = (address: number, length: number): Uint8Array => {
    const pointer = Deno.UnsafePointer.create(BigInt(address))!;
    return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, length));
  };
  scope.onmessage = ({ data: { words, jobs, bell } }) => {
    const libc = Deno.dlopen("libc.so.6", {
      write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    });
    const zlib = scope.process.getBuiltinModule("node:zlib");
    const stream = zlib.createInflateRaw({ windowBits: 15 });
    let broken = false;
    stream._handle.onerror = (message) => void (broken = message !== "unexpected end of file");
    const inflate = (at: number): number => {
      const [input, output] = [view(jobs[at]!, jobs[at + 1]!), view(jobs[at + 2]!, jobs[at + 3]!)];
      broken = false;
      try {
        stream._handle.reset();
        stream._handle.writeSync(FINISH, input, 0, input.length, output, 0, output.length);
      } catch {
        return -1;
      }
      return broken ? -1 : output.length - stream._writeState[0]!;
    };
    const one = new Uint8Array(BigUint64Array.of(1n).buffer);
    scope.postMessage("ready");
    while (Atomics.load(words, STOP) === 0) {
      const [next, posted] = [Atomics.load(words, TAKEN), Atomics.load(words, POSTED)];
      if (next === posted) {
        Atomics.wait(words, POSTED, posted);
      } else if (Atomics.compareExchange(words, TAKEN, next, (next + 1) | 0) === next) {
        const slot = next & (SLOTS - 1);
        Atomics.store(words, RESULTS + slot, inflate(slot * FIELDS));
        if (Atomics.exchange(words, RUNG, 1) === 0) libc.symbols.write(bell, one, 8n);
      }
    }
    libc.close();
    scope.postMessage("done");
  };
}

/** Jobs after which threads pay: whoever reads a few clusters only does without. */
const WORTH_STARTING = 32;
const MOST_THREADS = 4;
/** Jobs one at a time after which inline is tried again. */
const CROWDED_RUN = 32;

interface Thread {
  readonly worker: Worker;
  ready: boolean;
  readonly ended: Promise<void>;
}

/** Where the words of `program` are, seen from here. */
const [POSTED, STOP, RUNG] = [0, 2, 3];

/** See InflateThreads. The threads are started as they are needed. */
export class OwnedInflateThreads implements InflateThreads {
  readonly #sys: Sys;
  readonly #loop: Loop;
  readonly #onError: (error: unknown) => void;
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * (RESULTS + SLOTS)));
  readonly #jobs = new Float64Array(new SharedArrayBuffer(8 * FIELDS * SLOTS));
  readonly #waiting: (((result: number) => void) | undefined)[] = Array(SLOTS).fill(undefined);
  readonly #threads = new Set<Thread>();
  #bell: { readonly fd: number; readonly memory: Memory; readonly watch: Watch } | undefined;
  #most: number;
  #asked = 0;
  /** The turn of the last job, and for how many more it counts that there were several at once. */
  #lastTurn = -2;
  #crowded = 0;
  #underWay = 0;
  #ready = 0;

  /** `onError`: a thread could not run; `most`: threads at once [as many as there are cores, if that is several]. */
  constructor(sys: Sys, loop: Loop, onError: (error: unknown) => void, most?: number) {
    this.#sys = sys;
    this.#loop = loop;
    this.#onError = onError;
    const cores = navigator.hardwareConcurrency;
    this.#most = most ?? (cores > 1 ? Math.min(cores, MOST_THREADS) : 0);
  }

  run(input: number, length: number, output: number, room: number): Promise<number> | undefined {
    if (this.#asked < WORTH_STARTING) {
      this.#asked++;
      return undefined;
    }
    if (!this.#isCrowded()) return undefined;
    if (this.#threads.size < this.#most && this.#underWay >= this.#threads.size) this.#start();
    if (this.#ready === 0) return undefined;
    const words = this.#words;
    const number = words[POSTED]!;
    const slot = number & (SLOTS - 1);
    if (this.#waiting[slot] !== undefined) return undefined;
    const jobs = this.#jobs;
    const at = slot * FIELDS;
    jobs[at] = input;
    jobs[at + 1] = length;
    jobs[at + 2] = output;
    jobs[at + 3] = room;
    words[RESULTS + slot] = UNDER_WAY;
    this.#underWay++;
    const result = new Promise<number>((resolve) => this.#waiting[slot] = resolve);
    Atomics.store(words, POSTED, (number + 1) | 0);
    Atomics.notify(words, POSTED, 1);
    return result;
  }

  /** Whether others are waiting, or were a moment ago: inline is faster for one request at a time. */
  #isCrowded(): boolean {
    const { turns } = this.#loop.counters;
    // A request that has waited while another was served inline comes in the next turn.
    if (this.#underWay > 0 || turns - this.#lastTurn <= 1) this.#crowded = CROWDED_RUN;
    else if (this.#crowded > 0) this.#crowded--;
    this.#lastTurn = turns;
    return this.#crowded > 0;
  }

  #start(): void {
    this.#bell ??= this.#hang();
    const worker = new Worker(`data:text/javascript,${encodeURIComponent(`(${program})()`)}`, {
      type: "module",
      name: "inflate",
    });
    const ended = Promise.withResolvers<void>();
    const thread: Thread = { worker, ready: false, ended: ended.promise };
    this.#threads.add(thread);
    worker.onmessage = (event) => {
      if (event.data === "done") return ended.resolve();
      thread.ready = true;
      this.#ready++;
    };
    worker.onerror = (event) => {
      event.preventDefault();
      ended.resolve();
      this.#failed(thread, event.message);
    };
    worker.postMessage(
      { words: this.#words, jobs: this.#jobs, bell: this.#bell.fd } satisfies Start,
    );
  }

  /** A thread fails when it is started, with no job in its hands. */
  #failed(thread: Thread, message: string): void {
    this.#threads.delete(thread);
    this.#most = this.#threads.size;
    if (thread.ready) this.#ready--;
    this.#onError(new Error(`a thread that inflates failed: ${message}`));
    if (this.#ready === 0) this.#settle(() => -1);
  }

  #hang() {
    const fd = check(this.#sys.eventfd(0), "eventfd");
    const memory = this.#sys.allocate(8);
    return { fd, memory, watch: this.#loop.watch(fd, EPOLL.IN, () => this.#heard()) };
  }

  #heard(): void {
    const { fd, memory } = this.#bell!;
    this.#sys.read(fd, memory.address, 8);
    // Before looking: a result that comes now rings again.
    Atomics.store(this.#words, RUNG, 0);
    this.#settle((slot) => Atomics.load(this.#words, RESULTS + slot));
  }

  #settle(resultOf: (slot: number) => number): void {
    for (let slot = 0; slot < SLOTS; slot++) {
      const resolve = this.#waiting[slot];
      if (resolve === undefined) continue;
      const result = resultOf(slot);
      if (result === UNDER_WAY) continue;
      this.#waiting[slot] = undefined;
      this.#underWay--;
      resolve(result);
    }
  }

  /** Ends the threads; nothing is under way. The loop must still turn. */
  async close(): Promise<void> {
    assert(this.#underWay === 0, "streams are still being inflated");
    this.#most = 0;
    Atomics.store(this.#words, STOP, 1);
    // One that has looked at STOP before sees a changed count, and does not sleep.
    Atomics.add(this.#words, POSTED, 1);
    Atomics.notify(this.#words, POSTED);
    for (const thread of this.#threads) {
      await thread.ended;
      thread.worker.terminate();
    }
    this.#threads.clear();
    this.#bell?.watch.close();
    if (this.#bell !== undefined) {
      this.#sys.close(this.#bell.fd);
      this.#bell.memory.unmap();
    }
    this.#bell = undefined;
  }
}
