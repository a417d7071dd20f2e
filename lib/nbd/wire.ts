/**
 * The NBD protocol's constants (doc/proto.md of the NetworkBlockDevice project) and the layout of
 * transmission messages. Pure: imports only base. All fields are big-endian; lengths are in bytes.
 */
import type { BlockError } from "../base/mod.ts";

/** `NBDMAGIC`, as two 32-bit halves. */
export const INIT_MAGIC = [0x4e42444d, 0x41474943] as const;
/** `IHAVEOPT`, as two halves. */
export const OPTION_MAGIC = [0x49484156, 0x454f5054] as const;
/** Magic of option replies, as two halves. */
export const OPTION_REPLY_MAGIC = [0x0003e889, 0x045565a9] as const;

/** Magic of a compact request. */
export const REQUEST_MAGIC = 0x25609513;
/** Magic of an extended request. */
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
/** Magic of a simple reply. */
export const SIMPLE_REPLY_MAGIC = 0x67446698;
/** Magic of a structured reply chunk. */
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
/** Magic of an extended reply chunk. */
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

/** Bytes of a compact request header. */
export const REQUEST_SIZE = 28;
/** Bytes of an extended request header. */
export const EXTENDED_REQUEST_SIZE = 32;
/** Bytes of a simple reply header. */
export const SIMPLE_REPLY_SIZE = 16;
/** Bytes of a structured chunk header. */
const STRUCTURED_REPLY_SIZE = 20;
/** Bytes of an extended chunk header. */
const EXTENDED_REPLY_SIZE = 32;
/** Bytes before an option's data. */
export const OPTION_SIZE = 16;
/** Bytes before an option reply's data. */
export const OPTION_REPLY_SIZE = 20;

/** Longest string of the protocol (names, descriptions, queries, messages). */
export const MAX_STRING = 4096;
/** Longest payload either way (QEMU's NBD_MAX_BUFFER_SIZE), also shown as the maximum block size. */
export const MAX_PAYLOAD = 32 * 1024 * 1024;

/** Handshake flags (server) and client flags. */
export const HandshakeFlag = { fixedNewstyle: 1, noZeroes: 2 } as const;

/** Options. */
export const Opt = {
  exportName: 1,
  abort: 2,
  list: 3,
  starttls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
  extendedHeaders: 11,
} as const;

/** How QEMU's messages call an option. */
export function optionName(option: number): string {
  return optionNames[option] ?? "<unknown>";
}
const optionNames: Readonly<Record<number, string>> = {
  1: "export name",
  2: "abort",
  3: "list",
  5: "starttls",
  6: "info",
  7: "go",
  8: "structured reply",
  9: "list meta context",
  10: "set meta context",
  11: "extended headers",
};

/** Option replies. Errors have bit 31 set. */
export const Rep = {
  ack: 1,
  server: 2,
  info: 3,
  metaContext: 4,
  errUnsup: 0x80000001,
  errPolicy: 0x80000002,
  errInvalid: 0x80000003,
  errPlatform: 0x80000004,
  errTlsReqd: 0x80000005,
  errUnknown: 0x80000006,
  errShutdown: 0x80000007,
  errBlockSizeReqd: 0x80000008,
  errTooBig: 0x80000009,
  errExtHeaderReqd: 0x8000000a,
} as const;

/** Kinds of information in INFO and GO. */
export const Info = { export: 0, name: 1, description: 2, blockSize: 3 } as const;

/** Transmission flags. */
export const TransmissionFlag = {
  hasFlags: 1 << 0,
  readOnly: 1 << 1,
  sendFlush: 1 << 2,
  sendFua: 1 << 3,
  rotational: 1 << 4,
  sendTrim: 1 << 5,
  sendWriteZeroes: 1 << 6,
  sendDf: 1 << 7,
  canMultiConn: 1 << 8,
  sendResize: 1 << 9,
  sendCache: 1 << 10,
  sendFastZero: 1 << 11,
  blockStatusPayload: 1 << 12,
} as const;

/** Commands. */
export const Cmd = {
  read: 0,
  write: 1,
  disc: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

/** How QEMU's messages call a command. */
export function commandName(type: number): string {
  return commandNames[type] ?? "<unknown>";
}
const commandNames: readonly string[] = [
  "read",
  "write",
  "discard",
  "flush",
  "trim",
  "cache",
  "write zeroes",
  "block status",
];

/** Command flags. */
export const CmdFlag = {
  fua: 1 << 0,
  noHole: 1 << 1,
  df: 1 << 2,
  reqOne: 1 << 3,
  fastZero: 1 << 4,
  payloadLen: 1 << 5,
} as const;

/** Types of reply chunks, and their flag. Errors have bit 15 set. */
export const Chunk = {
  none: 0,
  offsetData: 1,
  offsetHole: 2,
  blockStatus: 5,
  blockStatusExt: 6,
  error: 0x8001,
  errorOffset: 0x8002,
} as const;
/** The chunk is the last of its reply. */
const REPLY_FLAG_DONE = 1;

/** Error values. */
export const NbdErrno = {
  EPERM: 1,
  EIO: 5,
  ENOMEM: 12,
  EINVAL: 22,
  ENOSPC: 28,
  EOVERFLOW: 75,
  ENOTSUP: 95,
  ESHUTDOWN: 108,
} as const;

/** The error value that tells a client of a failed block operation (facts 8.1). */
export function nbdErrnoOf(error: BlockError): number {
  switch (error.errno) {
    case "EPERM":
    case "EROFS":
    case "EACCES":
      return NbdErrno.EPERM;
    case "EIO":
      return NbdErrno.EIO;
    case "ENOMEM":
      return NbdErrno.ENOMEM;
    case "ENOSPC":
    case "EDQUOT":
    case "EFBIG":
      return NbdErrno.ENOSPC;
    case "EOVERFLOW":
      return NbdErrno.EOVERFLOW;
    case "ENOTSUP":
    case "EOPNOTSUPP":
      return NbdErrno.ENOTSUP;
    case "ESHUTDOWN":
      return NbdErrno.ESHUTDOWN;
    default:
      return error.kind === "io" ? NbdErrno.EIO : NbdErrno.EINVAL;
  }
}

/** Bits of the base:allocation context. */
export const BaseAllocation = { hole: 1, zero: 2 } as const;

/** Holes and zeroes. */
export const BASE_ALLOCATION = "base:allocation";
/** Depth of the layer that has the data. */
export const QEMU_ALLOCATION_DEPTH = "qemu:allocation-depth";

/** What was written since when: the name of a dirty bitmap follows. Bit 0 of an extent: dirty. */
export const QEMU_DIRTY_BITMAP = "qemu:dirty-bitmap:";

/** How replies are framed, as negotiated. Each level includes the earlier ones. */
export const Framing = { simple: 0, structured: 1, extended: 2 } as const;
/** One of them. */
export type Framing = typeof Framing[keyof typeof Framing];

/** A request's header as received; reused from request to request. */
export class RequestHeader {
  flags = 0;
  type = 0;
  /** The cookie (handle), as two 32-bit halves: it is echoed, never computed with. */
  cookieHigh = 0;
  cookieLow = 0;
  /** Bytes. An offset beyond 2^53 is not exact, but is certain to lie outside every export. */
  offset = 0;
  /** Bytes: of the payload or of the effect. */
  length = 0;

  /**
   * Takes the header at `at` of `view`: 28 bytes, or 32 when `extended`. False when its magic is wrong.
   */
  parse(view: DataView, at: number, extended: boolean): boolean {
    const magic = view.getUint32(at);
    this.flags = view.getUint16(at + 4);
    this.type = view.getUint16(at + 6);
    this.cookieHigh = view.getUint32(at + 8);
    this.cookieLow = view.getUint32(at + 12);
    this.offset = view.getUint32(at + 16) * 0x100000000 + view.getUint32(at + 20);
    if (!extended) {
      this.length = view.getUint32(at + 24);
      return magic === REQUEST_MAGIC;
    }
    this.length = view.getUint32(at + 24) * 0x100000000 + view.getUint32(at + 28);
    return magic === EXTENDED_REQUEST_MAGIC;
  }
}

/** Which request a reply belongs to: what of its header is echoed. */
export interface Cookie {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  /** The request's offset in bytes (extended headers echo it). */
  readonly offset: number;
}

/** A cookie that outlives the request header (which is reused). */
export function keepCookie(header: RequestHeader): Cookie {
  return { cookieHigh: header.cookieHigh, cookieLow: header.cookieLow, offset: header.offset };
}

/** Writes an unsigned 64-bit number below 2^53 at `at`. */
export function putUint64(view: DataView, at: number, value: number): void {
  view.setUint32(at, Math.floor(value / 0x100000000));
  view.setUint32(at + 4, value >>> 0);
}

/** Reads an unsigned 64-bit number; not exact beyond 2^53. */
export function getUint64(view: DataView, at: number): number {
  return view.getUint32(at) * 0x100000000 + view.getUint32(at + 4);
}

/** Writes a simple reply's header at `at` of `view`. */
export function putSimpleReply(view: DataView, at: number, error: number, to: Cookie): void {
  view.setUint32(at, SIMPLE_REPLY_MAGIC);
  view.setUint32(at + 4, error);
  view.setUint32(at + 8, to.cookieHigh);
  view.setUint32(at + 12, to.cookieLow);
}

/** Size of a chunk's header in this framing (structured or extended). */
export function chunkHeaderSize(framing: Framing): number {
  return framing === Framing.extended ? EXTENDED_REPLY_SIZE : STRUCTURED_REPLY_SIZE;
}

/** Writes a chunk's header at `at` of `view`; `length` is that of the payload. */
export function putChunk(
  view: DataView,
  at: number,
  framing: Framing,
  to: Cookie,
  last: boolean,
  type: number,
  length: number,
): void {
  const extended = framing === Framing.extended;
  view.setUint32(at, extended ? EXTENDED_REPLY_MAGIC : STRUCTURED_REPLY_MAGIC);
  view.setUint16(at + 4, last ? REPLY_FLAG_DONE : 0);
  view.setUint16(at + 6, type);
  view.setUint32(at + 8, to.cookieHigh);
  view.setUint32(at + 12, to.cookieLow);
  if (extended) {
    putUint64(view, at + 16, to.offset);
    putUint64(view, at + 24, length);
  } else {
    view.setUint32(at + 16, length);
  }
}
