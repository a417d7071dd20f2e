/** What each of the front-end's requests does: those about the device are here, and the table of all. */
import type { MaybePromise } from "../base/mod.ts";
import { CONFIG_SIZE, WCE_AT } from "./config.ts";
import { type Handler, type SessionState, takeFd, wantFeature } from "./handling.ts";
import { MAX_SLOTS } from "./memory.ts";
import {
  addMemReg,
  getInflightFd,
  remMemReg,
  setInflightFd,
  setLogBase,
  setMemTable,
} from "./memory_handlers.ts";
import {
  enable,
  getVringBase,
  setVringAddr,
  setVringBase,
  setVringCall,
  setVringEnable,
  setVringErr,
  setVringKick,
  setVringNum,
} from "./ring_handlers.ts";
import type { Message } from "./socket.ts";
import {
  bits,
  configReply,
  Feature,
  has,
  MAX_CONFIG,
  parseConfig,
  parseU64,
  ProtocolError,
  ProtocolFeature,
  Request,
  u64Reply,
} from "./wire.ts";

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
