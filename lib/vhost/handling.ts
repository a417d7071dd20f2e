/** What handlers of front-end requests share: the session as they see it, and how they change what rings are made of. */
import type { MaybePromise } from "../base/mod.ts";
import type { Context } from "../sys/mod.ts";
import type { BlkDevice } from "./device.ts";
import type { DirtyLog } from "./dirty.ts";
import type { InflightArea } from "./inflight_area.ts";
import type { GuestMemory } from "./memory.ts";
import type { SessionQueue } from "./session_queue.ts";
import type { Message } from "./socket.ts";
import { has, ProtocolError } from "./wire.ts";

/** A session as its handlers see it. */
export interface SessionState {
  readonly context: Context;
  readonly device: BlkDevice;
  readonly queues: readonly SessionQueue[];
  readonly memory: GuestMemory;
  features: bigint;
  protocolFeatures: bigint;
  /** The virtio device status. */
  status: number;
  log: DirtyLog | undefined;
  inflight: InflightArea | undefined;
  queue(index: number): SessionQueue;
  quiesced<T>(queues: readonly SessionQueue[], change: () => T): Promise<T>;
  refresh(queue: SessionQueue): MaybePromise<void>;
  /** The device's state changed: queues that run elsewhere are to know before the front-end is answered. */
  deviceChanged(): MaybePromise<void>;
  setChannel(fd: number): void;
  sendWith(reply: Uint8Array, fd: number): void;
}

/** Gives the reply, if the request has one of its own. Throws ProtocolError or RingError. */
export type Handler = (
  session: SessionState,
  message: Message,
) => MaybePromise<Uint8Array | undefined>;

/** Takes the single descriptor that a message must come with. */
export function takeFd(message: Message): number {
  const fd = message.fds.shift();
  if (fd === undefined) throw new ProtocolError(`request ${message.type} without a descriptor`);
  return fd;
}

/** Throws unless the protocol feature was negotiated. */
export function wantFeature(session: SessionState, bit: number): void {
  if (!has(session.protocolFeatures, bit)) {
    throw new ProtocolError(`a request whose protocol feature ${bit} was not negotiated`);
  }
}

/** Changes what a ring is made of, with the ring out of the way. */
export function changed(
  session: SessionState,
  queue: SessionQueue,
  change: () => void,
): MaybePromise<undefined> {
  if (queue.running) {
    return session.quiesced([queue], () => {
      change();
      return undefined;
    });
  }
  change();
  return refreshed(session, [queue]);
}

/** Changes what rings bear while they run; but those of queues that run elsewhere are out of the way. */
export function changing(
  session: SessionState,
  queues: readonly SessionQueue[],
  change: () => void,
): MaybePromise<undefined> {
  if (queues.some((queue) => queue.running && !queue.live)) {
    return session.quiesced(queues, () => {
      change();
      return undefined;
    });
  }
  change();
  return refreshed(session, queues);
}

/** Queues may have become ready. Throws, or rejects, with what is wrong with the first ring that does not start. */
function refreshed(
  session: SessionState,
  queues: readonly SessionQueue[],
): MaybePromise<undefined> {
  const starting = queues.map((queue) => session.refresh(queue)).filter((one) => one !== undefined);
  if (starting.length === 0) return undefined;
  return Promise.all(starting).then(() => undefined);
}
