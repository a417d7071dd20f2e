/**
 * What aio=native and aio=io_uring have in common: requests take slots, are submitted together at the end
 * of the loop's turn (or as soon as there are `maxBatch`), and are completed from a ring in shared memory, which
 * is looked at once in every turn and whose eventfd wakes a loop that sleeps.
 */
import { assert, IoVec } from "../base/mod.ts";
import { EPOLL } from "./constants.ts";
import { check, Errno, errnoName } from "./errno.ts";
import { IOV_MAX, IOVEC_SIZE, putIovecs } from "./layout.ts";
import type { Loop, Memory, Sys, TracePoint, Watch } from "./types.ts";

/** Asynchronous I/O on descriptors. Results: bytes moved (0 for a flush), or -errno. */
export interface AsyncIo {
  /** As the aio option calls it. */
  readonly engine: "native" | "io_uring";
  /** Requests that have not completed. */
  readonly inFlight: number;
  /** At most IOV_MAX segments are moved by one request: more make it short. */
  readv(fd: number, iov: IoVec, offset: number): Promise<number>;
  writev(fd: number, iov: IoVec, offset: number): Promise<number>;
  fdatasync(fd: number): Promise<number>;
  /** Waits for what is in flight and gives everything back. Nothing may be submitted afterwards. */
  close(): Promise<void>;
}

/** Why an engine cannot be had here. */
export interface EngineRefused {
  /** Positive errno of the call that was refused. */
  readonly errno: number;
  /** For people: which call, why, and what would help. */
  readonly reason: string;
}

/** What an engine works with: a context, or parts of one. */
export interface QueueContext {
  readonly sys: Sys;
  readonly loop: Loop;
  readonly tuning?: { readonly aioMaxBatch: number };
  /** Where to find trace points [none]. */
  readonly trace?: (name: string) => TracePoint;
}

/** How an engine submits. */
export interface QueueOptions {
  /** Most requests in one submission (the aio-max-batch option); 0 [default]: the context's limit, or 32. */
  readonly maxBatch?: number;
}

/** Requests in the kernel at once; more wait here. */
export const QUEUE_DEPTH = 128;
/** As in QEMU: enough to make a call cheap, few enough for the disk to begin early. */
const DEFAULT_BATCH = 32;
const SLOT_BYTES = IOV_MAX * IOVEC_SIZE;

/** What one request does. */
export type Operation = "readv" | "writev" | "fdatasync";

/** One request as the engines see it; `address`: of the data if count is 1, else of the iovecs. */
export interface QueueRequest {
  op: Operation;
  fd: number;
  address: number;
  count: number;
  /** Bytes if count is 1. */
  length: number;
  offset: number;
}

interface Waiting {
  readonly op: Operation;
  readonly fd: number;
  readonly iov: IoVec;
  readonly offset: number;
  readonly resolve: (result: number) => void;
}

/** Base of both engines. A request owns its slot, with native memory for its iovecs, from start to completion. */
export abstract class KernelQueue implements AsyncIo {
  abstract readonly engine: "native" | "io_uring";
  protected readonly sys: Sys;
  protected readonly eventFd: number;
  readonly #loop: Loop;
  /** The engine's own limit, and that of the context, which may change; 0: none. */
  readonly #ownBatch: number;
  readonly #tuning: { readonly aioMaxBatch: number };
  /** SLOT_BYTES for each slot; pages that no list has touched cost nothing. */
  readonly #iovecs: Memory;
  readonly #words: (Uint32Array | undefined)[] = [];
  readonly #free: number[] = [];
  readonly #resolvers: (((result: number) => void) | undefined)[] = [];
  readonly #waiting: Waiting[] = [];
  /** Slots that are filled in but not with the kernel, oldest first. */
  readonly #ready: number[] = [];
  readonly #request: QueueRequest = {
    op: "fdatasync",
    fd: -1,
    address: 0,
    count: 0,
    length: 0,
    offset: 0,
  };
  #watch: Watch | undefined;
  #poller: { remove(): void } | undefined;
  #busy = 0;
  #submissions = 0;
  #scheduled = false;
  #submitting = false;
  #closing = false;
  #idle: (() => void) | undefined;

  constructor(context: QueueContext, eventFd: number, options: QueueOptions = {}) {
    this.#ownBatch = options.maxBatch ?? 0;
    this.#tuning = context.tuning ?? { aioMaxBatch: 0 };
    this.sys = context.sys;
    this.#loop = context.loop;
    this.eventFd = eventFd;
    this.#iovecs = this.sys.allocate(QUEUE_DEPTH * SLOT_BYTES);
    for (let slot = QUEUE_DEPTH - 1; slot >= 0; slot--) this.#free.push(slot);
  }

  /** Most requests in one submission: the smaller one of the limits that are set. */
  get #maxBatch(): number {
    const { aioMaxBatch: shared } = this.#tuning;
    const own = this.#ownBatch;
    if (own === 0 || shared === 0) return own || shared || DEFAULT_BATCH;
    return Math.min(own, shared);
  }

  /** Describes a request to the kernel, in the place that belongs to `slot`. */
  protected abstract fill(slot: number, request: QueueRequest): void;
  /** Hands the first `count` of `slots` to the kernel, in order. Result: how many it took, or -errno. */
  protected abstract submit(slots: readonly number[], count: number): number;
  /** Calls `complete` for everything that has completed. Whether there was any. */
  protected abstract reap(): boolean;
  /** Gives back what the engine has mapped and opened. */
  protected abstract dispose(): void;

  /** Begins to listen for completions; the engine is ready. */
  protected attach(): void {
    // Edge-triggered: the counter need not be read.
    this.#watch = this.#loop.watch(this.eventFd, EPOLL.IN | EPOLL.ET, () => this.#turn());
    this.#poller = this.#loop.addPoller(() => this.#turn());
  }

  get inFlight(): number {
    return this.#busy + this.#waiting.length;
  }

  /** System calls that handed requests to the kernel, so far. */
  get submissions(): number {
    return this.#submissions;
  }

  readv(fd: number, iov: IoVec, offset: number): Promise<number> {
    return this.#start("readv", fd, iov, offset);
  }

  writev(fd: number, iov: IoVec, offset: number): Promise<number> {
    return this.#start("writev", fd, iov, offset);
  }

  fdatasync(fd: number): Promise<number> {
    return this.#start("fdatasync", fd, new IoVec(), 0);
  }

  /** Starts a request, or queues it (with a copy of its list) when all slots are taken. */
  #start(op: Operation, fd: number, iov: IoVec, offset: number): Promise<number> {
    assert(!this.#closing, "request on a closed engine");
    return new Promise((resolve) => {
      if (this.#free.length > 0) this.#place(op, fd, iov, offset, resolve);
      else this.#waiting.push({ op, fd, iov: iov.slice(0, iov.total), offset, resolve });
    });
  }

  #place(
    op: Operation,
    fd: number,
    iov: IoVec,
    offset: number,
    resolve: (result: number) => void,
  ): void {
    const slot = this.#free.pop()!;
    const request = this.#request;
    request.op = op;
    request.fd = fd;
    request.offset = offset;
    request.count = Math.min(iov.count, IOV_MAX);
    if (iov.count === 1) {
      request.address = iov.addresses[0]!;
      request.length = iov.lengths[0]!;
    } else {
      const at = slot * SLOT_BYTES;
      const words = this.#words[slot] ??= new Uint32Array(
        this.#iovecs.bytes.buffer,
        at,
        IOV_MAX * 4,
      );
      putIovecs(words, iov.addresses, iov.lengths, 0, request.count);
      request.address = this.#iovecs.address + at;
    }
    this.#resolvers[slot] = resolve;
    this.#busy++;
    this.fill(slot, request);
    this.#ready.push(slot);
    if (this.#ready.length >= this.#maxBatch) this.#submit();
    else this.#schedule();
  }

  /** One submission for all requests of this turn. */
  #schedule(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#loop.defer(this.#flush);
  }

  readonly #flush = (): void => {
    this.#scheduled = false;
    this.#submit();
  };

  #submit(): void {
    if (this.#submitting) return; // a request that ended below has let another one start
    this.#submitting = true;
    while (this.#ready.length > 0) {
      const rc = this.submit(this.#ready, Math.min(this.#ready.length, this.#maxBatch));
      this.#submissions++;
      if (rc > 0) {
        this.#ready.splice(0, rc);
      } else if (rc !== -Errno.EINTR) {
        const short = rc === 0 || rc === -Errno.EAGAIN || rc === -Errno.EBUSY;
        // Short of resources: goes on when one of those with the kernel completes.
        if (short && this.#busy > this.#ready.length) break;
        // Nothing will help the oldest one. Those behind it have not been looked at.
        this.complete(this.#ready.shift()!, rc === 0 ? -Errno.EAGAIN : rc);
      }
    }
    this.#submitting = false;
  }

  /** Whether anything has completed. */
  #turn(): boolean {
    if (this.#busy === 0 || !this.reap()) return false;
    this.#submit(); // what waited for room
    return true;
  }

  /** The request in `slot` has completed with `result`. */
  protected complete(slot: number, result: number): void {
    const resolve = this.#resolvers[slot];
    assert(resolve !== undefined, "completion of a request that is not in flight");
    this.#resolvers[slot] = undefined;
    this.#free.push(slot);
    this.#busy--;
    resolve(result);
    const next = this.#waiting.shift();
    if (next !== undefined) {
      this.#place(next.op, next.fd, next.iov, next.offset, next.resolve);
    } else if (this.#busy === 0) {
      this.#idle?.();
    }
  }

  async close(): Promise<void> {
    if (this.#closing) return;
    this.#closing = true;
    if (this.#busy > 0) await new Promise<void>((resolve) => this.#idle = resolve);
    this.#watch?.close();
    this.#poller?.remove();
    this.dispose();
    this.#iovecs.unmap();
    check(this.sys.close(this.eventFd), "close");
  }
}

/** EngineRefused for a call that failed with `errno`, with what people can do about it. */
export function refused(call: string, errno: number, hints: Record<number, string>): EngineRefused {
  const hint = hints[errno];
  return { errno, reason: `${call}: ${errnoName(errno)}${hint === undefined ? "" : ` (${hint})`}` };
}
