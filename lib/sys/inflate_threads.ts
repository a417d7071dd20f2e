/**
 * Threads that inflate (raw deflate, zstd), from native memory to native memory. The context's own thread takes jobs
 * from the same queue, a few in a turn of the loop, when it has served whoever else wants something: so none of them
 * waits for another one while there are jobs. The threads end when nothing was posted for some seconds.
 *
 * A job is posted in shared memory: words[posted] and words[taken] count them, job n lies in slot n % SLOTS. Who
 * moves `taken` on from n owns the job until the result is stored. A thread then rings an eventfd on the loop, but not
 * while the context comes to look by itself: as long as it takes jobs, or has been rung and has not heard it yet.
 * Sleeping and being woken is dear: when each job was handed over alone there were 0.6 calls of futex a cluster, with
 * 32 reads of 4k in flight; now 0.1, and a sixth to a half more clusters a second.
 *
 * As with the poller (poller.ts) they are Workers, since calls on Deno's thread pool need more time to be handed over
 * and back than many a cluster to be inflated. (Node's zlib cannot do it: in Deno its asynchronous calls run on the
 * calling thread.)
 */
import { assert, MiB } from "../base/mod.ts";
import { openCodec } from "./compress.ts";
import { EPOLL } from "./constants.ts";
import { check } from "./errno.ts";
import { FIELDS, Format, programUrl, Result, SLOTS, type Start, Word } from "./inflate_program.ts";
import { LIBDEFLATE, Libdeflate, LIBDEFLATE_SYMBOLS } from "./libdeflate.ts";
import { LIBZSTD, Libzstd, LIBZSTD_SYMBOLS } from "./libzstd.ts";
import { now } from "./now.ts";
import type { InflateThreads, Loop, Memory, StreamFormat, Sys, Timer, Watch } from "./types.ts";

/** Jobs after which threads pay: whoever reads a few clusters only does without. */
const WORTH_STARTING = 32;
/** One core is the context's own. */
const MOST_THREADS = 3;
/** Jobs one at a time after which inline is tried again. */
const CROWDED_RUN = 32;
/**
 * In a turn, the context's thread inflates such a part of what is under way, and no longer than this. With more,
 * clients would wait for replies that are there, and the threads for clients; with less, turns cost too much.
 */
const HELP_PART = 1 / 4;
const HELP_NS = 250_000;
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

/** The context's own decoder of a format. */
type OwnDecoder = Pick<Libdeflate, "decode" | "close">;

/** Threads that share a queue, from the start of the first one to the end of all. */
class Crew {
  readonly #sys: Sys;
  readonly #loop: Loop;
  readonly #onError: (error: unknown) => void;
  readonly #words = new Int32Array(new SharedArrayBuffer(4 * (Word.results + SLOTS)));
  readonly #jobs = new Float64Array(new SharedArrayBuffer(8 * FIELDS * SLOTS));
  readonly #waiting: (((filled: boolean) => void) | undefined)[] = Array(SLOTS).fill(undefined);
  readonly #threads = new Set<Thread>();
  /** By format, opened when they are needed. */
  readonly #decoders: (OwnDecoder | undefined)[] = [];
  readonly #fd: number;
  readonly #heardInto: Memory;
  readonly #watch: Watch;
  #ready = 0;
  underWay = 0;
  /** What the jobs under way are to make. */
  #bytes = 0;
  /** The context is going to look for jobs and results by itself. */
  #helping = false;
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

  /** Undefined while no thread is ready, and when there is enough to do. */
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
    const jobs = this.#jobs;
    const at = slot * FIELDS;
    jobs[at] = input;
    jobs[at + 1] = length;
    jobs[at + 2] = output;
    jobs[at + 3] = room;
    jobs[at + 4] = Format[format];
    words[Word.results + slot] = Result.underWay;
    this.underWay++;
    this.#bytes += room;
    const filled = new Promise<boolean>((resolve) => this.#waiting[slot] = resolve);
    this.#offerHelp();
    Atomics.store(words, Word.posted, (number + 1) | 0);
    // One is for the context itself: it is awake.
    if (this.#queued > 1) Atomics.notify(words, Word.posted, 1);
    return filled;
  }

  /** From now on the context looks by itself: nobody is to ring. */
  #offerHelp(): void {
    if (this.#helping) return;
    this.#helping = true;
    Atomics.store(this.#words, Word.rung, 1);
    this.#loop.defer(this.#help);
  }

  /** Inflates for a while, and takes up results. Waits for the bell when no job is left. */
  readonly #help = (): void => {
    const until = now() + HELP_NS;
    let most = this.underWay * HELP_PART;
    do {
      if (!this.#inflateNext()) break;
    } while (--most > 0 && now() < until);
    if (this.#queued > 0) {
      // Not before the replies to what is there now, which are on their way: they leave in the next turn.
      this.#loop.defer(() => this.#loop.defer(this.#help));
    } else {
      this.#helping = false;
      // Before looking: a result that comes now rings.
      Atomics.store(this.#words, Word.rung, 0);
    }
    this.#settle();
  };

  /** Jobs that nobody has taken. The order to end moves the count on, too: that is none. */
  get #queued(): number {
    const words = this.#words;
    if (words[Word.stop] !== 0) return 0;
    return (words[Word.posted]! - Atomics.load(words, Word.taken)) | 0;
  }

  /** Whether there was a job. */
  #inflateNext(): boolean {
    const words = this.#words;
    while (this.#queued > 0) {
      const next = Atomics.load(words, Word.taken);
      // Of the last one a thread may have been quicker.
      if (next === words[Word.posted]!) return false;
      if (Atomics.compareExchange(words, Word.taken, next, (next + 1) | 0) !== next) continue;
      const slot = next & (SLOTS - 1);
      const filled = this.#inflate(slot * FIELDS);
      Atomics.store(words, Word.results + slot, filled ? Result.filled : Result.failed);
      return true;
    }
    return false;
  }

  #inflate(at: number): boolean {
    const jobs = this.#jobs;
    const format = jobs[at + 4]!;
    const decoder = this.#decoders[format] ??= this.#open(format === Format.zstd);
    return decoder.decode(jobs[at]!, jobs[at + 1]!, jobs[at + 2]!, jobs[at + 3]!);
  }

  #open(zstd: boolean): OwnDecoder {
    const { libdeflate, libzstd } = this.libraries;
    const fast = zstd ? Libzstd.open(libzstd) : Libdeflate.open(libdeflate);
    if (fast !== undefined) return fast;
    const codec = openCodec(zstd ? "zstd-decode" : "inflate");
    const view = (address: number, length: number) => this.#sys.viewAt(address, length);
    return {
      decode: (input, length, output, room) =>
        codec.run(view(input, length), view(output, room)) === room,
      close: () => codec.close(),
    };
  }

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
    if (!this.#helping) Atomics.store(this.#words, Word.rung, 0);
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
      this.#bytes -= this.#jobs[slot * FIELDS + 3]!;
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
    for (const decoder of this.#decoders) decoder?.close();
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
