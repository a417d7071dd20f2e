/** What split and packed rings have in common: see split.ts and packed.ts. */
import type { Sys } from "../sys/mod.ts";
import type { DirtyLog } from "./dirty.ts";
import type { InflightRegion } from "./inflight.ts";
import type { GuestMemory } from "./memory.ts";
import type { BlkRequest } from "./request.ts";

/** Descriptor flag (virtio 1.2, 2.7.5 and 2.8.5): the chain goes on. */
export const DESC_NEXT = 1;
/** Descriptor flag: the device writes. */
export const DESC_WRITE = 2;
/** Descriptor flag: a table of descriptors. */
export const DESC_INDIRECT = 4;
/** Bytes of a descriptor, in rings and in indirect tables. */
export const DESC_SIZE = 16;
/** Most descriptors of one request, those of an indirect table included. */
export const MAX_CHAIN = 1024;
/** Largest ring (virtio 1.2, 2.7). */
export const MAX_QUEUE_SIZE = 32768;

/** What a driver did to its ring is against the rules: the queue stops. */
export class RingError extends Error {
  override readonly name = "RingError";
}

/** What a ring is made of. Addresses are mapped ones. */
export interface RingParts {
  readonly sys: Sys;
  readonly memory: GuestMemory;
  /** Descriptors. */
  readonly size: number;
  /** Descriptor table (split) or ring (packed). */
  readonly descriptor: number;
  /** Available ring, or the driver's event suppression. */
  readonly available: number;
  /** Used ring, or the device's event suppression. */
  readonly used: number;
  readonly eventIdx: boolean;
  readonly indirect: boolean;
  readonly inflight: InflightRegion | undefined;
  /** Where the driver's writes begin to be logged, if they are: SET_VRING_ADDR's `log`. */
  readonly log: DirtyLog | undefined;
  readonly logGuest: number;
}

/** A ring as a queue uses it. What takes a request throws RingError when the driver broke the rules. */
export interface Ring {
  /** Whether a request can be taken. */
  available(): boolean;
  /** Takes the next one. */
  take(request: BlkRequest): void;
  /** Stages a request as used; `written`: bytes of its writable part. */
  push(request: BlkRequest): void;
  /** Shows the driver what was staged. Whether it wants to be notified of all since the last notification. */
  publish(): boolean;
  /** Asks not to be notified of new requests. */
  suspend(): void;
  /** Asks to be notified. Whether requests came in the meantime: then no notification may come for them. */
  resume(): boolean;
  /** Requests that were in flight when the region was last used, oldest first; taken into `make()`'s records. */
  recover(make: () => BlkRequest): BlkRequest[];
  /** GET_VRING_BASE. */
  readonly base: number;
  /** Whether nothing is available and nothing in flight would be the only reason to notify (NOTIFY_ON_EMPTY). */
  readonly drained: boolean;
}

/** Walks an indirect table (split: by `next`; packed: in order). Throws RingError. */
export function walkTable(
  memory: GuestMemory,
  low: number,
  high: number,
  length: number,
  linked: boolean,
  request: BlkRequest,
): void {
  const count = length / DESC_SIZE;
  if (!Number.isInteger(count) || count === 0 || count > MAX_QUEUE_SIZE) {
    throw new RingError(`an indirect table of ${length} bytes`);
  }
  if (high >= 0x20_0000 || !memory.locate(high * 0x1_0000_0000 + low, length)) {
    throw new RingError("an indirect table outside guest memory");
  }
  const { view, at } = memory;
  let steps = Math.min(count, MAX_CHAIN);
  if (!linked && count > MAX_CHAIN) throw new RingError("a descriptor chain that is too long");
  for (let i = 0;;) {
    const entry = at + i * DESC_SIZE;
    const size = view.getUint32(entry + 8, true);
    const tail = view.getUint32(entry + 12, true);
    const flags = linked ? tail & 0xffff : tail >>> 16;
    if ((flags & DESC_INDIRECT) !== 0) throw new RingError("an indirect table in another");
    const addressLow = view.getUint32(entry, true);
    const addressHigh = view.getUint32(entry + 4, true);
    if (!request.add(memory, addressLow, addressHigh, size, (flags & DESC_WRITE) !== 0)) {
      throw new RingError("a readable descriptor behind a writable one");
    }
    if (linked) {
      if ((flags & DESC_NEXT) === 0) return;
      i = tail >>> 16;
      if (i >= count) throw new RingError(`descriptor ${i} of an indirect table of ${count}`);
    } else if (++i === count) {
      return;
    }
    if (--steps === 0) throw new RingError("a descriptor chain that loops or is too long");
  }
}
