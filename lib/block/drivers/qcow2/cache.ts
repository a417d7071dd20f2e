/**
 * A bounded cache of table slices (parts of L2 tables, refcount blocks) in native memory. A slice is known by
 * its number (`key`), not by where it lies: a table that moves takes its slices along.
 *
 * Changes stay here until commit.ts writes them. Slices that are dirty or being written are never evicted; when
 * nothing else is left, whoever needs room waits for a commit. Eviction gives each slice a second chance.
 */
import { alignDown, alignUp, assert, IoVec, type MaybePromise } from "../../../base/mod.ts";
import type { Context, Memory, TracePoint } from "../../../sys/mod.ts";
import type { Child } from "../../mod.ts";
import { StagedSlices } from "./staged.ts";
import { cacheReadTrace } from "./traces.ts";

/** Bit of `Slot.used`: read since the hand came by, and since the last cleaning. */
const USED = 3;
const USED_SINCE_CLEANING = 2;
/** MADV_DONTNEED: the pages' contents are not needed any more. */
const MADV_DONTNEED = 4;
const PAGE = 4096;
/** Unit in which slices are written, in bytes (a whole slice, if that is smaller). */
const WRITE_UNIT = 4096;

/** Room for one slice. */
export class Slot {
  /** Number of the slice; -1: free. */
  key = -1;
  /** Where it lies in the image file, in bytes. */
  host = 0;
  used = 0;
  /** Changed bytes [dirtyFrom, dirtyTo) that no commit has taken; none when equal. */
  dirtyFrom = 0;
  dirtyTo = 0;
  /** A commit is writing it. */
  writing = false;
  loading: Promise<void> | undefined;
  /** Forgotten while it was being loaded or written. */
  stale = false;

  /** `base`: offset of the room in the cache's view. */
  constructor(readonly base: number) {}

  get dirty(): boolean {
    return this.dirtyTo > this.dirtyFrom;
  }
}

/** What a cache is made of. */
export interface CacheParts {
  readonly context: Context;
  readonly file: Child;
  /** Bytes of a slice; number of slices, at least 2. */
  readonly sliceSize: number;
  readonly capacity: number;
  /** Writes what is dirty: room is needed. */
  relieve(): Promise<void>;
}

/** The cache. Entries are big-endian in `view`, at `slot.base`. */
export class TableCache {
  readonly #parts: CacheParts;
  readonly #memory: Memory;
  readonly #reading: TracePoint;
  readonly view: DataView;
  readonly sliceSize: number;
  readonly #slots: Slot[] = [];
  readonly #free: Slot[] = [];
  readonly #index = new Map<number, Slot>();
  readonly #dirty = new Set<Slot>();
  readonly #loading = new Set<Promise<void>>();
  #writing = 0;
  #hand = 0;

  constructor(parts: CacheParts) {
    this.#parts = parts;
    this.sliceSize = parts.sliceSize;
    assert(parts.capacity >= 2, "a cache of two slices at least");
    this.#memory = parts.context.sys.allocate(parts.sliceSize * parts.capacity);
    this.view = this.#memory.view;
    this.#reading = cacheReadTrace(parts.context);
  }

  get capacity(): number {
    return this.#parts.capacity;
  }
  /** Slices that are dirty, or being written. */
  get unstable(): number {
    return this.#dirty.size + this.#writing;
  }
  get hasDirty(): boolean {
    return this.#dirty.size > 0;
  }
  /** Slices that are in memory. */
  get cached(): number {
    return this.#index.size;
  }

  /** The slice, if it is there. */
  peek(key: number): Slot | undefined {
    const slot = this.#index.get(key);
    if (slot === undefined || slot.loading !== undefined) return undefined;
    slot.used = USED;
    return slot;
  }

  /**
   * The slice, which lies at `host`; or a promise after which to ask again (the slice may be evicted or moved by
   * then). Throws or rejects with a BlockError when it cannot be read.
   */
  get(key: number, host: number): Slot | Promise<void> {
    const found = this.#index.get(key);
    if (found !== undefined) {
      if (found.loading !== undefined) return found.loading;
      found.used = USED;
      return found;
    }
    const slot = this.#claim();
    if (slot === undefined) return this.#room();
    this.#enter(slot, key, host);
    if (this.#reading.enabled) this.#reading.emit(`offset ${host} bytes ${this.sliceSize}`);
    const iov = IoVec.of(this.#memory.address + slot.base, this.sliceSize);
    let result: MaybePromise<void>;
    try {
      result = this.#parts.file.read(host, iov, 0);
    } catch (error) {
      this.#forget(slot);
      throw error;
    }
    if (result === undefined) return slot;
    const loading: Promise<void> = result.then(() => {
      this.#loading.delete(loading);
      slot.loading = undefined;
      if (slot.stale) this.#reuse(slot);
    }, (error) => {
      this.#loading.delete(loading);
      slot.loading = undefined;
      if (slot.stale) this.#reuse(slot);
      else this.#forget(slot);
      throw error;
    });
    slot.loading = loading;
    this.#loading.add(loading);
    return loading;
  }

  /** A slice of zeroes that is not read; dirty. Or a promise after which to ask again. */
  create(key: number, host: number): Slot | Promise<void> {
    assert(!this.#index.has(key), "a new slice is cached already");
    const slot = this.#claim();
    if (slot === undefined) return this.#room();
    this.#enter(slot, key, host);
    this.#parts.context.sys.fill(this.#memory.address + slot.base, 0, this.sliceSize);
    this.dirty(slot, 0, this.sliceSize);
    return slot;
  }

  #enter(slot: Slot, key: number, host: number): void {
    slot.key = key;
    slot.host = host;
    slot.used = USED;
    slot.stale = false;
    this.#index.set(key, slot);
  }

  /** The bytes [from, to) of the slice were changed. */
  dirty(slot: Slot, from: number, to: number): void {
    if (slot.dirty) {
      if (from < slot.dirtyFrom) slot.dirtyFrom = from;
      if (to > slot.dirtyTo) slot.dirtyTo = to;
      return;
    }
    slot.dirtyFrom = from;
    slot.dirtyTo = to;
    this.#dirty.add(slot);
  }

  /** The slice lies at `host` from now on. */
  move(key: number, host: number): void {
    const slot = this.#index.get(key);
    if (slot !== undefined) slot.host = host;
  }

  /** Forgets a slice, dirty or not: its table is gone. */
  discard(key: number): void {
    const slot = this.#index.get(key);
    if (slot === undefined) return;
    this.#dirty.delete(slot);
    slot.dirtyFrom = slot.dirtyTo = 0;
    this.#forget(slot);
  }

  /** Forgets everything that is not dirty. */
  drop(): void {
    for (const slot of this.#slots) {
      if (slot.key >= 0 && !slot.dirty) this.#forget(slot);
    }
  }

  /** Forgets everything, dirty or not. */
  reset(): void {
    this.#dirty.clear();
    for (const slot of this.#slots) {
      slot.dirtyFrom = slot.dirtyTo = 0;
      if (slot.key >= 0) this.#forget(slot);
    }
  }

  /** Forgets what was not used since the last call, and gives its memory back. */
  clean(): void {
    const { sys } = this.#parts.context;
    for (const slot of this.#slots) {
      const idle = (slot.used & USED_SINCE_CLEANING) === 0;
      slot.used &= ~USED_SINCE_CLEANING;
      if (!idle || slot.key < 0 || slot.dirty || slot.writing || slot.loading !== undefined) {
        continue;
      }
      this.#forget(slot);
      if (this.sliceSize % PAGE === 0) {
        sys.madvise(this.#memory.address + slot.base, this.sliceSize, MADV_DONTNEED);
      }
    }
  }

  /** The slice is not there any more; its room is free when nothing reads or writes there. */
  #forget(slot: Slot): void {
    this.#index.delete(slot.key);
    slot.key = -1;
    if (slot.loading !== undefined || slot.writing) slot.stale = true;
    else this.#reuse(slot);
  }

  #reuse(slot: Slot): void {
    slot.stale = false;
    slot.used = 0;
    this.#free.push(slot);
  }

  /** Room for a slice: unused, or that of one that was not used lately. */
  #claim(): Slot | undefined {
    const free = this.#free.pop();
    if (free !== undefined) return free;
    if (this.#slots.length < this.#parts.capacity) {
      const slot = new Slot(this.#slots.length * this.sliceSize);
      this.#slots.push(slot);
      return slot;
    }
    for (let step = 0; step < 2 * this.#slots.length; step++) {
      const slot = this.#slots[this.#hand]!;
      this.#hand = (this.#hand + 1) % this.#slots.length;
      if (slot.dirty || slot.writing || slot.loading !== undefined) continue;
      if ((slot.used & 1) !== 0) {
        slot.used &= ~1;
        continue;
      }
      this.#index.delete(slot.key);
      slot.key = -1;
      return slot;
    }
    return undefined;
  }

  /** Waits until there may be room. */
  #room(): Promise<void> {
    if (this.unstable > 0) return this.#parts.relieve();
    return Promise.race([...this.#loading].map((loading) => loading.catch(() => {})));
  }

  /**
   * Takes everything that is dirty for writing, as it is now: what changes later is dirty again. `finish` must
   * be called when it was written, or could not be.
   */
  stage(): StagedSlices | undefined {
    return this.#stage(this.#byPlace(), Infinity);
  }

  /**
   * The same in parts of not many more than `most` bytes, each taken, and copied, when it is asked for: for slices
   * that nothing on disk leads to, whose order does not matter. A part must be finished before the next one.
   */
  *stageParts(most: number): Iterable<StagedSlices> {
    const left = this.#byPlace();
    for (;;) {
      const staged = this.#stage(left, most);
      if (staged === undefined) return;
      yield staged;
    }
  }

  /** Those that are dirty, the last in the file first. */
  #byPlace(): Slot[] {
    return [...this.#dirty].sort((a, b) => b.host - a.host);
  }

  /** Takes slots off the end of `left`. */
  #stage(left: Slot[], most: number): StagedSlices | undefined {
    const unit = Math.min(WRITE_UNIT, this.sliceSize);
    const staged = new StagedSlices(this.#parts.context, this.#parts.file);
    const taken: { slot: Slot; from: number; to: number }[] = [];
    for (let bytes = 0; bytes < most;) {
      const slot = left.pop();
      if (slot === undefined) break;
      // It may have been forgotten since.
      if (!slot.dirty) continue;
      const from = alignDown(slot.dirtyFrom, unit);
      const to = Math.min(this.sliceSize, alignUp(slot.dirtyTo, unit));
      staged.add(slot.host + from, this.#memory.address + slot.base + from, to - from);
      bytes += to - from;
      taken.push({ slot, from, to });
      slot.dirtyFrom = slot.dirtyTo = 0;
      slot.writing = true;
      this.#dirty.delete(slot);
    }
    if (taken.length === 0) return undefined;
    staged.copy();
    this.#writing += taken.length;
    staged.onFinish = (written) => {
      this.#writing -= taken.length;
      for (const { slot, from, to } of taken) {
        slot.writing = false;
        if (slot.stale) this.#reuse(slot);
        else if (!written) this.dirty(slot, from, to);
      }
    };
    return staged;
  }

  /** Gives the memory back. Nothing may be dirty or loading that is still wanted. */
  async close(): Promise<void> {
    while (this.#loading.size > 0) await Promise.allSettled(this.#loading);
    this.#memory.unmap();
  }
}
