/**
 * Threads that inflate (raw deflate, zstd), from native memory to native memory. They take from a queue, which is kept
 * short: what would wait in it is left to the context's own thread, inline, so that all have work until there is none.
 * What is made inline needs no promise and no hand-over, and its data is in this core's cache when it is sent. Only
 * when a turn of the loop has inflated for long are jobs put into the queue that wait for a thread: others want
 * something, too. The threads end when nothing was posted for some seconds.
 *
 * A job is posted in shared memory: words[posted] and words[taken] count them, job n lies in slot n % SLOTS. Who
 * moves `taken` on from n owns the job until the result is stored. A thread then rings an eventfd on the loop, but not
 * when it has more to do and results may wait for company, and not while the context comes to look by itself: in a
 * turn that has posted something, or when it has been rung and has not heard it yet. Sleeping and being woken is dear: when each job was handed over alone there were 0.6 calls of futex a
 * cluster, with 32 reads of 4k in flight, and a sixth to a third fewer clusters a second.
 *
 * As with the poller (poller.ts) they are Workers, since calls on Deno's thread pool need more time to be handed over
 * and back than many a cluster to be inflated. (Node's zlib cannot do it: in Deno its asynchronous calls run on the
 * calling thread.)
 */
import { assert, MiB } from "../base/mod.ts";
import { EPOLL } from "./constants.ts";
import { check } from "./errno.ts";
import { FIELDS, Format, programUrl, Result, SLOTS, type Start, Word } from "./inflate_program.ts";
import { LIBDEFLATE, LIBDEFLATE_SYMBOLS } from "./libdeflate.ts";
import { LIBZSTD, LIBZSTD_SYMBOLS } from "./libzstd.ts";
import { Pace } from "./pace.ts";
import type { InflateThreads, Loop, Memory, StreamFormat, Sys, Timer, Watch } from "./types.ts";
import { Wide } from "./wide.ts";

/** Jobs after which threads pay: whoever reads a few clusters only does without. */
const WORTH_STARTING = 32;
/** One core is the context's own. */
const MOST_THREADS = 3;
/** Jobs one at a time after which inline is tried again. */
const CROWDED_RUN = 32;
/** Jobs for each thread that wait while the context inflates inline: they last until it comes to post again. */
const QUEUED = 3;
/** In a turn the context inflates inline, while threads have enough to do, for no longer than this. */
const INLINE_NS = 1_000_000;
/** Bytes that are to be made by the jobs under way, at most (or one job): their memory is in use so long. */
const MOST_BYTES = 4 * MiB;
/** Threads end when they had nothing to do for this long, and for twice as long at most. */
const IDLE_NS = 5e9;

/** Names of the libraries; see libdeflate.ts and libzstd.ts. */
interface Libraries {
  readonly libdeflate?: string;
  readonly libzstd?: string;
}

interface Thread {
  readonly worker: Worker;
  ready: boolean;
  readonly ended: Promise<void>;
}

/** Threads that share a queue, from the start of the first one to the end of all. */
class Crew {
  readonly #sys: Sys;
  readonly #loop: Loop;
  readonly #onError: (error: unknown) => void;
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * (Word.results + SLOTS)));
  readonly #jobs = new BigUint64Array(new SharedArrayBuffer(8 * FIELDS * SLOTS));
  /** Numbers as what `#jobs` holds. */
  readonly #wide = new Wide();
  /** What the job of each slot is to make. */
  readonly #rooms: number[] = Array(SLOTS).fill(0);
  readonly #waiting: (((filled: boolean) => void) | undefined)[] = Array(SLOTS).fill(undefined);
  readonly #threads = new Set<Thread>();
  readonly #fd: number;
  readonly #heardInto: Memory;
  readonly #watch: Watch;
  #ready = 0;
  underWay = 0;
  /** What the jobs under way are to make. */
  #bytes = 0;
  /** The context is going to look for results by itself. */
  #looking = false;
  /** Of the context's own inflating. */
  readonly #pace: Pace;
  /** No more threads: one could not run. */
  broken = false;

  constructor(
    sys: Sys,
    loop: Loop,
    private readonly libraries: Libraries,
    onError: (error: unknown) => void,
  ) {
    this.#sys = sys;
    this.#loop = loop;
    this.#onError = onError;
    this.#pace = new Pace({ loop, sys }, INLINE_NS);
    this.#fd = check(sys.eventfd(0), "eventfd");
    this.#heardInto = sys.allocate(8);
    this.#watch = loop.watch(this.#fd, EPOLL.IN, () => this.#heard());
  }

  get size(): number {
    return this.#threads.size;
  }

  get posted(): number {
    return this.#words[Word.posted]!;
  }

  /** Undefined: the caller is to do it. No thread is ready, or they have enough to do. */
  post(
    input: number,
    length: number,
    output: number,
    room: number,
    format: StreamFormat,
  ): Promise<boolean> | undefined {
    const words = this.#words;
    const number = words[Word.posted]!;
    const slot = number & (SLOTS - 1);
    if (this.#ready === 0 || this.#waiting[slot] !== undefined) return undefined;
    if (this.underWay > 0 && this.#bytes + room > MOST_BYTES) return undefined;
    if (!this.#pace.tired && this.#queued >= this.#ready * QUEUED) return undefined;
    const wide = this.#wide;
    const jobs = this.#jobs;
    const at = slot * FIELDS;
    jobs[at] = wide.of(input);
    jobs[at + 1] = wide.of(length);
    jobs[at + 2] = wide.of(output);
    jobs[at + 3] = wide.of(room);
    jobs[at + 4] = wide.of(Format[format]);
    this.#rooms[slot] = room;
    words[Word.results + slot] = Result.underWay;
    this.underWay++;
    this.#bytes += room;
    const filled = new Promise<boolean>((resolve) => this.#waiting[slot] = resolve);
    this.#lookLater();
    Atomics.store(words, Word.posted, (number + 1) | 0);
    if (Atomics.load(words, Word.asleep) > 0) Atomics.notify(words, Word.posted, 1);
    return filled;
  }

  /** Jobs that nobody has taken. */
  get #queued(): number {
    const words = this.#words;
    return (words[Word.posted]! - Atomics.load(words, Word.taken)) | 0;
  }

  /** Until the end of this turn nobody is to ring. */
  #lookLater(): void {
    if (this.#looking) return;
    this.#looking = true;
    Atomics.store(this.#words, Word.rung, 1);
    this.#loop.defer(this.#look);
  }

  readonly #look = (): void => {
    this.#looking = false;
    // Before looking: a result that comes now rings.
    Atomics.store(this.#words, Word.rung, 0);
    this.#settle();
  };

  start(): void {
    const worker = new Worker(programUrl(), { type: "module", name: "inflate" });
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
    const start: Start = {
      words: this.#words,
      jobs: this.#jobs,
      bell: this.#fd,
      libdeflate: { name: this.libraries.libdeflate ?? LIBDEFLATE, symbols: LIBDEFLATE_SYMBOLS },
      libzstd: { name: this.libraries.libzstd ?? LIBZSTD, symbols: LIBZSTD_SYMBOLS },
    };
    worker.postMessage(start);
  }

  /** A thread fails when it is started, with no job in its hands. */
  #failed(thread: Thread, message: string): void {
    this.#threads.delete(thread);
    this.broken = true;
    if (thread.ready) this.#ready--;
    this.#onError(new Error(`a thread that inflates failed: ${message}`));
  }

  #heard(): void {
    this.#sys.read(this.#fd, this.#heardInto.address, 8);
    // Before looking: a result that comes now rings again.
    if (!this.#looking) Atomics.store(this.#words, Word.rung, 0);
    this.#settle();
  }

  /** Takes up the results that there are. */
  #settle(): void {
    for (let slot = 0; slot < SLOTS; slot++) {
      const resolve = this.#waiting[slot];
      if (resolve === undefined) continue;
      const result = Atomics.load(this.#words, Word.results + slot);
      if (result === Result.underWay) continue;
      this.#waiting[slot] = undefined;
      this.underWay--;
      this.#bytes -= this.#rooms[slot]!;
      resolve(result === Result.filled);
    }
  }

  /** Ends the threads; nothing is under way, and nothing is posted any more. The loop must still turn. */
  async end(): Promise<void> {
    assert(this.underWay === 0, "streams are still being inflated");
    Atomics.store(this.#words, Word.stop, 1);
    // One that has looked at the order before sees a changed count, and does not sleep.
    Atomics.add(this.#words, Word.posted, 1);
    Atomics.notify(this.#words, Word.posted);
    for (const thread of this.#threads) {
      await thread.ended;
      thread.worker.terminate();
    }
    this.#threads.clear();
    this.#watch.close();
    this.#sys.close(this.#fd);
    this.#heardInto.unmap();
  }
}

/** See InflateThreads. The threads are started as they are needed. */
export class OwnedInflateThreads implements InflateThreads {
  readonly #sys: Sys;
  readonly #loop: Loop;
  readonly #onError: (error: unknown) => void;
  readonly #libraries: Libraries;
  #most: number;
  #crew: Crew | undefined;
  readonly #ending = new Set<Promise<void>>();
  #idleTimer: Timer | undefined;
  #asked = 0;
  /** The turn of the last job, and for how many more it counts that there were several at once. */
  #lastTurn = -2;
  #crowded = 0;

  /**
   * `onError`: a thread could not run; `most`: threads at once [one less than there are cores, at most three];
   * `libdeflate`, `libzstd`: the libraries' names.
   */
  constructor(
    sys: Sys,
    loop: Loop,
    onError: (error: unknown) => void,
    options: Libraries & { readonly most?: number } = {},
  ) {
    this.#sys = sys;
    this.#loop = loop;
    this.#onError = onError;
    this.#most = options.most ?? Math.min(navigator.hardwareConcurrency - 1, MOST_THREADS);
    this.#libraries = options;
  }

  /** Threads that run, or are being started. */
  get threads(): number {
    return this.#crew?.size ?? 0;
  }

  run(
    input: number,
    length: number,
    output: number,
    room: number,
    format: StreamFormat,
  ): Promise<boolean> | undefined {
    if (this.#asked < WORTH_STARTING) {
      this.#asked++;
      return undefined;
    }
    if (!this.#isCrowded() || this.#most === 0) return undefined;
    const crew = this.#crew ??= this.#assemble();
    if (crew.size < this.#most && crew.underWay >= crew.size && !crew.broken) crew.start();
    return crew.post(input, length, output, room, format);
  }

  /** Whether others are waiting, or were a moment ago: inline is faster for one request at a time. */
  #isCrowded(): boolean {
    const { turns } = this.#loop.counters;
    // A request that has waited while another was served inline comes in the next turn.
    const busy = this.#crew !== undefined && this.#crew.underWay > 0;
    if (busy || turns - this.#lastTurn <= 1) this.#crowded = CROWDED_RUN;
    else if (this.#crowded > 0) this.#crowded--;
    this.#lastTurn = turns;
    return this.#crowded > 0;
  }

  #assemble(): Crew {
    const crew = new Crew(this.#sys, this.#loop, this.#libraries, this.#onError);
    this.#endWhenIdle(crew);
    return crew;
  }

  #endWhenIdle(crew: Crew): void {
    const { posted } = crew;
    this.#idleTimer = this.#loop.timer(IDLE_NS, () => {
      if (crew.posted !== posted || crew.underWay > 0) return this.#endWhenIdle(crew);
      this.#asked = 0;
      this.#dismiss();
    });
  }

  #dismiss(): void {
    const crew = this.#crew;
    if (crew === undefined) return;
    this.#crew = undefined;
    this.#idleTimer?.cancel();
    if (crew.broken) this.#most = crew.size;
    const ending = crew.end().finally(() => void this.#ending.delete(ending));
    this.#ending.add(ending);
  }

  /** Ends the threads; nothing is under way. The loop must still turn. */
  async close(): Promise<void> {
    this.#most = 0;
    this.#dismiss();
    await Promise.all(this.#ending);
  }
}
