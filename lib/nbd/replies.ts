/** Writes replies in the negotiated framing into a connection's Output. */
import { assert } from "../base/mod.ts";
import type { Output, Region } from "./output.ts";
import {
  Chunk,
  chunkHeaderSize,
  Framing,
  MAX_STRING,
  putChunk,
  putSimpleReply,
  putUint64,
  REPLY_FLAG_DONE,
  type RequestHeader,
  SIMPLE_REPLY_SIZE,
} from "./wire.ts";

const encoder = new TextEncoder();

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

/** Replies of one connection. */
export class Replies {
  /** Bytes before the data of a READ reply: header, and the offset in chunks. */
  readonly dataHeader: number;
  readonly #chunkHeader: number;

  constructor(readonly output: Output, readonly framing: Framing) {
    this.#chunkHeader = chunkHeaderSize(framing);
    this.dataHeader = framing === Framing.simple ? SIMPLE_REPLY_SIZE : this.#chunkHeader + 8;
  }

  /** The request succeeded and has no data. Simple replies are allowed here without extended headers. */
  ok(to: Cookie): void {
    if (this.framing === Framing.extended) return this.done(to);
    const out = this.output;
    out.reserve(SIMPLE_REPLY_SIZE);
    putSimpleReply(out.view, out.at, 0, to.cookieHigh, to.cookieLow);
    out.commit(SIMPLE_REPLY_SIZE);
  }

  /** A final chunk without content (structured and extended only). */
  done(to: Cookie): void {
    const out = this.output;
    out.reserve(this.#chunkHeader);
    this.#chunk(out.view, out.at, to, REPLY_FLAG_DONE, Chunk.none, 0);
    out.commit(this.#chunkHeader);
  }

  /** The request failed; final. `text` is for people. */
  error(to: Cookie, error: number, text: string): void {
    assert(error !== 0);
    const out = this.output;
    if (this.framing === Framing.simple) {
      out.reserve(SIMPLE_REPLY_SIZE);
      putSimpleReply(out.view, out.at, error, to.cookieHigh, to.cookieLow);
      out.commit(SIMPLE_REPLY_SIZE);
      return;
    }
    const message = encoder.encode(text).subarray(0, MAX_STRING);
    const payload = 6 + message.length;
    out.reserve(this.#chunkHeader + payload);
    const { view, at } = out;
    this.#chunk(view, at, to, REPLY_FLAG_DONE, Chunk.error, payload);
    view.setUint32(at + this.#chunkHeader, error);
    view.setUint16(at + this.#chunkHeader + 4, message.length);
    new Uint8Array(view.buffer, view.byteOffset + at + this.#chunkHeader + 6).set(message);
    out.commit(this.#chunkHeader + payload);
  }

  /**
   * Writes the header of READ data at `at`: a simple reply, or an OFFSET_DATA chunk for `length` bytes of
   * the export at `position`.
   */
  putDataHeader(
    view: DataView,
    at: number,
    to: Cookie,
    position: number,
    length: number,
    last: boolean,
  ): void {
    if (this.framing === Framing.simple) {
      putSimpleReply(view, at, 0, to.cookieHigh, to.cookieLow);
      return;
    }
    this.#chunk(view, at, to, last ? REPLY_FLAG_DONE : 0, Chunk.offsetData, length + 8);
    putUint64(view, at + this.#chunkHeader, position);
  }

  /** Queues data that was read into a region, with its header. */
  dataInRegion(
    region: Region,
    to: Cookie,
    position: number,
    length: number,
    last: boolean,
  ): void {
    this.putDataHeader(region.view, region.start, to, position, length, last);
    this.output.commitRegion(region, this.dataHeader + length);
  }

  /** An OFFSET_HOLE chunk: `length` bytes (below 2^32) at `position` read as zeroes. */
  hole(to: Cookie, position: number, length: number, last: boolean): void {
    const out = this.output;
    out.reserve(this.#chunkHeader + 12);
    const { view, at } = out;
    this.#chunk(view, at, to, last ? REPLY_FLAG_DONE : 0, Chunk.offsetHole, 12);
    putUint64(view, at + this.#chunkHeader, position);
    view.setUint32(at + this.#chunkHeader + 8, length);
    out.commit(this.#chunkHeader + 12);
  }

  /**
   * A BLOCK_STATUS chunk for one context: lengths (bytes) and flags of `count` extents. Extended framing
   * uses 64-bit lengths.
   */
  extents(
    to: Cookie,
    context: number,
    lengths: readonly number[],
    flags: readonly number[],
    count: number,
    last: boolean,
  ): void {
    const extended = this.framing === Framing.extended;
    const payload = extended ? 8 + 16 * count : 4 + 8 * count;
    const out = this.output;
    out.reserve(this.#chunkHeader + payload);
    const { view } = out;
    const type = extended ? Chunk.blockStatusExt : Chunk.blockStatus;
    this.#chunk(view, out.at, to, last ? REPLY_FLAG_DONE : 0, type, payload);
    let at = out.at + this.#chunkHeader;
    view.setUint32(at, context);
    if (extended) view.setUint32(at + 4, count);
    at += extended ? 8 : 4;
    for (let i = 0; i < count; i++) {
      if (extended) {
        putUint64(view, at, lengths[i]!);
        putUint64(view, at + 8, flags[i]!);
        at += 16;
      } else {
        view.setUint32(at, lengths[i]!);
        view.setUint32(at + 4, flags[i]!);
        at += 8;
      }
    }
    out.commit(this.#chunkHeader + payload);
  }

  #chunk(view: DataView, at: number, to: Cookie, flags: number, type: number, length: number) {
    putChunk(
      view,
      at,
      this.framing,
      flags,
      type,
      to.cookieHigh,
      to.cookieLow,
      to.offset,
      length,
    );
  }
}
