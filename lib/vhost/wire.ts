/**
 * vhost-user messages (docs/interop/vhost-user of QEMU, "Message Specification"): their numbers, and payloads as
 * values. All numbers are little-endian, the byte order of the machines that qsd runs on. Pure: nothing here
 * reads a socket. What a front-end sends is checked here for its form, in session.ts for its sense.
 */

/** A front-end's requests. */
export const Request = {
  getFeatures: 1,
  setFeatures: 2,
  setOwner: 3,
  resetOwner: 4,
  setMemTable: 5,
  setLogBase: 6,
  setLogFd: 7,
  setVringNum: 8,
  setVringAddr: 9,
  setVringBase: 10,
  getVringBase: 11,
  setVringKick: 12,
  setVringCall: 13,
  setVringErr: 14,
  getProtocolFeatures: 15,
  setProtocolFeatures: 16,
  getQueueNum: 17,
  setVringEnable: 18,
  setBackendReqFd: 21,
  getConfig: 24,
  setConfig: 25,
  getInflightFd: 31,
  setInflightFd: 32,
  resetDevice: 34,
  getMaxMemSlots: 36,
  addMemReg: 37,
  remMemReg: 38,
  setStatus: 39,
  getStatus: 40,
} as const;

/** Requests of the back-end, on the channel that SET_BACKEND_REQ_FD gives. */
const BackendRequest = { configChange: 2 } as const;

/** Bits of GET_PROTOCOL_FEATURES. */
export const ProtocolFeature = {
  mq: 0,
  logShmfd: 1,
  replyAck: 3,
  backendReq: 5,
  config: 9,
  backendSendFd: 10,
  inflightShmfd: 12,
  resetDevice: 13,
  configureMemSlots: 15,
  status: 16,
} as const;

/** Bits of GET_FEATURES that are not virtio-blk's own (those: config.ts). */
export const Feature = {
  notifyOnEmpty: 24,
  logAll: 26,
  indirectDesc: 28,
  eventIdx: 29,
  protocolFeatures: 30,
  version1: 32,
  ringPacked: 34,
} as const;

/** Bytes before the payload: request, flags, size; 32 bits each. */
export const HEADER_SIZE = 12;
/** Longest payload that is received; the longest with a meaning is a memory table. */
export const MAX_PAYLOAD = 4096;
/** Regions in one SET_MEM_TABLE. */
const MAX_TABLE_REGIONS = 8;
/** Bytes of configuration space that one message may carry. */
export const MAX_CONFIG = 256;

const VERSION = 1;
const FLAG_REPLY = 4;
const FLAG_NEED_REPLY = 8;
const REGION_SIZE = 32;
/** Before the bytes of configuration space: offset, size, flags. */
const CONFIG_HEADER = 12;

/** What a front-end sent makes no sense: the message says what. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
}

/** A message without its descriptors. */
export interface MessageHeader {
  readonly type: number;
  readonly needReply: boolean;
  /** Bytes of payload. */
  readonly size: number;
}

/** A vring's index and a number: SET_VRING_NUM, _BASE, _ENABLE, GET_VRING_BASE. */
export interface VringState {
  readonly index: number;
  readonly num: number;
}

/** Where a vring lies; addresses are the front-end's own (user addresses), `log` is a guest address. */
export interface VringAddress {
  readonly index: number;
  readonly flags: number;
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
  readonly log: number;
}

/** VRING_ADDR flag: writes to the used ring are logged. */
export const VRING_F_LOG = 1;

/** One piece of guest memory; sizes and offsets in bytes. */
export interface RegionDescription {
  readonly guest: number;
  readonly size: number;
  readonly user: number;
  /** Where it begins in the descriptor's memory. */
  readonly offset: number;
}

/** SET_VRING_KICK, _CALL, _ERR: the index, and whether no descriptor comes with it. */
export interface VringFd {
  readonly index: number;
  readonly none: boolean;
}

/** GET/SET_INFLIGHT_FD. */
export interface InflightDescription {
  readonly size: number;
  readonly offset: number;
  readonly queues: number;
  readonly queueSize: number;
}

/** GET/SET_CONFIG: `bytes` of configuration space from `offset` on. */
export interface ConfigAccess {
  readonly offset: number;
  readonly size: number;
  /** 0: a writable field is written; 1: migration. */
  readonly flags: number;
  readonly bytes: Uint8Array;
}

/** Reads a header; `view` has HEADER_SIZE bytes. Throws ProtocolError. */
export function parseHeader(view: DataView): MessageHeader {
  const type = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  const size = view.getUint32(8, true);
  if ((flags & 3) !== VERSION) throw new ProtocolError(`unknown version in flags 0x${hex(flags)}`);
  if (size > MAX_PAYLOAD) throw new ProtocolError(`request ${type}: payload of ${size} bytes`);
  return { type, needReply: (flags & FLAG_NEED_REPLY) !== 0, size };
}

function hex(value: number): string {
  return value.toString(16);
}

function want(view: DataView, size: number): void {
  if (view.byteLength !== size) {
    throw new ProtocolError(`payload of ${view.byteLength} bytes instead of ${size}`);
  }
}

/** An exact u64, or ProtocolError. */
function u64(view: DataView, at: number): number {
  const value = view.getUint32(at + 4, true) * 0x1_0000_0000 + view.getUint32(at, true);
  if (!Number.isSafeInteger(value)) throw new ProtocolError("a number beyond 2^53");
  return value;
}

function putU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

/** A payload that is one u64. */
export function parseU64(view: DataView): bigint {
  want(view, 8);
  return view.getBigUint64(0, true);
}

/** A vring state. */
export function parseState(view: DataView): VringState {
  want(view, 8);
  return { index: view.getUint32(0, true), num: view.getUint32(4, true) };
}

/** A vring address. */
export function parseAddress(view: DataView): VringAddress {
  want(view, 40);
  return {
    index: view.getUint32(0, true),
    flags: view.getUint32(4, true),
    descriptor: u64(view, 8),
    used: u64(view, 16),
    available: u64(view, 24),
    log: u64(view, 32),
  };
}

function regionAt(view: DataView, at: number): RegionDescription {
  const region = {
    guest: u64(view, at),
    size: u64(view, at + 8),
    user: u64(view, at + 16),
    offset: u64(view, at + 24),
  };
  const { guest, size, user, offset } = region;
  for (const start of [guest, user, offset]) {
    if (!Number.isSafeInteger(start + size)) throw new ProtocolError("a region that wraps around");
  }
  if (size === 0) throw new ProtocolError("an empty memory region");
  return region;
}

/** SET_MEM_TABLE. */
export function parseMemoryTable(view: DataView): RegionDescription[] {
  if (view.byteLength < 8) throw new ProtocolError("a memory table without a count");
  const count = view.getUint32(0, true);
  if (count > MAX_TABLE_REGIONS) {
    throw new ProtocolError(`a memory table of ${count} regions (at most ${MAX_TABLE_REGIONS})`);
  }
  // Some front-ends always send room for all regions.
  if (view.byteLength < 8 + count * REGION_SIZE) throw new ProtocolError("a short memory table");
  return Array.from({ length: count }, (_, i) => regionAt(view, 8 + i * REGION_SIZE));
}

/** ADD_MEM_REG, REM_MEM_REG. */
export function parseRegion(view: DataView): RegionDescription {
  want(view, 8 + REGION_SIZE);
  return regionAt(view, 8);
}

/** SET_VRING_KICK, _CALL, _ERR. */
export function parseVringFd(view: DataView): VringFd {
  want(view, 8);
  const low = view.getUint32(0, true);
  return { index: low & 0xff, none: (low & 0x100) !== 0 };
}

/** SET_LOG_BASE: size and offset of the log in bytes. */
export function parseLog(view: DataView): { size: number; offset: number } {
  want(view, 16);
  return { size: u64(view, 0), offset: u64(view, 8) };
}

/** GET/SET_INFLIGHT_FD. A trailing padding is accepted: front-ends send the C struct. */
export function parseInflight(view: DataView): InflightDescription {
  if (view.byteLength !== 20 && view.byteLength !== 24) want(view, 20);
  return {
    size: u64(view, 0),
    offset: u64(view, 8),
    queues: view.getUint16(16, true),
    queueSize: view.getUint16(18, true),
  };
}

/** GET/SET_CONFIG. */
export function parseConfig(view: DataView): ConfigAccess {
  if (view.byteLength < CONFIG_HEADER) throw new ProtocolError("a short configuration message");
  const size = view.getUint32(4, true);
  const room = view.byteLength - CONFIG_HEADER;
  if (size > room) throw new ProtocolError(`configuration of ${size} bytes in ${room}`);
  return {
    offset: view.getUint32(0, true),
    size,
    flags: view.getUint32(8, true),
    bytes: new Uint8Array(view.buffer, view.byteOffset + CONFIG_HEADER, size),
  };
}

/** A whole message of `size` payload bytes, header written, and its payload's view. */
function message(type: number, flags: number, size: number): { bytes: Uint8Array; body: DataView } {
  const bytes = new Uint8Array(HEADER_SIZE + size);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, type, true);
  view.setUint32(4, flags, true);
  view.setUint32(8, size, true);
  return { bytes, body: new DataView(bytes.buffer, HEADER_SIZE) };
}

/** A reply that is one u64. */
export function u64Reply(type: number, value: bigint): Uint8Array {
  const { bytes, body } = message(type, VERSION | FLAG_REPLY, 8);
  body.setBigUint64(0, value, true);
  return bytes;
}

/** A reply that is a vring state. */
export function stateReply(type: number, state: VringState): Uint8Array {
  const { bytes, body } = message(type, VERSION | FLAG_REPLY, 8);
  body.setUint32(0, state.index, true);
  body.setUint32(4, state.num, true);
  return bytes;
}

/** The reply to GET_CONFIG; without `content` it says that there is none (a payload of no bytes). */
export function configReply(access: ConfigAccess, content: Uint8Array | undefined): Uint8Array {
  if (content === undefined) return message(Request.getConfig, VERSION | FLAG_REPLY, 0).bytes;
  const size = CONFIG_HEADER + content.length;
  const { bytes, body } = message(Request.getConfig, VERSION | FLAG_REPLY, size);
  body.setUint32(0, access.offset, true);
  body.setUint32(4, content.length, true);
  body.setUint32(8, access.flags, true);
  bytes.set(content, HEADER_SIZE + CONFIG_HEADER);
  return bytes;
}

/** The reply to GET_INFLIGHT_FD; the descriptor goes with it. */
export function inflightReply(area: InflightDescription): Uint8Array {
  // As long as the C struct, as front-ends expect it.
  const { bytes, body } = message(Request.getInflightFd, VERSION | FLAG_REPLY, 24);
  putU64(body, 0, area.size);
  putU64(body, 8, area.offset);
  body.setUint16(16, area.queues, true);
  body.setUint16(18, area.queueSize, true);
  return bytes;
}

/** The back-end's request that tells of a changed configuration space. */
export function configChange(): Uint8Array {
  return message(BackendRequest.configChange, VERSION, 0).bytes;
}

/** The bits as a mask. */
export function bits(...positions: number[]): bigint {
  return positions.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
}

/** Whether `mask` has the bit. */
export function has(mask: bigint, bit: number): boolean {
  return (mask >> BigInt(bit) & 1n) !== 0n;
}
