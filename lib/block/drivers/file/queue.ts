/**
 * What libaio and io_uring have in common: a bounded number of requests with the kernel, the rest waiting in
 * order; submission in batches, once a turn of the loop or as soon as `maxBatch` are ready; completions found
 * when the queue's descriptor becomes readable.
 */
import type { IoVec } from "../../../base/mod.ts";
import { type Context, EPOLL, Errno, type Memory, type Watch } from "../../../sys/mod.ts";
import type { TransferEngine } from "./engine.ts";

/** Requests that the kernel holds at once. */
export const DEPTH = 128;
/** aio-max-batch when it is 0. */
const DEFAULT_BATCH = 32;
/** Bytes of a struct iovec. */
const IOVEC = 16;

/** One request, from its call to its completion. */
export interface QueuedRequest {
  readonly write: boolean;
  readonly fd: number;
  readonly iov: IoVec;
  readonly offset: number;
  readonly resolve: (rc: number) => void;
  /** The segments as the kernel reads them; undefined for a single one. */
  segments: Memory | undefined;
}

/** An engine on a kernel queue. Subclasses say how a request is put in, submitted and found again. */
export abstract class KernelQueue implements TransferEngine {
  abstract readonly name: "native" | "io_uring";
  readonly #waiting: QueuedRequest[] = [];
  readonly #slots: (QueuedRequest | undefined)[] = new Array(DEPTH).fill(undefined);
  readonly #free: number[] = Array.from({ length: DEPTH }, (_, i) => DEPTH - 1 - i);
  readonly #maxBatch: number;
  /** Slots that are filled in but not submitted, oldest first. */
  #ready: number[] = [];
  #deferred = false;
  #watch: Watch | undefined;
  /** System calls that submitted something, for tests of batching. */
  submissions = 0;

  constructor(readonly context: Context, maxBatch: number) {
    this.#maxBatch = maxBatch > 0 ? maxBatch : DEFAULT_BATCH;
  }

  /** Tells the kernel's side of slot `slot` what to do. */
  protected abstract fill(slot: number, request: QueuedRequest): void;
  /** Hands `slots` to the kernel, in order. Result: how many it took, or -errno (of the first). */
  protected abstract submit(slots: readonly number[]): number;
  /** Calls `complete` for every request that has completed. */
  protected abstract reap(): void;
  /** Gives the kernel's queue back. */
  protected abstract release(): void;

  /** Completions are announced by `fd`. */
  protected listen(fd: number): void {
    this.#watch = this.context.loop.watch(fd, EPOLL.IN, () => this.#turn());
  }

  read(fd: number, iov: IoVec, offset: number): Promise<number> {
    return this.#enqueue(false, fd, iov, offset);
  }
  write(fd: number, iov: IoVec, offset: number): Promise<number> {
    return this.#enqueue(true, fd, iov, offset);
  }

  #enqueue(write: boolean, fd: number, iov: IoVec, offset: number): Promise<number> {
    return new Promise((resolve) => {
      this.#waiting.push({ write, fd, iov, offset, resolve, segments: undefined });
      this.#fillSlots();
      if (this.#ready.length >= this.#maxBatch) return this.#submitReady();
      if (this.#deferred) return;
      this.#deferred = true;
      this.context.loop.defer(() => {
        this.#deferred = false;
        this.#submitReady();
      });
    });
  }

  #fillSlots(): void {
    let taken = 0;
    while (taken < this.#waiting.length && this.#free.length > 0) {
      const request = this.#waiting[taken++]!;
      const slot = this.#free.pop()!;
      if (request.iov.count > 1) request.segments = this.#putSegments(request.iov);
      this.#slots[slot] = request;
      this.fill(slot, request);
      this.#ready.push(slot);
    }
    if (taken > 0) this.#waiting.splice(0, taken);
  }

  #putSegments(iov: IoVec): Memory {
    const memory = this.context.buffers.acquire(iov.count * IOVEC);
    for (let i = 0; i < iov.count; i++) {
      memory.view.setBigUint64(i * IOVEC, BigInt(iov.addresses[i]!), true);
      memory.view.setBigUint64(i * IOVEC + 8, BigInt(iov.lengths[i]!), true);
    }
    return memory;
  }

  #submitReady(): void {
    while (this.#ready.length > 0) {
      const batch = this.#ready.slice(0, this.#maxBatch);
      const rc = this.submit(batch);
      this.submissions++;
      if (rc > 0) {
        this.#ready = this.#ready.slice(rc);
        continue;
      }
      if (rc === -Errno.EINTR) continue;
      const withKernel = DEPTH - this.#free.length - this.#ready.length;
      // Short of resources: goes on when something completes.
      if ((rc === -Errno.EAGAIN || rc === -Errno.EBUSY || rc === 0) && withKernel > 0) return;
      // The kernel will not take the first one: it alone fails.
      this.complete(this.#ready.shift()!, rc === 0 ? -Errno.EAGAIN : rc);
    }
  }

  /** Ends the request in `slot` with the kernel's result. */
  protected complete(slot: number, rc: number): void {
    const request = this.#slots[slot]!;
    this.#slots[slot] = undefined;
    this.#free.push(slot);
    if (request.segments !== undefined) this.context.buffers.release(request.segments);
    request.resolve(rc);
  }

  #turn(): void {
    this.reap();
    this.#fillSlots();
    this.#submitReady();
  }

  close(): void {
    this.#watch?.close();
    this.release();
  }
}
