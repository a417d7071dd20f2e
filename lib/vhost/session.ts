/**
 * One front-end's session: its messages, the state that they set up, its queues. A session runs in one context and
 * knows nothing of sockets that listen: it is given a connected descriptor and a device.
 *
 * Messages are handled one after the other; one that changes something under the rings holds all queues, waits for
 * the requests in flight, and only then acts and answers. A request that cannot be granted is answered with an
 * error where an answer was asked for; else the connection ends, since the front-end would not know.
 */
import type { MaybePromise } from "../base/mod.ts";
import { type Context, EPOLL, type Memory, SysError, type Watch } from "../sys/mod.ts";
import type { BlkDevice } from "./device.ts";
import type { DirtyLog } from "./dirty.ts";
import { handlers, ownReply } from "./handlers.ts";
import type { Handler, SessionState } from "./handling.ts";
import type { InflightArea } from "./inflight_area.ts";
import { GuestMemory } from "./memory.ts";
import { Queue, type QueueHost } from "./queue.ts";
import {
  anyInFlight,
  anySleeping,
  closeAll,
  type QueueSettings,
  type SessionQueue,
} from "./session_queue.ts";
import { type Ring, RingError } from "./ring.ts";
import { makeRing } from "./ring_setup.ts";
import type { SharedSession } from "./shared.ts";
import { FrontendSocket, type Message } from "./socket.ts";
import { configChange, Feature, has, ProtocolError, ProtocolFeature, u64Reply } from "./wire.ts";

/** Messages handled in one turn. */
const TURN_MESSAGES = 32;

/** What a session tells its owner. */
export interface SessionOwner {
  /** For people: what was wrong, of a session or a queue. */
  complain(text: string): void;
  /** The session is over, nothing of it is left. */
  closed(): void;
  /** Makes a queue that runs elsewhere; without it queues run where the session does. */
  queue?(session: Session, index: number): SessionQueue;
  /** The driver changed the device's state: resolves when queues elsewhere know. */
  deviceChanged?(): Promise<void>;
}

/** A session. */
export class Session implements QueueHost, SessionState {
  readonly context: Context;
  readonly device: BlkDevice;
  readonly queues: readonly SessionQueue[];
  readonly memory: GuestMemory = new GuestMemory();
  readonly one: number;
  features = 0n;
  protocolFeatures = 0n;
  status = 0;
  log: DirtyLog | undefined;
  inflight: InflightArea | undefined;
  readonly #owner: SessionOwner;
  readonly #socket: FrontendSocket;
  readonly #watch: Watch;
  readonly #poller: { remove(): void };
  readonly #oneMemory: Memory;
  #channel: FrontendSocket | undefined;
  #busy = false;
  #ending: Promise<void> | undefined;
  /** Whether the end was asked for by us: requests in flight are still shown. */
  #graceful = false;

  /** Begins a session on `fd`, which is the session's from now on. */
  constructor(context: Context, fd: number, device: BlkDevice, owner: SessionOwner) {
    this.context = context;
    this.device = device;
    this.#owner = owner;
    this.#socket = new FrontendSocket(context, fd);
    this.#oneMemory = context.buffers.acquire(8);
    this.#oneMemory.view.setBigUint64(0, 1n, true);
    this.one = this.#oneMemory.address;
    this.queues = Array.from(
      { length: device.options.queues },
      (_, i) => owner.queue?.(this, i) ?? new Queue(this, i),
    );
    device.negotiated(0n);
    this.#watch = context.loop.watch(fd, EPOLL.IN, (events) => this.#ready(events));
    this.#poller = context.loop.addPoller(
      () => this.#poll(),
      () => this.#sleeping(),
      () => this.#settled(),
    );
  }

  get notifyOnEmpty(): boolean {
    return has(this.features, Feature.notifyOnEmpty);
  }

  /** Requests that have not been answered. */
  get inFlight(): number {
    return this.queues.reduce((sum, queue) => sum + queue.inFlight, 0);
  }

  /** The device's configuration space changed: the front-end is told, if it wants to be. */
  configChanged(): void {
    if (this.#channel === undefined || !has(this.protocolFeatures, ProtocolFeature.config)) return;
    try {
      this.#channel.send(configChange());
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.setChannel(-1);
    }
  }

  /** Requests in flight are answered, then the session ends. */
  async shutdown(): Promise<void> {
    this.#graceful = true;
    await this.#end();
  }

  /** The thread is in disorder: lets go of the front-end's descriptors, and does nothing else. */
  abandon(): void {
    this.#watch.close();
    this.#socket.close();
    this.#poller.remove();
    closeAll(this.queues);
    this.setChannel(-1);
  }

  #poll(): boolean {
    if (this.#lost) {
      this.#fail(new ProtocolError("the front-end took away memory that it shares"));
      return false;
    }
    const { queues } = this;
    let worked = false;
    for (let i = 0; i < queues.length; i++) {
      if (queues[i]!.running && queues[i]!.run()) worked = true;
    }
    return worked;
  }

  /** Whether what the front-end shared is no longer there: what was read since then is nothing of its. */
  get #lost(): boolean {
    if (this.#ending !== undefined) return false;
    return this.memory.lost || this.inflight?.memory.lost === true ||
      this.log?.memory.lost === true;
  }

  /** The loop is about to sleep. Whether a queue has work. */
  #sleeping(): boolean {
    return anySleeping(this.queues);
  }

  /** Whether nothing is in flight. */
  #settled(): boolean {
    return !this.#busy && this.#ending === undefined && !anyInFlight(this.queues);
  }

  // --- messages ---

  #ready(events: number): void {
    if ((events & EPOLL.OUT) !== 0) this.#socket.flush();
    this.#pump();
  }

  /** Handles what has arrived. Synchronous unless a message has to wait for requests. */
  #pump(): void {
    for (let i = 0; i < TURN_MESSAGES && !this.#busy && this.#ending === undefined; i++) {
      if (this.#socket.blocked) break;
      let message: Message | "end" | undefined;
      try {
        message = this.#socket.receive();
      } catch (error) {
        return this.#fail(error);
      }
      if (message === undefined) break;
      if (message === "end") return void this.#end();
      this.#handle(message);
    }
    this.#listen();
  }

  #listen(): void {
    if (this.#ending !== undefined) return;
    const want = this.#busy || this.#socket.blocked ? 0 : EPOLL.IN;
    this.#watch.set(want | (this.#socket.blocked ? EPOLL.OUT : 0));
  }

  #handle(message: Message): void {
    const handler = handlers.get(message.type);
    let result: MaybePromise<boolean>;
    try {
      if (handler === undefined) throw new ProtocolError(`unsupported request ${message.type}`);
      result = this.#call(handler, message);
    } catch (error) {
      return this.#refuse(message, error);
    }
    if (!(result instanceof Promise)) return this.#done(message, result);
    this.#busy = true;
    result.then(
      (replied) => this.#done(message, replied),
      (error) => this.#refuse(message, error),
    ).finally(() => {
      this.#busy = false;
      if (this.#ending === undefined) this.#pump();
    });
  }

  /** Whether the handler has sent a reply of its own. */
  #call(handler: Handler, message: Message): MaybePromise<boolean> {
    const reply = handler(this, message);
    if (reply instanceof Promise) return reply.then((bytes) => this.#reply(bytes));
    return this.#reply(reply);
  }

  #reply(reply: Uint8Array | undefined): boolean {
    if (reply === undefined) return false;
    this.#socket.send(reply);
    return true;
  }

  /** Sends a reply that comes with a descriptor, which stays the caller's. */
  sendWith(reply: Uint8Array, fd: number): void {
    this.#socket.send(reply, [fd]);
  }

  #done(message: Message, replied: boolean): void {
    this.#closeFds(message);
    if (!replied && this.#acknowledges(message)) {
      try {
        this.#socket.send(u64Reply(message.type, 0n));
      } catch (error) {
        this.#fail(error);
      }
    }
  }

  #refuse(message: Message, error: unknown): void {
    this.#closeFds(message);
    const known = error instanceof ProtocolError || error instanceof RingError ||
      error instanceof SysError;
    if (!known || !this.#acknowledges(message) || ownReply.has(message.type)) {
      return this.#fail(error);
    }
    this.#owner.complain(error.message);
    try {
      this.#socket.send(u64Reply(message.type, 1n));
    } catch (failure) {
      this.#fail(failure);
    }
  }

  #acknowledges(message: Message): boolean {
    return message.needReply && has(this.protocolFeatures, ProtocolFeature.replyAck);
  }

  #closeFds(message: Message): void {
    for (const fd of message.fds) this.context.sys.close(fd);
    message.fds.length = 0;
  }

  #fail(error: unknown): void {
    const known = error instanceof ProtocolError || error instanceof RingError ||
      error instanceof SysError;
    void this.#end();
    if (!known) throw error;
    this.#owner.complain(`the connection is closed: ${error.message}`);
  }

  // --- what handlers do ---

  /** The queue, or ProtocolError. */
  queue(index: number): SessionQueue {
    const queue = this.queues[index];
    if (queue === undefined) throw new ProtocolError(`there is no queue ${index}`);
    return queue;
  }

  /** Runs `change` while no queue has a ring and nothing is in flight; then the queues go on. */
  async quiesced<T>(queues: readonly SessionQueue[], change: () => T): Promise<T> {
    for (const queue of queues) queue.hold();
    try {
      await Promise.all(queues.map((queue) => queue.idle()));
      for (const queue of queues) queue.detach();
      return change();
    } finally {
      for (const queue of queues) queue.unhold();
      if (this.#ending === undefined) {
        await Promise.all(queues.map((queue) => this.#refreshed(queue)));
      }
    }
  }

  /** A queue may have become ready. What is wrong with its ring only stops this queue. */
  async #refreshed(queue: SessionQueue): Promise<void> {
    try {
      const started = queue.refresh();
      if (started !== undefined) await started;
    } catch (error) {
      if (!(error instanceof ProtocolError || error instanceof RingError)) throw error;
      this.#owner.complain(`queue ${queue.index} does not start: ${error.message}`);
    }
  }

  /** As #refreshed, for a message that can be refused. */
  refresh(queue: SessionQueue): MaybePromise<void> {
    return queue.refresh();
  }

  /** What queues elsewhere need of it. */
  share(): SharedSession {
    return {
      ...this.device.state,
      features: this.features,
      regions: this.memory.share(),
      inflight: this.inflight?.share(),
      log: this.log?.memory.shared,
    };
  }

  deviceChanged(): MaybePromise<void> {
    return this.#owner.deviceChanged?.();
  }

  /** SET_BACKEND_REQ_FD; -1: none. */
  setChannel(fd: number): void {
    this.#channel?.close();
    this.#channel = fd < 0 ? undefined : new FrontendSocket(this.context, fd);
  }

  makeRing(queue: QueueSettings): Ring {
    const packed = has(this.features, Feature.ringPacked);
    const inflight = this.inflight?.region(queue.index, queue.size, packed);
    const { memory, features, log } = this;
    return makeRing({ sys: this.context.sys, memory, features, inflight, log }, queue);
  }

  broken(queue: QueueSettings, reason: string): void {
    this.status |= 0x40; // DEVICE_NEEDS_RESET
    this.#owner.complain(`queue ${queue.index} is stopped: ${reason}`);
  }

  // --- the end ---

  /** Ends the session: at once for the front-end, then waits for requests in flight. */
  #end(): Promise<void> {
    return this.#ending ??= this.#finish();
  }

  async #finish(): Promise<void> {
    this.#watch.close();
    for (const queue of this.queues) {
      queue.hold();
      if (!this.#graceful) queue.abandon();
    }
    await Promise.all(this.queues.map((queue) => queue.idle()));
    this.#poller.remove();
    closeAll(this.queues);
    this.setChannel(-1);
    this.#socket.close();
    this.memory.clear();
    // A thread that has failed may go on for a moment.
    if (!this.queues.some((queue) => queue.lost)) {
      this.inflight?.memory.unmap();
      this.log?.memory.unmap();
    }
    this.context.buffers.release(this.#oneMemory);
    this.#owner.closed();
  }
}
