/**
 * A queue that runs in another thread, as its session sees it. What a front-end says is kept here; once everything
 * is there the queue is started in its thread with all of it, and whenever something changes it is stopped and
 * started again: nothing of a running queue is shared but memory. Its descriptors stay ours; the thread has
 * duplicates.
 *
 * `idle` is what stops it: the thread takes no more requests, waits for those in flight, and tells where the ring
 * ended. Starts and stops are carried out in the order in which they are asked for.
 */
import type { Context } from "../sys/mod.ts";
import type { QueueAddresses, SessionQueue } from "./session_queue.ts";
import type { SharedSession } from "./shared.ts";
import { ProtocolError } from "./wire.ts";

/** What a queue is started with; the descriptors are its own (-1: none). */
export interface QueueStart {
  /** Its number, unlike that of any other start. */
  readonly id: number;
  readonly index: number;
  readonly size: number;
  readonly addresses: QueueAddresses;
  readonly base: number;
  readonly kick: number;
  readonly call: number;
  readonly err: number;
  readonly session: SharedSession;
}

/** How a queue ended. */
export interface QueueEnd {
  /** Where the ring ended. */
  readonly base: number;
  /** Addresses in regions of guest memory in which another thread, which has failed, may still be at work. */
  readonly surrendered: readonly number[];
}

/** A thread in which queues run. Calls are carried out in their order, and reject once the thread has failed. */
export interface QueueThread {
  /** What is wrong with the ring, if it does not start; descriptors are then closed. */
  start(given: QueueStart, queue: RemoteQueue): Promise<string | undefined>;
  /** Stops it; undefined if it was not running. `abandon`: the front-end is gone. */
  stop(id: number, abandon: boolean): Promise<QueueEnd | undefined>;
}

/** What it needs of its session. */
export interface RemoteHost {
  readonly context: Context;
  share(): SharedSession;
  broken(queue: SessionQueue, reason: string): void;
}

/** A queue elsewhere. */
export class RemoteQueue implements SessionQueue {
  readonly live = false;
  /** Requests are counted where they run. */
  readonly inFlight = 0;
  size = 0;
  addresses: QueueAddresses | undefined;
  base = 0;
  enabled = false;
  lost = false;
  readonly #host: RemoteHost;
  readonly #thread: QueueThread;
  readonly #nextId: () => number;
  /** The number of the running start; 0: it does not run. */
  #id = 0;
  /** Where the guest's memory is mapped that it was started with. */
  #regions: readonly { readonly address: number }[] = [];
  #stopping: Promise<void> | undefined;
  #kick = -1;
  #call = -1;
  #err = -1;
  /** Whether a kick was set, as a descriptor or as "poll". */
  #started = false;
  #broken = false;
  #abandoned = false;
  #held = 0;

  constructor(host: RemoteHost, thread: QueueThread, readonly index: number, nextId: () => number) {
    this.#host = host;
    this.#thread = thread;
    this.#nextId = nextId;
  }

  get running(): boolean {
    return this.#id !== 0;
  }

  // Only while it does not run: `live`.

  setKick(fd: number): void {
    this.#kick = this.#replace(this.#kick, fd);
    this.#started = true;
  }
  setCall(fd: number): void {
    this.#call = this.#replace(this.#call, fd);
  }
  setErr(fd: number): void {
    this.#err = this.#replace(this.#err, fd);
  }

  #replace(old: number, fd: number): number {
    if (old >= 0) this.#host.context.sys.close(old);
    return fd;
  }

  refresh(): Promise<void> | undefined {
    const { addresses } = this;
    const ready = this.size > 0 && addresses !== undefined && this.#started && this.enabled;
    if (this.running || this.#broken || this.lost || this.#held > 0 || !ready) return undefined;
    return this.#start(addresses);
  }

  async #start(addresses: QueueAddresses): Promise<void> {
    const { sys } = this.#host.context;
    const given = [this.#kick, this.#call, this.#err];
    const [kick = -1, call = -1, err = -1] = given.map((fd) => fd < 0 ? -1 : sys.dup(fd));
    if ([kick, call, err].some((fd, i) => fd < 0 && given[i]! >= 0)) {
      // Without one of them it would hear nothing, or not be heard.
      for (const fd of [kick, call, err]) if (fd >= 0) sys.close(fd);
      throw new ProtocolError("its descriptors cannot be duplicated");
    }
    const id = this.#id = this.#nextId();
    const { index, size, base } = this;
    const fds = { kick, call, err };
    const session = this.#host.share();
    this.#regions = session.regions;
    let refusal: string | undefined;
    try {
      refusal = await this.#thread.start(
        { id, index, size, addresses, base, ...fds, session },
        this,
      );
    } catch {
      this.#lose(); // the export is about to end
    }
    if (refusal === undefined) return;
    if (this.#id === id) this.#id = 0;
    throw new ProtocolError(refusal);
  }

  /** The thread says that the driver broke the rules of start `id`. */
  broke(id: number, reason: string): void {
    if (id !== this.#id) return;
    this.#broken = true;
    this.#host.broken(this, reason);
  }

  hold(): void {
    this.#held++;
  }
  unhold(): void {
    this.#held--;
  }

  /** Stops it. */
  idle(): Promise<void> {
    if (!this.running) return Promise.resolve();
    return this.#stopping ??= this.#stop();
  }

  async #stop(): Promise<void> {
    try {
      const end = await this.#thread.stop(this.#id, this.#abandoned);
      if (end !== undefined) this.base = end.base;
      for (const address of end?.surrendered ?? []) this.#surrender(address);
    } catch {
      this.#lose();
    }
    this.#id = 0;
    this.#stopping = undefined;
  }

  /** The thread has failed: calls that it made may be at work in the guest's memory for ever. */
  #lose(): void {
    this.lost = true;
    for (const { address } of this.#regions) this.#surrender(address);
  }

  #surrender(address: number): void {
    this.#host.context.buffers.surrender(address);
  }

  /** It is idle, and so it has no ring any more. */
  detach(): void {}

  stop(): void {
    this.#kick = this.#replace(this.#kick, -1);
    this.#started = false;
    this.#broken = false;
  }

  close(): void {
    this.stop();
    this.setCall(-1);
    this.setErr(-1);
  }

  abandon(): void {
    this.#abandoned = true;
  }

  // The thread looks at the ring.

  run(): boolean {
    return false;
  }
  sleeping(): boolean {
    return false;
  }
}
