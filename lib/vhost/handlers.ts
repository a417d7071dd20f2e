/** What each of the front-end's requests does. */
import type { MaybePromise } from "../base/mod.ts";
import type { Context } from "../sys/mod.ts";
import { CONFIG_SIZE, WCE_AT } from "./config.ts";
import type { BlkDevice } from "./device.ts";
import { DirtyLog } from "./dirty.ts";
import { InflightArea } from "./inflight_area.ts";
import { type GuestMemory, mapRegion, MAX_SLOTS, type Region } from "./memory.ts";
import type { SessionQueue } from "./queue.ts";
import { MAX_QUEUE_SIZE } from "./ring.ts";
import type { Message } from "./socket.ts";
import {
  bits,
  configReply,
  Feature,
  has,
  inflightReply,
  MAX_CONFIG,
  parseAddress,
  parseConfig,
  parseInflight,
  parseLog,
  parseMemoryTable,
  parseRegion,
  parseState,
  parseU64,
  parseVringFd,
  ProtocolError,
  ProtocolFeature,
  Request,
  stateReply,
  u64Reply,
} from "./wire.ts";

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

/** A request with a reply of its own: it cannot be refused by acknowledgement. */
export const ownReply: ReadonlySet<number> = new Set([
  Request.getFeatures,
  Request.getProtocolFeatures,
  Request.getQueueNum,
  Request.getVringBase,
  Request.getConfig,
  Request.getInflightFd,
  Request.getMaxMemSlots,
  Request.getStatus,
]);

const offered = bits(...Object.values(ProtocolFeature));

/** Takes the single descriptor that a message must come with. */
function takeFd(message: Message): number {
  const fd = message.fds.shift();
  if (fd === undefined) throw new ProtocolError(`request ${message.type} without a descriptor`);
  return fd;
}

function wantFeature(session: SessionState, bit: number): void {
  if (!has(session.protocolFeatures, bit)) {
    throw new ProtocolError(`a request whose protocol feature ${bit} was not negotiated`);
  }
}

/** Device status bits (virtio 1.2, 2.1). */
const STATUS_FEATURES_OK = 8;

function setFeatures(session: SessionState, message: Message): MaybePromise<undefined> {
  const features = parseU64(message.payload);
  const unknown = features & ~session.device.features;
  if (unknown !== 0n) throw new ProtocolError(`features 0x${unknown.toString(16)} are not offered`);
  if (!has(features, Feature.version1)) {
    throw new ProtocolError("the driver does not support virtio 1.0 (VIRTIO_F_VERSION_1)");
  }
  const apply = (): undefined => {
    session.features = features;
    session.device.negotiated(features);
    if (has(features, Feature.protocolFeatures)) return;
    for (const queue of session.queues) queue.enabled = true;
  };
  if (!session.queues.some((queue) => queue.running)) return apply();
  return session.quiesced(session.queues, apply);
}

function setMemTable(session: SessionState, message: Message): Promise<undefined> {
  const descriptions = parseMemoryTable(message.payload);
  if (message.fds.length !== descriptions.length) {
    throw new ProtocolError(
      `${descriptions.length} memory regions with ${message.fds.length} descriptors`,
    );
  }
  const mapped: Region[] = [];
  const drop = () => mapped.forEach((region) => region.unmap());
  try {
    descriptions.forEach((description, i) => {
      mapped.push(mapRegion(session.context, message.fds[i]!, description));
    });
    checkDisjoint(mapped);
  } catch (error) {
    drop();
    throw error;
  }
  return session.quiesced(session.queues, () => {
    session.memory.clear();
    for (const region of mapped) session.memory.add(region);
    return undefined;
  });
}

function checkDisjoint(regions: readonly Region[]): void {
  regions.forEach((one, i) => {
    for (const other of regions.slice(i + 1)) {
      if (one.guest < other.guestEnd && other.guest < one.guestEnd) {
        throw new ProtocolError("memory regions overlap");
      }
    }
  });
}

function addMemReg(session: SessionState, message: Message): MaybePromise<undefined> {
  wantFeature(session, ProtocolFeature.configureMemSlots);
  const description = parseRegion(message.payload);
  const fd = takeFd(message);
  let region: Region;
  try {
    region = mapRegion(session.context, fd, description);
  } finally {
    session.context.sys.close(fd);
  }
  const add = () => {
    try {
      session.memory.add(region);
    } catch (error) {
      region.unmap();
      throw error;
    }
  };
  return changing(session, session.queues, add);
}

function remMemReg(session: SessionState, message: Message): MaybePromise<undefined> {
  wantFeature(session, ProtocolFeature.configureMemSlots);
  const region = session.memory.find(parseRegion(message.payload));
  if (region === undefined) throw new ProtocolError("there is no such memory region");
  return session.quiesced(session.queues, () => {
    session.memory.remove(region);
    return undefined;
  });
}

function setLogBase(session: SessionState, message: Message): Promise<Uint8Array> {
  wantFeature(session, ProtocolFeature.logShmfd);
  const { size, offset } = parseLog(message.payload);
  const fd = takeFd(message);
  let log: DirtyLog;
  try {
    log = DirtyLog.map(session.context.sys, fd, size, offset);
  } finally {
    session.context.sys.close(fd);
  }
  return session.quiesced(session.queues, () => {
    session.log?.memory.unmap();
    session.log = log;
    return u64Reply(Request.setLogBase, 0n);
  });
}

function setVringNum(session: SessionState, message: Message): MaybePromise<undefined> {
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

/** Changes what a ring is made of, with the ring out of the way. */
function changed(
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
function changing(
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

function setVringAddr(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, ...addresses } = parseAddress(message.payload);
  const queue = session.queue(index);
  return changed(session, queue, () => {
    queue.addresses = addresses;
  });
}

function setVringBase(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, num } = parseState(message.payload);
  const queue = session.queue(index);
  return changed(session, queue, () => {
    queue.base = num;
  });
}

function getVringBase(session: SessionState, message: Message): Promise<Uint8Array> {
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

function setVringKick(session: SessionState, message: Message): MaybePromise<undefined> {
  const { queue, fd } = vringFd(session, message);
  return changing(session, [queue], () => queue.setKick(fd));
}

function setVringCall(session: SessionState, message: Message): MaybePromise<undefined> {
  const { queue, fd } = vringFd(session, message);
  if (!queue.live) return changing(session, [queue], () => queue.setCall(fd));
  queue.setCall(fd);
  return undefined;
}

function setVringErr(session: SessionState, message: Message): MaybePromise<undefined> {
  const { queue, fd } = vringFd(session, message);
  if (!queue.live) return changing(session, [queue], () => queue.setErr(fd));
  queue.setErr(fd);
  return undefined;
}

function setVringEnable(session: SessionState, message: Message): MaybePromise<undefined> {
  const { index, num } = parseState(message.payload);
  const queue = session.queue(index);
  if (num > 1) throw new ProtocolError(`SET_VRING_ENABLE with ${num}`);
  const waiting = enable(session, [queue], num === 1);
  if (waiting === undefined) queue.run();
  return waiting;
}

function enable(
  session: SessionState,
  queues: readonly SessionQueue[],
  enabled: boolean,
): MaybePromise<undefined> {
  return changing(session, queues, () => {
    for (const queue of queues) queue.enabled = enabled;
  });
}

/**
 * The channel must be one of a pair of sockets. A connection to an export, which the front-end could send as well,
 * would never be seen to end while we keep it.
 */
function setBackendReqFd(session: SessionState, message: Message): undefined {
  wantFeature(session, ProtocolFeature.backendReq);
  const fd = takeFd(message);
  const { sys } = session.context;
  const peer = sys.getpeername(fd);
  if (typeof peer !== "number" && peer.family === "unix" && peer.path === "") {
    return void session.setChannel(fd);
  }
  sys.close(fd);
  throw new ProtocolError("a channel that is not one of a pair of sockets");
}

function getConfig(session: SessionState, message: Message): Uint8Array {
  const access = parseConfig(message.payload);
  const { offset, size } = access;
  if (size === 0 || offset + size > MAX_CONFIG) return configReply(access, undefined);
  // Newer front-ends ask for fields of features that are not offered: they read as zeroes.
  const space = new Uint8Array(MAX_CONFIG);
  space.set(session.device.config());
  return configReply(access, space.slice(offset, offset + size));
}

function setConfig(session: SessionState, message: Message): MaybePromise<undefined> {
  const { offset, size, flags, bytes } = parseConfig(message.payload);
  if (flags > 1) throw new ProtocolError(`SET_CONFIG with flags ${flags}`);
  // After a migration the whole space is written; only this one field is state.
  const whole = flags === 1 && offset === 0 && size >= CONFIG_SIZE;
  if (!whole && (offset !== WCE_AT || size !== 1)) {
    throw new ProtocolError(`SET_CONFIG of ${size} bytes at ${offset}, which cannot be written`);
  }
  session.device.setWriteCache(bytes[whole ? WCE_AT : 0] !== 0);
  return session.deviceChanged()?.then(() => undefined);
}

function getInflightFd(session: SessionState, message: Message): undefined {
  wantFeature(session, ProtocolFeature.inflightShmfd);
  const { queues, queueSize } = parseInflight(message.payload);
  if (queues > session.queues.length) {
    throw new ProtocolError(`an in-flight area for ${queues} queues`);
  }
  const packed = has(session.features, Feature.ringPacked);
  const { sys } = session.context;
  // It is used once it comes back with SET_INFLIGHT_FD.
  const { fd, description } = InflightArea.make(sys, queues, queueSize, packed);
  try {
    session.sendWith(inflightReply(description), fd);
  } finally {
    sys.close(fd);
  }
}

function setInflightFd(session: SessionState, message: Message): Promise<undefined> {
  wantFeature(session, ProtocolFeature.inflightShmfd);
  const description = parseInflight(message.payload);
  const fd = takeFd(message);
  let area: InflightArea;
  try {
    area = InflightArea.map(session.context.sys, fd, description);
  } finally {
    session.context.sys.close(fd);
  }
  return session.quiesced(session.queues, () => {
    session.inflight?.memory.unmap();
    session.inflight = area;
    return undefined;
  });
}

/**
 * All rings stop; what set them up is forgotten, but for where they ended: QEMU 7.2 stops a machine by status 0 and
 * asks by GET_VRING_BASE afterwards, and goes on from there.
 */
function resetDevice(session: SessionState): Promise<undefined> {
  return session.quiesced(session.queues, () => {
    for (const queue of session.queues) {
      queue.stop();
      queue.enabled = false;
      queue.addresses = undefined;
    }
    session.status = 0;
    return undefined;
  });
}

function setStatus(session: SessionState, message: Message): MaybePromise<undefined> {
  wantFeature(session, ProtocolFeature.status);
  const status = Number(parseU64(message.payload) & 0xffn);
  if (status === 0) return resetDevice(session);
  session.status = status;
  if ((status & STATUS_FEATURES_OK) !== 0 && !has(session.features, Feature.version1)) {
    session.status &= ~STATUS_FEATURES_OK;
  }
  return undefined;
}

/** Handlers by request. */
export const handlers: ReadonlyMap<number, Handler> = new Map<number, Handler>([
  [Request.getFeatures, ({ device }) => u64Reply(Request.getFeatures, device.features)],
  [Request.setFeatures, setFeatures],
  [Request.setOwner, () => undefined],
  [Request.resetOwner, (session) => enable(session, session.queues, false)],
  [Request.setMemTable, setMemTable],
  [Request.setLogBase, setLogBase],
  [Request.setLogFd, () => undefined],
  [Request.setVringNum, setVringNum],
  [Request.setVringAddr, setVringAddr],
  [Request.setVringBase, setVringBase],
  [Request.getVringBase, getVringBase],
  [Request.setVringKick, setVringKick],
  [Request.setVringCall, setVringCall],
  [Request.setVringErr, setVringErr],
  [Request.getProtocolFeatures, () => u64Reply(Request.getProtocolFeatures, offered)],
  [Request.setProtocolFeatures, (session, message) => {
    const features = parseU64(message.payload);
    if ((features & ~offered) !== 0n) {
      throw new ProtocolError(`protocol features 0x${features.toString(16)} are not all offered`);
    }
    session.protocolFeatures = features;
    return undefined;
  }],
  [
    Request.getQueueNum,
    ({ queues }) => u64Reply(Request.getQueueNum, BigInt(queues.length)),
  ],
  [Request.setVringEnable, setVringEnable],
  [Request.setBackendReqFd, setBackendReqFd],
  [Request.getConfig, getConfig],
  [Request.setConfig, setConfig],
  [Request.getInflightFd, getInflightFd],
  [Request.setInflightFd, setInflightFd],
  [Request.resetDevice, (session) => {
    wantFeature(session, ProtocolFeature.resetDevice);
    session.device.reset();
    return resetDevice(session);
  }],
  [
    Request.getMaxMemSlots,
    () => u64Reply(Request.getMaxMemSlots, BigInt(MAX_SLOTS)),
  ],
  [Request.addMemReg, addMemReg],
  [Request.remMemReg, remMemReg],
  [Request.setStatus, setStatus],
  [Request.getStatus, ({ status }) => u64Reply(Request.getStatus, BigInt(status))],
]);
