/**
 * Bytes received from a client and not yet used. The buffer is native memory, so that payloads are written
 * from where they were received; it is held only while it has something in it, or in use by a write.
 */
import { assert } from "../base/mod.ts";
import type { BufferPool } from "../sys/mod.ts";
import { Slab } from "./slab.ts";
import type { Transport } from "./transport.ts";

/** Largest piece of a payload that is received and written at once. */
export const INPUT_PIECE = 256 * 1024;
/** A payload that follows a header at the front of the buffer begins here: on a page. */
const PAYLOAD_AT = 4096;
/** Bytes of the buffer: a header and a piece, with the piece on a page. */
const CAPACITY = PAYLOAD_AT + INPUT_PIECE + 4096;
/** What an idle connection keeps of an incomplete message. */
const CARRY = 32;

/** The receive buffer of one connection. */
export class Input {
  /** Where the unused bytes begin and end in `view`. */
  at = 0;
  end = 0;
  view: DataView = new DataView(new ArrayBuffer(0));
  /** Most bytes to have at once: less than all when large writes are expected, so that they stay aligned. */
  limit = CAPACITY;
  /** Whether the last `receive` got less than it asked for: the stream is empty. */
  drained = false;
  /** Bytes before a payload that is to be on a page. */
  headerSize = 28;

  readonly #pool: BufferPool;
  readonly #transport: Transport;
  #slab: Slab | undefined;
  readonly #carry = new Uint8Array(CARRY);
  #carried = 0;

  constructor(pool: BufferPool, transport: Transport) {
    this.#pool = pool;
    this.#transport = transport;
  }

  /** Unused bytes. */
  get available(): number {
    return this.end - this.at + this.#carried;
  }

  /** The memory of the unused bytes; only while there are any. */
  get slab(): Slab {
    assert(this.#slab !== undefined);
    return this.#slab;
  }

  /** Address of the first unused byte. */
  get address(): number {
    return this.slab.memory.address + this.at;
  }

  /** Receives as much as there is, up to the limit. Bytes, 0 at the end of the stream, or -errno. */
  receive(): number {
    const slab = this.#ready();
    const room = slab.memory.length - this.end;
    const wanted = Math.max(1, Math.min(room, this.limit - (this.end - this.at)));
    assert(room > 0);
    const received = this.#transport.receive(slab.memory.address + this.end, wanted);
    this.drained = received < wanted;
    if (received > 0) this.end += received;
    return received;
  }

  /** Receives at most `length` bytes to `address`; as `receive`. */
  receiveAt(address: number, length: number): number {
    return this.#transport.receive(address, length);
  }

  /** A slab with room behind `end`. */
  #ready(): Slab {
    let slab = this.#slab;
    if (slab !== undefined && this.at === this.end) {
      if (!slab.exclusive) {
        slab.release();
        slab = this.#slab = undefined;
      } else {
        this.at = this.end = PAYLOAD_AT - this.headerSize;
      }
    }
    if (slab === undefined) return this.#fresh();
    if (this.end === slab.memory.length) this.#move();
    return this.slab;
  }

  #fresh(): Slab {
    const slab = this.#slab = new Slab(this.#pool, CAPACITY);
    this.view = slab.memory.view;
    this.at = this.end = PAYLOAD_AT - this.headerSize;
    if (this.#carried > 0) {
      slab.memory.bytes.set(this.#carry.subarray(0, this.#carried), this.at);
      this.end += this.#carried;
      this.#carried = 0;
    }
    return slab;
  }

  /** Moves the unused bytes to the front of a new buffer (the old one may be in use by writes). */
  #move(): void {
    const old = this.slab;
    const bytes = old.memory.bytes.subarray(this.at, this.end);
    const slab = this.#fresh();
    assert(bytes.length <= slab.memory.length - this.at);
    slab.memory.bytes.set(bytes, this.at);
    this.end = this.at + bytes.length;
    old.release();
  }

  /** Whether `length` bytes (far less than the buffer) are there, in one piece. If not, makes room for them. */
  require(length: number): boolean {
    if (this.#carried > 0) this.#fresh();
    if (this.end - this.at >= length) return true;
    if (this.#slab !== undefined && this.at + length > this.#slab.memory.length) this.#move();
    return false;
  }

  /** The first `length` unused bytes, valid until the next call. */
  peek(length: number): Uint8Array {
    assert(this.end - this.at >= length);
    return this.slab.memory.bytes.subarray(this.at, this.at + length);
  }

  /** Uses up at most `length` bytes. Returns how many. */
  skip(length: number): number {
    if (this.#carried > 0) this.#fresh();
    const skipped = Math.min(length, this.end - this.at);
    this.at += skipped;
    return skipped;
  }

  /** The next four bytes. */
  takeUint32(): number {
    assert(this.end - this.at >= 4);
    this.at += 4;
    return this.view.getUint32(this.at - 4);
  }

  /**
   * Gives all unused bytes away, in a slab that has room for `length` bytes from where they begin. The
   * caller owns the slab then.
   */
  takeOver(length: number): { slab: Slab; base: number; filled: number } {
    if (this.#carried > 0) this.#fresh();
    const slab = this.#slab;
    const filled = this.end - this.at;
    if (slab !== undefined && slab.exclusive) {
      if (filled === 0) this.at = PAYLOAD_AT;
      if (this.at + length <= slab.memory.length) {
        const base = this.at;
        this.#slab = undefined;
        this.at = this.end = 0;
        return { slab, base, filled };
      }
    }
    const own = new Slab(this.#pool, CAPACITY);
    if (filled > 0) own.memory.bytes.set(this.peek(filled), PAYLOAD_AT);
    this.at = this.end;
    return { slab: own, base: PAYLOAD_AT, filled };
  }

  /** Takes a slab back that is not needed any more. */
  giveBack(slab: Slab): void {
    if (this.#slab !== undefined || !slab.exclusive) return slab.release();
    this.#slab = slab;
    this.view = slab.memory.view;
    this.at = this.end = PAYLOAD_AT - this.headerSize;
  }

  /** Gives memory back that holds nothing much: an idle connection keeps none. */
  trim(): void {
    const left = this.end - this.at;
    if (this.#slab === undefined || left > CARRY) return;
    if (left > 0) this.#carry.set(this.#slab.memory.bytes.subarray(this.at, this.end));
    this.#carried = left;
    this.close();
  }

  /** Bytes that were received elsewhere: the first ones. */
  preload(bytes: Uint8Array): void {
    const slab = this.#fresh();
    assert(bytes.length <= slab.memory.length - this.at);
    slab.memory.bytes.set(bytes, this.at);
    this.end = this.at + bytes.length;
  }

  /** All unused bytes, copied; there are none afterwards. */
  takeAll(): Uint8Array {
    if (this.#carried > 0) this.#fresh();
    const bytes = this.end === this.at ? new Uint8Array(0) : this.peek(this.end - this.at).slice();
    this.at = this.end;
    return bytes;
  }

  /** Gives back everything. */
  close(): void {
    this.#slab?.release();
    this.#slab = undefined;
    this.at = this.end = 0;
  }
}
