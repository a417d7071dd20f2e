/** Contexts: one thread, one loop, and what belongs to exactly one of them. */
import { SizeClassPool } from "./buffers.ts";
import { archConstants } from "./constants.ts";
import { OwnedInflateThreads } from "./inflate_threads.ts";
import { LinuxSys } from "./linux.ts";
import { createLog, writeStderr } from "./log.ts";
import { EpollLoop } from "./loop.ts";
import { Pipes } from "./pipes.ts";
import { poolTraces, silentPoints } from "./traces.ts";
import type { Context, Log, TracePoint } from "./types.ts";
import { Poller, type PollerHandle } from "./wakeup.ts";

/** What a context is made from. */
export interface ContextOptions {
  /** As shown in logs and traces: "main", or an iothread's id. */
  readonly name: string;
  /** This thread's machine, which its maker disposes of. Default: a new one: 8 ms of binding symbols. */
  readonly sys?: LinuxSys;
  /** Default: lines "NAME: message" on stderr. */
  readonly log?: Log;
  /** Makes (or finds) trace points. Default: points that are off. */
  readonly trace?: (name: string) => TracePoint;
  /** The poller of the process, from another context's `poller`. Default: a new one, owned by this context. */
  readonly poller?: PollerHandle;
  /** A handler has thrown: our mistake. Default: `log.error` with the stack. The loop goes on. */
  readonly onError?: (error: unknown) => void;
  /** Most bytes that the buffer pool keeps for reuse [32 MiB]. */
  readonly keepBuffers?: number;
}

/** What can be changed while a context runs; as an iothread's properties of these names. */
export interface ContextTuning {
  readonly "poll-max-ns": number;
  readonly "poll-grow": number;
  readonly "poll-shrink": number;
  readonly "aio-max-batch": number;
  readonly "thread-pool-min": number;
  readonly "thread-pool-max": number;
}

/** A context as its maker sees it. */
export interface OwnedContext extends Context {
  readonly sys: LinuxSys;
  /** To be given to contexts in other threads. */
  readonly poller: PollerHandle;
  /** Changes how the loop polls and how many calls the thread pool makes at once, live. */
  configure(options: ContextTuning): void;
  /** Starts the poller thread, if it is ours, for the sake of other contexts. Idempotent. */
  startPoller(): void;
  /** Stops the loop (and the poller thread, if it is ours), gives all memory back. Idempotent. */
  close(): Promise<void>;
}

/** Buffers are given back to the kernel after this long without work. */
const TRIM_NS = 2e9;

/** Makes a context for the calling thread. */
export function createContext(options: ContextOptions): OwnedContext {
  const { name } = options;
  const log = options.log ?? createLog(name, writeStderr);
  const complain = (error: unknown) => log.error(describe(error));
  const sys = options.sys ?? new LinuxSys();
  const owned = options.poller === undefined
    ? new Poller(sys, archConstants(sys.arch), complain)
    : undefined;
  const poller = options.poller ?? owned!.handle;
  if (!sys.pool.exactErrno) {
    log.warn("executable memory is refused: failures on the thread pool are all shown as EIO");
  }
  const buffers = new SizeClassPool((length) => sys.allocate(length), options.keepBuffers);

  const loop: EpollLoop = new EpollLoop({
    sys,
    poller,
    onFirstPark: () => owned?.start(),
    onPark: trimming(buffers, () => loop),
    awaitsOthers: () => sys.pool.inFlight > 0,
    onError: options.onError ?? complain,
  });

  const trace = options.trace ?? silentPoints();
  sys.pool.traces = poolTraces(trace);

  const pipes = new Pipes(sys);
  const inflaters = new OwnedInflateThreads(sys, loop, complain);
  const tuning = { aioMaxBatch: 0 };
  let closing: Promise<void> | undefined;
  const shut = async () => {
    try {
      await sys.pool.warmed();
      await inflaters.close();
      await loop.stop();
    } finally {
      await owned?.stop();
      buffers.trim();
      pipes.close();
      if (options.sys === undefined) sys.dispose();
    }
  };
  return {
    name,
    sys,
    loop,
    buffers,
    pipes,
    log,
    trace,
    poller,
    tuning,
    inflaters,
    configure(options) {
      loop.configure({
        pollMaxNs: options["poll-max-ns"],
        pollGrow: options["poll-grow"],
        pollShrink: options["poll-shrink"],
      });
      tuning.aioMaxBatch = options["aio-max-batch"];
      sys.pool.configure(options["thread-pool-min"], options["thread-pool-max"]);
    },
    startPoller: () => owned?.start(),
    close: () => closing ??= shut(),
  };
}

/** What to do when the loop parks: give buffers back if it stays quiet. */
function trimming(buffers: SizeClassPool, loopOf: () => EpollLoop): () => void {
  let trimming = false;
  return () => {
    if (trimming || buffers.kept === 0) return;
    trimming = true;
    const loop = loopOf();
    const turns = loop.counters.turns;
    loop.timer(TRIM_NS, () => {
      trimming = false;
      // Still the same quiet (a few turns for the timer itself)? Else the next park asks again.
      if (loop.counters.turns - turns < 16) buffers.trim();
    });
  };
}

function describe(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}
