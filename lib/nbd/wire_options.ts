/**
 * The handshake's messages: options in, option replies out. Pure: imports only base. Parsers never throw:
 * they return a value or the text of QEMU's ERR_INVALID answer.
 */
import { viewOf } from "../base/mod.ts";
import {
  HandshakeFlag,
  Info,
  INIT_MAGIC,
  MAX_STRING,
  Opt,
  OPTION_MAGIC,
  OPTION_REPLY_MAGIC,
  OPTION_REPLY_SIZE,
  optionName,
  putUint64,
  Rep,
} from "./wire.ts";

const encoder = new TextEncoder();
/** Malformed UTF-8 becomes U+FFFD: such a name matches no export. */
const decoder = new TextDecoder();

/** The server's greeting: 18 bytes. */
export function greeting(): Uint8Array {
  const bytes = new Uint8Array(18);
  const view = viewOf(bytes);
  view.setUint32(0, INIT_MAGIC[0]);
  view.setUint32(4, INIT_MAGIC[1]);
  view.setUint32(8, OPTION_MAGIC[0]);
  view.setUint32(12, OPTION_MAGIC[1]);
  view.setUint16(16, HandshakeFlag.fixedNewstyle | HandshakeFlag.noZeroes);
  return bytes;
}

/** The 16 bytes before an option's data; undefined when the magic is wrong. */
export function parseOptionHeader(
  bytes: Uint8Array,
): { option: number; length: number } | undefined {
  const view = viewOf(bytes);
  if (view.getUint32(0) !== OPTION_MAGIC[0] || view.getUint32(4) !== OPTION_MAGIC[1]) {
    return undefined;
  }
  return { option: view.getUint32(8), length: view.getUint32(12) };
}

/** One reply to `option`. */
export function optionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const bytes = new Uint8Array(OPTION_REPLY_SIZE + data.length);
  const view = viewOf(bytes);
  view.setUint32(0, OPTION_REPLY_MAGIC[0]);
  view.setUint32(4, OPTION_REPLY_MAGIC[1]);
  view.setUint32(8, option);
  view.setUint32(12, type);
  view.setUint32(16, data.length);
  bytes.set(data, OPTION_REPLY_SIZE);
  return bytes;
}

/** An error reply with text for people. */
export function optionError(option: number, type: number, text: string): Uint8Array {
  return optionReply(option, type, encoder.encode(text).subarray(0, MAX_STRING));
}

/** NBD_REP_SERVER: a name and its description in answer to LIST. */
export function serverReply(name: string, description: string | undefined): Uint8Array {
  const nameBytes = encoder.encode(name);
  const text = encoder.encode(description ?? "");
  const data = new Uint8Array(4 + nameBytes.length + text.length);
  viewOf(data).setUint32(0, nameBytes.length);
  data.set(nameBytes, 4);
  data.set(text, 4 + nameBytes.length);
  return optionReply(Opt.list, Rep.server, data);
}

/** NBD_INFO_EXPORT. `size` in bytes. */
export function exportInfo(option: number, size: number, flags: number): Uint8Array {
  const data = new Uint8Array(12);
  const view = viewOf(data);
  view.setUint16(0, Info.export);
  putUint64(view, 2, size);
  view.setUint16(10, flags);
  return optionReply(option, Rep.info, data);
}

/** NBD_INFO_NAME or NBD_INFO_DESCRIPTION. */
export function textInfo(option: number, kind: number, text: string): Uint8Array {
  const bytes = encoder.encode(text);
  const data = new Uint8Array(2 + bytes.length);
  viewOf(data).setUint16(0, kind);
  data.set(bytes, 2);
  return optionReply(option, Rep.info, data);
}

/** NBD_INFO_BLOCK_SIZE: all three in bytes. */
export function blockSizeInfo(
  option: number,
  minimum: number,
  preferred: number,
  maximum: number,
): Uint8Array {
  const data = new Uint8Array(14);
  const view = viewOf(data);
  view.setUint16(0, Info.blockSize);
  view.setUint32(2, minimum);
  view.setUint32(6, preferred);
  view.setUint32(10, maximum);
  return optionReply(option, Rep.info, data);
}

/** NBD_REP_META_CONTEXT. */
export function metaContextReply(option: number, id: number, name: string): Uint8Array {
  const bytes = encoder.encode(name);
  const data = new Uint8Array(4 + bytes.length);
  viewOf(data).setUint32(0, id);
  data.set(bytes, 4);
  return optionReply(option, Rep.metaContext, data);
}

/** The answer to EXPORT_NAME: no header, and 124 zeroes unless the client said NO_ZEROES. */
export function exportNameReply(size: number, flags: number, noZeroes: boolean): Uint8Array {
  const bytes = new Uint8Array(noZeroes ? 10 : 134);
  const view = viewOf(bytes);
  putUint64(view, 0, size);
  view.setUint16(8, flags);
  return bytes;
}

/** What INFO and GO carry. */
export interface InfoRequest {
  readonly name: string;
  /** NBD_INFO_* kinds asked for. */
  readonly kinds: readonly number[];
}

/** The name at the front of an option's data: 32-bit length, then the bytes. */
function takeName(option: number, data: Uint8Array): { name: string; end: number } | string {
  if (data.length < 4) return inconsistent(option);
  const length = viewOf(data).getUint32(0);
  if (length > MAX_STRING) return `Invalid name length: ${length}`;
  if (4 + length > data.length) return inconsistent(option);
  return { name: decoder.decode(data.subarray(4, 4 + length)), end: 4 + length };
}

function inconsistent(option: number): string {
  return `Inconsistent lengths in option ${optionName(option)}`;
}

/** The data of INFO or GO; a string is the text of the error. */
export function parseInfoRequest(option: number, data: Uint8Array): InfoRequest | string {
  const named = takeName(option, data);
  if (typeof named === "string") return named;
  const view = viewOf(data);
  let at = named.end;
  if (at + 2 > data.length) return inconsistent(option);
  const count = view.getUint16(at);
  at += 2;
  if (at + count * 2 > data.length) return inconsistent(option);
  if (at + count * 2 < data.length) {
    return `option '${optionName(option)}' has unexpected length`;
  }
  const kinds: number[] = [];
  for (let i = 0; i < count; i++) kinds.push(view.getUint16(at + 2 * i));
  return { name: named.name, kinds };
}

/** What LIST_META_CONTEXT and SET_META_CONTEXT carry. */
export interface MetaRequest {
  readonly name: string;
  readonly queries: readonly string[];
}

/** The data of LIST/SET_META_CONTEXT; a query longer than a string may be becomes the empty one, which names nothing. */
export function parseMetaRequest(option: number, data: Uint8Array): MetaRequest | string {
  const named = takeName(option, data);
  if (typeof named === "string") return named;
  const view = viewOf(data);
  let at = named.end;
  if (at + 4 > data.length) return inconsistent(option);
  const count = view.getUint32(at);
  at += 4;
  const queries: string[] = [];
  for (let i = 0; i < count; i++) {
    if (at + 4 > data.length) return inconsistent(option);
    const length = view.getUint32(at);
    at += 4;
    if (length > data.length - at) return inconsistent(option);
    const names = length <= MAX_STRING;
    queries.push(names ? decoder.decode(data.subarray(at, at + length)) : "");
    at += length;
  }
  if (at < data.length) return `option '${optionName(option)}' has unexpected length`;
  return { name: named.name, queries };
}
