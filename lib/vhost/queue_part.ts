/** Queues of a vhost-user-blk export in an IOThread, whose session runs in the main context: see remote_queue.ts. */
import type { MaybePromise } from "../base/mod.ts";
import { type BlockBackend, Perm } from "../block/mod.ts";
import { type Context, type Memory, SysError } from "../sys/mod.ts";
import type { PartHost, ThreadPart } from "../thread/mod.ts";
import { BlkDevice } from "./device.ts";
import { DirtyLog } from "./dirty.ts";
import { deviceOptions, type VhostOptions } from "./export.ts";
import { InflightArea } from "./inflight_area.ts";
import { GuestMemory } from "./memory.ts";
import { Queue, type QueueHost } from "./queue.ts";
import { anyInFlight, anySleeping, closeAll, type QueueSettings } from "./session_queue.ts";
import type { QueueEnd, QueueStart } from "./remote_queue.ts";
import { type Ring, RingError } from "./ring.ts";
import { makeRing } from "./ring_setup.ts";
import type { DeviceState, SharedSession } from "./shared.ts";
import { Feature, has, ProtocolError } from "./wire.ts";

/** What the part is started with. */
export interface QueuePartOptions {
  readonly node: string;
  readonly options: VhostOptions;
  readonly queuesOnly: true;
}

/** What the part tells: the queue that was started as number `id` is broken. */
export interface QueueBroken {
  readonly id: number;
  readonly reason: string;
}

/** The queues of one export in this thread. */
export class QueuePart implements ThreadPart {
  readonly #context: Context;
  readonly #tell: PartHost["tell"];
  readonly #backend: BlockBackend;
  readonly #device: BlkDevice;
  /** Holds the 1 that is written into eventfds. */
  readonly #one: Memory;
  readonly #queues = new Map<number, Queue>();
  /** Their memory, and whether it was found to be lost. */
  #memories: { readonly id: number; readonly memory: GuestMemory; lost: boolean }[] = [];
  /** The queues, for the loop. */
  #serving: readonly Queue[] = [];
  readonly #poller: { remove(): void };

  constructor({ context, attach, tell }: PartHost, { node, options }: QueuePartOptions) {
    this.#context = context;
    this.#tell = tell;
    this.#backend = attach(node, {
      describe: "an unnamed block device",
      needed: Perm.consistentRead | (options.writable === true ? Perm.write : 0),
      shared: Perm.all,
    });
    this.#device = new BlkDevice(context, this.#backend, deviceOptions(options));
    this.#one = context.buffers.acquire(8);
    this.#one.view.setBigUint64(0, 1n, true);
    this.#poller = context.loop.addPoller(
      () => this.#poll(),
      () => anySleeping(this.#serving),
      () => !anyInFlight(this.#serving),
    );
  }

  #poll(): boolean {
    const memories = this.#memories;
    for (let i = 0; i < memories.length; i++) {
      const one = memories[i]!;
      if (!one.lost && one.memory.lost) {
        one.lost = true;
        this.#lost(one.id);
      }
    }
    const queues = this.#serving;
    let worked = false;
    for (let i = 0; i < queues.length; i++) if (queues[i]!.run()) worked = true;
    return worked;
  }

  /** The session, once it is told, sees it too, and ends. */
  #lost(id: number): void {
    this.#tell("broken", { id, reason: "its memory was taken away" } satisfies QueueBroken);
  }

  #forget(id: number): void {
    this.#memories = this.#memories.filter((one) => one.id !== id);
  }

  call(method: string, args: unknown): MaybePromise<unknown> {
    switch (method) {
      case "start":
        return this.#start(args as QueueStart);
      case "stop": {
        const { id, abandon } = args as { id: number; abandon: boolean };
        return this.#stop(id, abandon);
      }
      case "device":
        this.#device.state = args as DeviceState;
        return undefined;
      default:
        return this.#statistics();
    }
  }

  /** What is wrong with the ring, if it is not started. */
  #start(given: QueueStart): string | undefined {
    const queue = new Queue(this.#host(given.id, given.session), given.index);
    this.#device.state = given.session;
    queue.size = given.size;
    queue.addresses = given.addresses;
    queue.base = given.base;
    queue.enabled = true;
    try {
      queue.setErr(given.err);
      queue.setKick(given.kick);
      queue.refresh();
    } catch (error) {
      queue.setCall(given.call);
      queue.hold();
      queue.close();
      this.#forget(given.id);
      const known = error instanceof ProtocolError || error instanceof RingError ||
        error instanceof SysError;
      if (!known) throw error;
      return error.message;
    }
    // Now, so that the driver is told of what was used before.
    queue.setCall(given.call);
    this.#queues.set(given.id, queue);
    this.#serving = [...this.#queues.values()];
    return undefined;
  }

  /** The parts of a session that a queue uses. */
  #host(id: number, session: SharedSession): QueueHost {
    const { sys } = this.#context;
    const { features } = session;
    const memory = GuestMemory.borrow(sys, session.regions);
    this.#memories = [...this.#memories, { id, memory, lost: false }];
    const log = session.log === undefined ? undefined : DirtyLog.borrow(sys, session.log);
    const area = session.inflight === undefined
      ? undefined
      : InflightArea.borrow(sys, session.inflight);
    return {
      context: this.#context,
      device: this.#device,
      one: this.#one.address,
      log,
      notifyOnEmpty: has(features, Feature.notifyOnEmpty),
      makeRing(queue: QueueSettings): Ring {
        const inflight = area?.region(queue.index, queue.size, has(features, Feature.ringPacked));
        return makeRing({ sys, memory, features, inflight, log }, queue);
      },
      broken: (_queue, reason) => this.#tell("broken", { id, reason } satisfies QueueBroken),
    };
  }

  async #stop(id: number, abandon: boolean): Promise<QueueEnd | undefined> {
    const queue = this.#queues.get(id);
    if (queue === undefined) return undefined;
    queue.hold();
    if (abandon) queue.abandon();
    await queue.idle();
    queue.close();
    const memory = this.#memories.find((one) => one.id === id)?.memory;
    this.#queues.delete(id);
    this.#forget(id);
    this.#serving = [...this.#queues.values()];
    return { base: queue.base, surrendered: memory?.surrendered(this.#context.buffers) ?? [] };
  }

  /** The thread is in disorder: lets go of the descriptors, and does nothing else. */
  abandon(): void {
    this.#poller.remove();
    closeAll(this.#serving);
  }

  #statistics(): Record<string, number> {
    const inFlight = this.#serving.reduce((sum, queue) => sum + queue.inFlight, 0);
    return { ...this.#device.counters, inFlight };
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#queues.keys()].map((id) => this.#stop(id, true)));
    this.#poller.remove();
    this.#device.close();
    this.#context.buffers.release(this.#one);
    await this.#backend.detach();
  }
}
