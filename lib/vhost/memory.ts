/**
 * Guest memory: the regions that a front-end shares, mapped, and the way from guest and user addresses into
 * them. Data is only ever named by address; request headers, descriptor tables and status bytes are read and
 * written through DataViews that are made once per region and GiB.
 *
 * Nothing may use a view or an address after its region was unmapped: the session waits for all requests first. What
 * a thread that has failed may still be at work in stays mapped (BufferPool.surrender).
 */
import { alignDown, alignUp, type IoVec, viewOf } from "../base/mod.ts";
import {
  type BufferPool,
  errnoText,
  MADV,
  type Memory,
  type MemoryGuard,
  type Sys,
} from "../sys/mod.ts";
import { mappedUnit } from "./mapped.ts";
import type { SharedRegion } from "./shared.ts";
import { ProtocolError, type RegionDescription } from "./wire.ts";

/** Bytes of one view. */
const CHUNK = 2 ** 30;
/** Views overlap by this much, so that whatever is not larger lies in one of them. */
const OVERLAP = 2 ** 20;
/** Most regions at a time, as GET_MAX_MEM_SLOTS tells: as many as newer back-ends offer. */
export const MAX_SLOTS = 509;

/** What unmaps a region: its mapping, and the pool that knows whether somebody may still be at work there. */
export interface OwnedMapping {
  readonly mapping: Memory;
  readonly buffers: Pick<BufferPool, "surrendered">;
}

/** One mapped region. */
export class Region {
  readonly guest: number;
  readonly guestEnd: number;
  readonly user: number;
  readonly size: number;
  /** Where its first byte is mapped. */
  readonly address: number;
  readonly #sys: Sys;
  readonly #owned: OwnedMapping | undefined;
  readonly #guard: MemoryGuard;
  readonly #views: DataView[] = [];

  /** `owned`: what is unmapped with it; undefined: another thread's session sees to that. */
  constructor(
    sys: Sys,
    address: number,
    description: Omit<RegionDescription, "offset">,
    owned?: OwnedMapping,
  ) {
    this.#sys = sys;
    this.#owned = owned;
    this.#guard = owned === undefined ? sys.guardAt(address) : sys.guard(owned.mapping);
    this.guest = description.guest;
    this.size = description.size;
    this.guestEnd = description.guest + description.size;
    this.user = description.user;
    this.address = address;
  }

  /** View number `index`: from `index` GiB on. */
  view(index: number): DataView {
    const found = this.#views[index];
    if (found !== undefined) return found;
    const start = index * CHUNK;
    const bytes = this.#sys.viewAt(
      this.address + start,
      Math.min(CHUNK + OVERLAP, this.size - start),
    );
    return this.#views[index] = viewOf(bytes);
  }

  /** Whether the front-end took it away, having shortened its file. */
  get lost(): boolean {
    return this.#guard.lost;
  }

  unmap(): void {
    this.#views.length = 0;
    const owned = this.#owned;
    if (owned === undefined || owned.buffers.surrendered(owned.mapping)) return;
    this.#guard.release();
    owned.mapping.unmap();
  }
}

/** Maps a region; `fd` stays the caller's. Throws ProtocolError. */
export function mapRegion(
  { sys, buffers }: { readonly sys: Sys; readonly buffers: OwnedMapping["buffers"] },
  fd: number,
  description: RegionDescription,
): Region {
  const { offset, size } = description;
  const stat = sys.fstat(fd);
  if (typeof stat === "number") throw new ProtocolError(`memory region: ${errnoText(-stat)}`);
  // Beyond the end of a file there is nothing; what is cut off later the guard is for.
  if (stat.kind === "file" && offset + size > stat.size) {
    throw new ProtocolError(`memory region of ${size} bytes at ${offset} in ${stat.size} bytes`);
  }
  const page = mappedUnit(stat);
  const start = alignDown(offset, page);
  const mapping = sys.map(fd, start, alignUp(offset + size - start, page), true);
  if (typeof mapping === "number") {
    throw new ProtocolError(`memory region cannot be mapped: ${errnoText(-mapping)}`);
  }
  sys.madvise(mapping.address, mapping.length, MADV.DONTDUMP);
  return new Region(sys, mapping.address + (offset - start), description, { mapping, buffers });
}

/** All regions of a session. */
export class GuestMemory {
  /** What `locate` found. */
  view: DataView = new DataView(new ArrayBuffer(0));
  at = 0;
  #regions: Region[] = [];
  /** The region of the last hit; undefined only while there is none. */
  #last: Region | undefined;

  /** Regions, in the order in which they came. */
  get regions(): readonly Region[] {
    return this.#regions;
  }

  /** The memory of a session in another thread. */
  static borrow(sys: Sys, regions: readonly SharedRegion[]): GuestMemory {
    const memory = new GuestMemory();
    for (const region of regions) memory.add(new Region(sys, region.address, region));
    return memory;
  }

  /** For `borrow`. */
  share(): SharedRegion[] {
    return this.#regions.map(({ guest, user, size, address }) => ({ guest, user, size, address }));
  }

  /** Adds a region. Throws ProtocolError when it overlaps another in guest memory, or there are too many. */
  add(region: Region): void {
    if (this.#regions.length >= MAX_SLOTS) throw new ProtocolError("too many memory regions");
    for (const other of this.#regions) {
      if (region.guest < other.guestEnd && other.guest < region.guestEnd) {
        throw new ProtocolError("memory regions overlap");
      }
    }
    this.#regions.push(region);
    this.#last = region;
  }

  /** Whether part of it was taken away. */
  get lost(): boolean {
    const regions = this.#regions;
    for (let i = 0; i < regions.length; i++) if (regions[i]!.lost) return true;
    return false;
  }

  /** The region with just these addresses and size. */
  find(wanted: RegionDescription): Region | undefined {
    return this.#regions.find((region) =>
      region.guest === wanted.guest && region.size === wanted.size && region.user === wanted.user
    );
  }

  /** Addresses, one in each region, of those in which somebody who cannot be waited for may be at work. */
  surrendered(buffers: OwnedMapping["buffers"]): number[] {
    return this.#regions.filter(({ address, size }) =>
      buffers.surrendered({ address, length: size })
    )
      .map(({ address }) => address);
  }

  /** Takes a region out and unmaps it. */
  remove(region: Region): void {
    this.#regions = this.#regions.filter((other) => other !== region);
    this.#last = this.#regions[0];
    region.unmap();
  }

  /** Unmaps all. */
  clear(): void {
    for (const region of this.#regions) region.unmap();
    this.#regions = [];
    this.#last = undefined;
  }

  /** Where [user, user+length) of the front-end's memory is mapped; -1 where it is not, or not in one region. */
  userAddress(user: number, length: number): number {
    for (const region of this.#regions) {
      const offset = user - region.user;
      if (offset >= 0 && offset + length <= region.size) return region.address + offset;
    }
    return -1;
  }

  /** The guest address of a user address; -1 where there is none. */
  guestAddress(user: number): number {
    for (const region of this.#regions) {
      const offset = user - region.user;
      if (offset >= 0 && offset < region.size) return region.guest + offset;
    }
    return -1;
  }

  /** Appends [guest, guest+length) to `iov`, `length` > 0. False where it is not mapped: `iov` is then undefined. */
  translate(guest: number, length: number, iov: IoVec): boolean {
    const last = this.#last;
    if (last !== undefined && guest >= last.guest && guest + length <= last.guestEnd) {
      iov.add(last.address + (guest - last.guest), length);
      return true;
    }
    return this.#translateSlowly(guest, length, iov);
  }

  #translateSlowly(guest: number, length: number, iov: IoVec): boolean {
    // A buffer may lie in several regions that follow each other.
    while (length > 0) {
      const region = this.#regionAt(guest);
      if (region === undefined) return false;
      const part = Math.min(length, region.guestEnd - guest);
      iov.add(region.address + (guest - region.guest), part);
      guest += part;
      length -= part;
    }
    return true;
  }

  #regionAt(guest: number): Region | undefined {
    for (const region of this.#regions) {
      if (guest >= region.guest && guest < region.guestEnd) return this.#last = region;
    }
    return undefined;
  }

  /**
   * Finds the view of [guest, guest+length), 0 < length <= 1 MiB, for `view` and `at`. False where it is not
   * mapped or not in one region.
   */
  locate(guest: number, length: number): boolean {
    let region = this.#last;
    if (region === undefined || guest < region.guest || guest >= region.guestEnd) {
      region = this.#regionAt(guest);
      if (region === undefined) return false;
    }
    if (guest + length > region.guestEnd) return false;
    const offset = guest - region.guest;
    if (offset < CHUNK) {
      this.view = region.view(0);
      this.at = offset;
    } else {
      const index = Math.floor(offset / CHUNK);
      this.view = region.view(index);
      this.at = offset - index * CHUNK;
    }
    return true;
  }
}
