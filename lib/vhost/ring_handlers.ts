/** Requests about one ring. */
import type { MaybePromise } from "../base/mod.ts";
import { changed, changing, type SessionState, takeFd } from "./handling.ts";
import type { SessionQueue } from "./session_queue.ts";
import { MAX_QUEUE_SIZE } from "./ring.ts";
import type { Message } from "./socket.ts";
import {
  Feature,
  has,
  parseAddress,
  parseState,
  parseVringFd,
  ProtocolError,
  Request,
  stateReply,
} from "./wire.ts";

/** SET_VRING_NUM. */
export function setVringNum(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, num } = parseState(message.payload);
  const queue = session.queue(index);
  if (num === 0 || num > MAX_QUEUE_SIZE) throw new ProtocolError(`a queue of ${num} descriptors`);
  if (!has(session.features, Feature.ringPacked) && (num & (num - 1)) !== 0) {
    throw new ProtocolError(`a queue of ${num} descriptors, not a power of two`);
  }
  return changed(session, queue, () => {
    queue.size = num;
  });
}

/** SET_VRING_ADDR. */
export function setVringAddr(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, ...addresses } = parseAddress(message.payload);
  const queue = session.queue(index);
  return changed(session, queue, () => {
    queue.addresses = addresses;
  });
}

/** SET_VRING_BASE. */
export function setVringBase(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, num } = parseState(message.payload);
  const queue = session.queue(index);
  return changed(session, queue, () => {
    queue.base = num;
  });
}

/** GET_VRING_BASE: the ring stops. */
export function getVringBase(session: SessionState, message: Message): Promise<Uint8Array> {
  const { index } = parseState(message.payload);
  const queue = session.queue(index);
  return session.quiesced([queue], () => {
    queue.stop();
    session.inflight?.retire(index, queue.size, has(session.features, Feature.ringPacked));
    return stateReply(Request.getVringBase, { index, num: queue.base });
  });
}

/** The queue and descriptor of SET_VRING_KICK, _CALL and _ERR; -1 for none. */
function vringFd(session: SessionState, message: Message): { queue: SessionQueue; fd: number } {
  const { index, none } = parseVringFd(message.payload);
  const queue = session.queue(index);
  if (none) return { queue, fd: -1 };
  const { sys } = session.context;
  const stat = sys.fstat(message.fds[0] ?? -1);
  // Files and directories would be written to, and cannot be waited for.
  if (typeof stat === "number" || (stat.kind !== "other" && stat.kind !== "fifo")) {
    throw new ProtocolError(`request ${message.type} without an event descriptor`);
  }
  return { queue, fd: takeFd(message) };
}

/** SET_VRING_KICK. */
export function setVringKick(session: SessionState, message: Message): MaybePromise<undefined> {
  const { queue, fd } = vringFd(session, message);
  return changing(session, [queue], () => queue.setKick(fd));
}

/** SET_VRING_CALL. */
export function setVringCall(session: SessionState, message: Message): MaybePromise<undefined> {
  const { queue, fd } = vringFd(session, message);
  if (!queue.live) return changing(session, [queue], () => queue.setCall(fd));
  queue.setCall(fd);
  return undefined;
}

/** SET_VRING_ERR. */
export function setVringErr(session: SessionState, message: Message): MaybePromise<undefined> {
  const { queue, fd } = vringFd(session, message);
  if (!queue.live) return changing(session, [queue], () => queue.setErr(fd));
  queue.setErr(fd);
  return undefined;
}

/** SET_VRING_ENABLE. */
export function setVringEnable(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, num } = parseState(message.payload);
  const queue = session.queue(index);
  if (num > 1) throw new ProtocolError(`SET_VRING_ENABLE with ${num}`);
  const waiting = enable(session, [queue], num === 1);
  if (waiting === undefined) queue.run();
  return waiting;
}

/** Enables rings, or disables them. */
export function enable(
  session: SessionState,
  queues: readonly SessionQueue[],
  enabled: boolean,
): MaybePromise<undefined> {
  return changing(session, queues, () => {
    for (const queue of queues) queue.enabled = enabled;
  });
}
