/** Numbers and layouts of the NBD protocol document, as a client writes and reads them. */

/** "NBDMAGIC". */
export const NBDMAGIC = 0x4e42444d41474943n;
/** "IHAVEOPT". */
export const IHAVEOPT = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;

/** Options of the handshake. */
export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** Types of option replies. */
export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
} as const;

/** Commands of the transmission phase. */
export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

/** Command flags. */
export const FLAG = { FUA: 1, NO_HOLE: 2, DF: 4, REQ_ONE: 8, FAST_ZERO: 16 } as const;

/** Structured reply chunk types. */
export const CHUNK = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: 32769,
  ERROR_OFFSET: 32770,
} as const;

/** Errors on the wire. */
export const ERR = { EPERM: 1, EIO: 5, ENOMEM: 12, EINVAL: 22, ENOSPC: 28, EOVERFLOW: 75 } as const;

/** A field: its width in bytes and its value, or bytes as they are. */
export type Field = readonly [1 | 2 | 4 | 8, number | bigint] | Uint8Array | string;

/** Joins big-endian fields. */
export function pack(...fields: readonly Field[]): Uint8Array {
  const parts = fields.map((field) => {
    if (typeof field === "string") return new TextEncoder().encode(field);
    if (field instanceof Uint8Array) return field;
    const [width, value] = field;
    const bytes = new Uint8Array(width);
    let rest = BigInt.asUintN(64, BigInt(value));
    for (let at = width - 1; at >= 0; at--) {
      bytes[at] = Number(rest & 0xffn);
      rest >>= 8n;
    }
    return bytes;
  });
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

/** A big-endian view. */
export const view = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** An option's header and data. */
export const option = (code: number, data: Uint8Array = new Uint8Array(0)): Uint8Array =>
  pack([8, IHAVEOPT], [4, code], [4, data.length], data);

/** The data of INFO and GO. */
export const goData = (name: string, ...requests: number[]): Uint8Array => {
  const bytes = new TextEncoder().encode(name);
  return pack(
    [4, bytes.length],
    bytes,
    [2, requests.length],
    ...requests.map((id): Field => [2, id]),
  );
};

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export const metaData = (name: string, queries: readonly string[]): Uint8Array => {
  const bytes = new TextEncoder().encode(name);
  const packed = queries.map((query) => {
    const text = new TextEncoder().encode(query);
    return pack([4, text.length], text);
  });
  return pack([4, bytes.length], bytes, [4, queries.length], ...packed);
};

/** The 28 bytes of a request. */
export function requestHeader(fields: {
  type: number;
  flags?: number;
  cookie: bigint;
  offset: number | bigint;
  length: number;
  magic?: number;
}): Uint8Array {
  return pack(
    [4, fields.magic ?? REQUEST_MAGIC],
    [2, fields.flags ?? 0],
    [2, fields.type],
    [8, fields.cookie],
    [8, fields.offset],
    [4, fields.length],
  );
}
