/** Writes replies in the negotiated framing into a connection's Output. */
import { assert } from "../base/mod.ts";
import type { Output, Region } from "./output.ts";
import {
  Chunk,
  chunkHeaderSize,
  type Cookie,
  Framing,
  MAX_STRING,
  putChunk,
  putSimpleReply,
  putUint64,
  SIMPLE_REPLY_SIZE,
} from "./wire.ts";

const encoder = new TextEncoder();

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
    if (this.framing === Framing.extended) this.done(to);
    else this.#simple(to, 0);
  }

  #simple(to: Cookie, error: number): void {
    const out = this.output;
    out.reserve(SIMPLE_REPLY_SIZE);
    putSimpleReply(out.view, out.at, error, to);
    out.commit(SIMPLE_REPLY_SIZE);
  }

  /** A final chunk without content (structured and extended only). */
  done(to: Cookie): void {
    this.#begin(to, true, Chunk.none, 0);
    this.output.commit(this.#chunkHeader);
  }

  /** The request failed; final. `text` is for people. */
  error(to: Cookie, error: number, text: string): void {
    assert(error !== 0);
    if (this.framing === Framing.simple) return this.#simple(to, error);
    const message = encoder.encode(text).subarray(0, MAX_STRING);
    const payload = 6 + message.length;
    const at = this.#begin(to, true, Chunk.error, payload);
    const { view } = this.output;
    view.setUint32(at, error);
    view.setUint16(at + 4, message.length);
    new Uint8Array(view.buffer, view.byteOffset + at + 6).set(message);
    this.output.commit(this.#chunkHeader + payload);
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
      return putSimpleReply(view, at, 0, to);
    }
    putChunk(view, at, this.framing, to, last, Chunk.offsetData, length + 8);
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
    const at = this.#begin(to, last, Chunk.offsetHole, 12);
    const { view } = this.output;
    putUint64(view, at, position);
    view.setUint32(at + 8, length);
    this.output.commit(this.#chunkHeader + 12);
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
    const type = extended ? Chunk.blockStatusExt : Chunk.blockStatus;
    let at = this.#begin(to, last, type, payload);
    const { view } = this.output;
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
    this.output.commit(this.#chunkHeader + payload);
  }

  /** Makes room for a chunk, and writes its header. Where the payload goes in the output's view. */
  #begin(to: Cookie, last: boolean, type: number, payload: number): number {
    const out = this.output;
    out.reserve(this.#chunkHeader + payload);
    putChunk(out.view, out.at, this.framing, to, last, type, payload);
    return out.at + this.#chunkHeader;
  }
}
