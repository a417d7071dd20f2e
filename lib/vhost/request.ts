/**
 * One virtio-blk request on its way: what its descriptors said, read once. Records are reused; a queue has as
 * many as it had requests in flight at once.
 */
import { IoVec } from "../base/mod.ts";
import type { GuestMemory } from "./memory.ts";

/** Bytes of a request's header: type u32, reserved u32, sector u64 (virtio 1.2, 5.2.6). */
const BLK_HEADER = 16;
const GUEST_HIGH_LIMIT = 0x20_0000;

/** Whom a record tells about a request that completed later. */
export interface RequestOwner {
  completed(request: BlkRequest): void;
  failed(request: BlkRequest, error: unknown): void;
}

/** A request. */
export class BlkRequest {
  /** Data that the guest wrote for us, behind the header; data that it wants, before the status byte. */
  readonly out: IoVec = new IoVec();
  readonly in: IoVec = new IoVec();
  type = 0;
  /** Bits 0-31 and 32-63 of the first sector. */
  sectorLow = 0;
  sectorHigh = 0;
  /** Head of the chain (split ring), or the buffer's id (packed). */
  head = 0;
  /** Descriptors of the ring that it takes (packed ring). */
  count = 1;
  /** Its entry in the in-flight log of a packed ring. */
  entry = 0;
  /** Part of it lies outside guest memory. */
  outside = false;
  /** The status byte's place; no view: there is none. */
  statusView: DataView | undefined = undefined;
  statusAt = 0;
  /** Status to be given, and bytes that were written into `in`. */
  status = 0;
  written = 0;
  /** Guest address and length of each writable piece, for the log of dirty pages; kept only if `logged`. */
  logged = false;
  readonly dirty: number[] = [];
  /** For `promise.then`: made once. */
  readonly onDone: () => void;
  readonly onFailed: (error: unknown) => void;

  #headerLeft = BLK_HEADER;
  #lastGuest = 0;
  #lastLength = 0;
  /** Bytes of a header that comes in pieces. */
  #pieces: DataView | undefined;

  constructor(owner: RequestOwner) {
    this.onDone = () => owner.completed(this);
    this.onFailed = (error) => owner.failed(this, error);
  }

  /** Whether the whole header was there. */
  get complete(): boolean {
    return this.#headerLeft === 0;
  }

  /** A new chain begins. */
  reset(head: number): void {
    this.head = head;
    this.count = 1;
    this.out.reset();
    this.in.reset();
    this.outside = false;
    this.statusView = undefined;
    this.written = 0;
    this.#headerLeft = BLK_HEADER;
    this.#lastLength = 0;
    if (this.dirty.length > 0) this.dirty.length = 0;
  }

  /**
   * The next descriptor: guest address in two halves, length in bytes. False when the chain is against the rules
   * (readable after writable).
   */
  add(memory: GuestMemory, low: number, high: number, length: number, writable: boolean): boolean {
    if (length === 0) return true;
    const guest = high * 0x1_0000_0000 + low;
    if (high >= GUEST_HIGH_LIMIT) {
      this.outside = true;
      if (writable) this.#lastLength = 0;
      return true;
    }
    if (writable) {
      this.#lastGuest = guest;
      this.#lastLength = length;
      if (this.logged) this.dirty.push(guest, length);
      if (!memory.translate(guest, length, this.in)) this.outside = true;
      return true;
    }
    if (this.#lastLength > 0) return false;
    if (this.#headerLeft > 0) {
      this.#addHeader(memory, guest, length);
    } else if (!memory.translate(guest, length, this.out)) {
      this.outside = true;
    }
    return true;
  }

  #addHeader(memory: GuestMemory, guest: number, length: number): void {
    if (
      this.#headerLeft === BLK_HEADER && length >= BLK_HEADER && memory.locate(guest, BLK_HEADER)
    ) {
      const { view, at } = memory;
      this.type = view.getUint32(at, true);
      this.sectorLow = view.getUint32(at + 8, true);
      this.sectorHigh = view.getUint32(at + 12, true);
      this.#headerLeft = 0;
      if (length === BLK_HEADER) return;
      if (!memory.translate(guest + BLK_HEADER, length - BLK_HEADER, this.out)) this.outside = true;
      return;
    }
    this.#gather(memory, guest, length);
  }

  /** A header in pieces. */
  #gather(memory: GuestMemory, guest: number, length: number): void {
    const pieces = this.#pieces ??= new DataView(new ArrayBuffer(BLK_HEADER));
    const take = Math.min(length, this.#headerLeft);
    for (let i = 0; i < take; i++) {
      if (!memory.locate(guest + i, 1)) {
        this.outside = true;
        return;
      }
      pieces.setUint8(BLK_HEADER - this.#headerLeft, memory.view.getUint8(memory.at));
      this.#headerLeft--;
    }
    if (this.#headerLeft > 0) return;
    this.type = pieces.getUint32(0, true);
    this.sectorLow = pieces.getUint32(8, true);
    this.sectorHigh = pieces.getUint32(12, true);
    if (length === take) return;
    if (!memory.translate(guest + take, length - take, this.out)) this.outside = true;
  }

  /** The chain is complete: the last writable byte is the status. */
  finish(memory: GuestMemory): void {
    const length = this.#lastLength;
    if (length === 0 || !memory.locate(this.#lastGuest + length - 1, 1)) return;
    this.statusView = memory.view;
    this.statusAt = memory.at;
    if (this.outside) return;
    const iov = this.in;
    const last = iov.count - 1;
    iov.total--;
    if (--iov.lengths[last]! === 0) iov.count = last;
  }
}
