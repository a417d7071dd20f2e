/** Which requests are refused before they reach the block layer, with what error and which words. */
import { Cmd, CmdFlag, commandName, Framing, MAX_PAYLOAD, NbdErrno } from "./wire.ts";
import type { RequestHeader } from "./wire.ts";

/** An error for the client: its NBD value and text for people. */
export interface Refusal {
  readonly error: number;
  readonly text: string;
}

/** What of an export and a connection matters to a request's validity. */
export interface CheckContext {
  /** Bytes. */
  readonly size: number;
  readonly writable: boolean;
  readonly framing: Framing;
  /** Number of negotiated metadata contexts. */
  readonly contexts: number;
}

const invalid = (text: string): Refusal => ({ error: NbdErrno.EINVAL, text });

/** Command flags that each command takes; FUA is allowed everywhere. */
function allowedFlags(type: number, framing: Framing): number {
  const payload = framing === Framing.extended ? CmdFlag.payloadLen : 0;
  switch (type) {
    case Cmd.read:
      return CmdFlag.fua | (framing === Framing.simple ? 0 : CmdFlag.df);
    case Cmd.write:
      return CmdFlag.fua | payload;
    case Cmd.writeZeroes:
      return CmdFlag.fua | CmdFlag.noHole | CmdFlag.fastZero;
    case Cmd.blockStatus:
      return CmdFlag.fua | CmdFlag.reqOne | payload;
    default:
      return CmdFlag.fua;
  }
}

/** Bytes of payload that follow the header, whether the request is valid or not. */
export function payloadLength(header: RequestHeader, framing: Framing): number {
  if (framing === Framing.extended) {
    return (header.flags & CmdFlag.payloadLen) !== 0 ? header.length : 0;
  }
  return header.type === Cmd.write ? header.length : 0;
}

/**
 * The refusal of an invalid request. Errors are those of the protocol document: EPERM for changes to a
 * read-only export, ENOSPC for writes past the end, EINVAL else. For a BLOCK_STATUS with payload the length
 * is the payload's, and the effect is checked once it is known (`checkStatusRange`).
 */
export function checkRequest(header: RequestHeader, on: CheckContext): Refusal | undefined {
  const { type, flags, offset, length } = header;
  if (type > Cmd.blockStatus) return invalid(`invalid request type (${type}) received`);
  const bounded = type === Cmd.read || type === Cmd.write || type === Cmd.cache;
  if (bounded && length > MAX_PAYLOAD) {
    return invalid(`len (${length} ) is larger than max len (${MAX_PAYLOAD})`);
  }
  const changes = type === Cmd.write || type === Cmd.trim || type === Cmd.writeZeroes;
  if (changes && !on.writable) {
    return { error: NbdErrno.EPERM, text: "Export is read-only" };
  }
  const withPayload = type === Cmd.blockStatus && (flags & CmdFlag.payloadLen) !== 0;
  if (type !== Cmd.flush && !withPayload && offset + length > on.size) {
    return pastEnd(header, length, on.size);
  }
  const bad = flags & ~allowedFlags(type, on.framing);
  if (bad !== 0) {
    const got = (flags & 0xffff).toString(16);
    return invalid(`unsupported flags for command ${commandName(type)} (got 0x${got})`);
  }
  if (type === Cmd.write && on.framing === Framing.extended && length > 0) {
    if ((flags & CmdFlag.payloadLen) === 0) {
      return invalid("NBD_CMD_WRITE without NBD_CMD_FLAG_PAYLOAD_LEN");
    }
  }
  if (type === Cmd.blockStatus) {
    if (on.contexts === 0) return invalid("CMD_BLOCK_STATUS not negotiated");
    if (length === 0) return invalid("need non-zero length");
  }
  return undefined;
}

/** As checkRequest, for the effect of a BLOCK_STATUS that came in its payload. */
export function checkStatusRange(
  header: RequestHeader,
  length: number,
  size: number,
): Refusal | undefined {
  if (length === 0) return invalid("need non-zero length");
  return header.offset + length > size ? pastEnd(header, length, size) : undefined;
}

function pastEnd(header: RequestHeader, length: number, size: number): Refusal {
  const full = header.type === Cmd.write || header.type === Cmd.writeZeroes;
  // BigInt: an offset near 2^64 has no short exact form as a number.
  const from = BigInt(header.offset);
  return {
    error: full ? NbdErrno.ENOSPC : NbdErrno.EINVAL,
    text: `operation past EOF; From: ${from}, Len: ${length}, Size: ${size}`,
  };
}
