/**
 * One virtqueue: takes requests from its ring, has the device carry them out, and answers. A turn has a budget.
 * While the loop is awake it looks at the ring in each turn, and the driver is asked not to notify; before the loop
 * sleeps the driver is asked to. What was used is shown and notified in batches: small ones, so that the driver
 * makes new requests while the rest of them is served.
 *
 * States: a queue *runs* while it has a ring, which is made when everything is known (size, addresses, kick) and
 * the queue is enabled. It is *held* while the session changes something under it, and *broken* for good once the
 * driver broke the rules of its ring: until it is set up anew.
 */
import type { Context } from "../sys/mod.ts";
import { type BlkDevice, BlkStatus, BlkType } from "./device.ts";
import type { DirtyLog } from "./dirty.ts";
import { BlkRequest, type RequestOwner } from "./request.ts";
import { QueueEvents } from "./queue_events.ts";
import { type Ring, RingError } from "./ring.ts";
import type { QueueAddresses, QueueSettings, SessionQueue } from "./session_queue.ts";

/** Requests and bytes of one queue before others of its thread get their turn: a guest keeps its ring full. */
const TURN_REQUESTS = 64;
const TURN_BYTES = 1024 * 1024;
/** Requests of one queue in flight. */
const MAX_IN_FLIGHT = 1024;
/** So many requests that are done, or bytes, are shown before more is begun. */
const SHOW_REQUESTS = 8;
const SHOW_BYTES = 256 * 1024;
/**
 * Where nothing is copied (null-co) that many bytes take no time: they keep nobody waiting, and requests shown singly
 * cost both sides more than they gain. So one in TIMED requests of LARGE bytes or more is timed: was it faster than a
 * copy can be?
 */
const SHOW_UNCOPIED_BYTES = 1024 * 1024;
const TIMED = 32;
const LARGE = 64 * 1024;
const UNCOPIED_NS_PER_KIB = 10;

/** What a queue asks of its session. */
export interface QueueHost {
  readonly context: Context;
  readonly device: BlkDevice;
  /** Address of a native u64 that holds 1. */
  readonly one: number;
  /** The log of dirty pages, while there is one. */
  readonly log: DirtyLog | undefined;
  /** Whether the driver wants to be notified when the ring runs empty. */
  readonly notifyOnEmpty: boolean;
  /** Makes the queue's ring. Throws RingError or ProtocolError when something is wrong with it. */
  makeRing(queue: QueueSettings): Ring;
  /** The driver broke the rules. */
  broken(queue: QueueSettings, reason: string): void;
}

/** A queue. */
export class Queue implements RequestOwner, SessionQueue {
  readonly live = true;
  readonly lost = false;
  size = 0;
  addresses: QueueAddresses | undefined;
  /** Where the ring begins, or where it ended. */
  base = 0;
  enabled = false;
  inFlight = 0;
  /** Counters for status. */
  kicks = 0;
  calls = 0;
  readonly #host: QueueHost;
  #ring: Ring | undefined;
  #broken = false;
  #held = 0;
  /** Whether the driver is asked to notify. */
  #asking = false;
  readonly #events: QueueEvents;
  readonly #free: BlkRequest[] = [];
  #flushing = false;
  #closed = false;
  #idle: (() => void)[] = [];
  readonly #flush = (): void => this.#flushNow();
  /** Whether the last large request that was timed was served without a copy. */
  #uncopied = false;
  /** Large requests until the next one that is timed. */
  #untimed = 0;

  constructor(host: QueueHost, readonly index: number) {
    this.#host = host;
    this.#events = new QueueEvents(host.context, host.one, () => {
      this.kicks++;
      this.run();
    });
  }

  /** Whether it has a ring. */
  get running(): boolean {
    return this.#ring !== undefined;
  }

  // --- set-up ---

  /** SET_VRING_KICK; `fd` < 0: poll. The descriptor is the queue's from now on. Throws SysError if it is useless. */
  setKick(fd: number): void {
    this.#events.setKick(fd);
  }

  /** SET_VRING_CALL; `fd` < 0: none. */
  setCall(fd: number): void {
    this.#events.setCall(fd);
    // What was used before it came may not have been told.
    if (fd >= 0 && this.running) this.#call();
  }

  /** SET_VRING_ERR; `fd` < 0: none. */
  setErr(fd: number): void {
    this.#events.setErr(fd);
  }

  /** Makes the ring if everything for it is there. Throws as `makeRing`. */
  refresh(): void {
    if (this.#ring !== undefined || this.#broken || this.#held > 0 || !this.#ready()) return;
    const ring = this.#host.makeRing(this);
    this.#ring = ring;
    this.#guard(() => this.#recover(ring));
    // What another back-end used just before it was killed may not have been told.
    this.#call();
    ring.suspend();
    this.#asking = false;
    // The loop has to be awake: before it sleeps it asks for notifications.
    this.#flushLater();
  }

  #ready(): boolean {
    return this.size > 0 && this.addresses !== undefined && this.#events.started && this.enabled;
  }

  /** Runs what the last back-end had taken but not answered. */
  #recover(ring: Ring): void {
    for (const request of ring.recover(() => this.#record())) {
      this.inFlight++;
      if (this.#host.device.submit(request)) this.#finish(ring, request);
    }
    this.#show(ring);
  }

  /** No requests are taken from now on. Sections nest. */
  hold(): void {
    this.#held++;
  }

  /** Ends a section; `refresh` goes on. */
  unhold(): void {
    this.#held--;
  }

  /** Resolves when no request is in flight and all are shown. */
  idle(): Promise<void> {
    if (this.inFlight === 0) {
      if (this.#flushing) this.#flushNow();
      return Promise.resolve();
    }
    return new Promise((resolve) => this.#idle.push(resolve));
  }

  /** Lets go of the ring; the queue is held and idle. */
  detach(): void {
    const ring = this.#ring;
    if (ring === undefined) return;
    this.#ring = undefined;
    this.base = ring.base;
    this.#free.length = 0;
  }

  /** GET_VRING_BASE, or a reset: the queue is detached, and as new but for what is set up. */
  stop(): void {
    this.#events.closeKick();
    this.#broken = false;
  }

  /** Forgets everything; the queue is held and idle. */
  close(): void {
    this.#closed = true;
    this.detach();
    this.#events.close();
  }

  /** The front-end is gone: nothing more is shown to the driver; the ring's next user will run it again. */
  abandon(): void {
    this.#closed = true;
  }

  // --- serving ---

  /** Serves what is there, within a turn's budget. Whether there was anything. */
  run(): boolean {
    const ring = this.#ring;
    if (ring === undefined || this.#broken || this.#held > 0 || this.#closed) return false;
    if (!this.enabled || this.inFlight >= MAX_IN_FLIGHT) return false;
    try {
      return ring.available() && this.#serve(ring);
    } catch (error) {
      this.#break(error);
      return true;
    }
  }

  /**
   * The loop is about to sleep: asks for a notification. Whether there is work already, for which none may come.
   */
  sleeping(): boolean {
    const ring = this.#ring;
    if (ring === undefined || this.#asking || this.#broken || this.#held > 0 || this.#closed) {
      return false;
    }
    // A completion runs the queue again.
    if (this.inFlight >= MAX_IN_FLIGHT) return false;
    this.#asking = true;
    try {
      return ring.resume();
    } catch (error) {
      this.#break(error);
      return true;
    }
  }

  #serve(ring: Ring): boolean {
    const { device } = this.#host;
    let requests = 0;
    let bytes = 0;
    let shown = 0;
    let shownBytes = 0;
    if (this.#asking) {
      this.#asking = false;
      ring.suspend();
    }
    while (ring.available()) {
      if (requests >= TURN_REQUESTS || this.inFlight >= MAX_IN_FLIGHT) break;
      if (bytes >= TURN_BYTES && !this.#uncopied) break;
      const request = this.#record();
      ring.take(request);
      const length = request.in.total + request.out.total;
      requests++;
      bytes += length;
      this.inFlight++;
      const done = length < LARGE ? device.submit(request) : this.#submitLarge(request, length);
      if (!done) continue;
      this.#finish(ring, request);
      const showBytes = this.#uncopied ? SHOW_UNCOPIED_BYTES : SHOW_BYTES;
      if (requests - shown >= SHOW_REQUESTS || bytes - shownBytes >= showBytes) {
        this.#show(ring);
        shown = requests;
        shownBytes = bytes;
      }
    }
    this.#show(ring);
    return true;
  }

  /** As `submit`; times one in TIMED. */
  #submitLarge(request: BlkRequest, length: number): boolean {
    const { device, context } = this.#host;
    if (this.#untimed-- > 0) return device.submit(request);
    this.#untimed = TIMED;
    const began = context.sys.monotonicNs();
    const done = device.submit(request);
    // What is refused, and what moves less than there is room for, tells nothing.
    const { type, status } = request;
    if (done && status === BlkStatus.ok && (type === BlkType.in || type === BlkType.out)) {
      const ns = context.sys.monotonicNs() - began;
      this.#uncopied = ns * 1024 < length * UNCOPIED_NS_PER_KIB;
    }
    return done;
  }

  #record(): BlkRequest {
    const request = this.#free.pop() ?? new BlkRequest(this);
    request.logged = this.#host.log !== undefined;
    return request;
  }

  /** Answers a request; the driver sees it at the next `#show`. */
  #finish(ring: Ring, request: BlkRequest): void {
    this.inFlight--;
    const view = request.statusView;
    if (view !== undefined) {
      view.setUint8(request.statusAt, request.status);
      request.written = request.in.total + 1;
    }
    if (request.logged) this.#markDirty(request);
    ring.push(request);
    this.#free.push(request);
  }

  #markDirty({ dirty }: BlkRequest): void {
    const { log } = this.#host;
    for (let i = 0; i < dirty.length; i += 2) log?.mark(dirty[i]!, dirty[i + 1]!);
  }

  #show(ring: Ring): void {
    let notify = ring.publish();
    if (!notify && this.#host.notifyOnEmpty) notify = ring.drained;
    if (notify) this.#call();
  }

  #call(): void {
    this.calls++;
    this.#events.call();
  }

  // --- completions that came later ---

  completed(request: BlkRequest): void {
    const ring = this.#ring;
    if (this.#closed || ring === undefined) {
      this.inFlight--;
    } else {
      this.#guard(() => this.#finish(ring, request));
      this.#flushLater();
    }
    if (this.inFlight === 0 && this.#idle.length > 0) this.#becomeIdle();
  }

  failed(request: BlkRequest, error: unknown): void {
    try {
      this.#host.device.fail(request, error);
    } finally {
      this.completed(request);
    }
  }

  #flushLater(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    this.#host.context.loop.defer(this.#flush);
  }

  #flushNow(): void {
    if (!this.#flushing) return;
    this.#flushing = false;
    const ring = this.#ring;
    if (ring === undefined || this.#closed) return;
    this.#guard(() => this.#show(ring));
    this.run();
  }

  #becomeIdle(): void {
    this.#flushNow();
    const idle = this.#idle;
    this.#idle = [];
    for (const resolve of idle) resolve();
  }

  #guard(act: () => void): void {
    try {
      act();
    } catch (error) {
      this.#break(error);
    }
  }

  /** The driver broke the rules: the queue stops, what is in flight is still answered. */
  #break(error: unknown): void {
    if (!(error instanceof RingError)) throw error;
    this.#broken = true;
    if (this.#ring !== undefined) this.#show(this.#ring);
    this.#events.error();
    this.#host.broken(this, error.message);
  }
}
