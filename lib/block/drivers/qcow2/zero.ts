/**
 * Plans for zero writes and discards: entries only. They change at once, while planning; the clusters that they
 * drop are given back late (discard.ts), so writes that are under way there do no harm.
 */
import { BlockError } from "../../../base/mod.ts";
import type { WritePlan } from "../../mod.ts";
import type { Slot } from "./cache.ts";
import { EntryPlanner } from "./entry_planner.ts";
import { EntryHigh, EntryLow, subclusterMask } from "./format.ts";
import type { Busy } from "./inflight.ts";
import { Kind } from "./map.ts";
import { mustWait } from "./waiting.ts";

/** Plans zeroes and discards. */
export class ZeroPlanner extends EntryPlanner {
  // --- zeroes ---

  /** Plans the front part of the range; or says what to wait for. ENOTSUP: zeroes must be written as data. */
  zeroes(start: number, length: number, plan: WritePlan): Promise<void> | undefined {
    const slot = this.#ready(start);
    if (mustWait(slot)) return slot;
    const { geometry } = this.image;
    const flags = geometry.version >= 3 && !geometry.dataFileRaw;
    if (slot === undefined) return this.#zeroUnmapped(start, length, plan, flags);
    const end = Math.min(start + length, this.image.map.sliceEnd(slot));
    if (!flags) return this.#zeroPlainly(slot, start, end, plan);
    const dirty = this.image.markDirty();
    if (dirty !== undefined) return dirty;
    const unit = this.subSize;
    const inside = start % unit;
    // The last, short cluster of the disk counts as whole.
    const whole = inside === 0 && (end % unit === 0 || end >= this.image.size);
    if (!whole && (inside !== 0 || end - start < unit)) {
      return this.#zeroPart(slot, start, Math.min(length, unit - inside), plan);
    }
    const to = this.#besideCompressed(slot, start, whole ? end : end - (end % unit));
    const { mayUnmap } = plan;
    const done = this.#each(slot, start, to, (at, from, upTo) => {
      this.#zeroEntry(slot, at, from, upTo, mayUnmap);
    });
    plan.metadataOnly(done - start);
    const { externalData } = geometry;
    if (mayUnmap && externalData && this.image.options.passDiscardRequest) {
      this.#discardBelow(plan, start, done - start);
    }
    this.image.commits.written();
    return undefined;
  }

  /** A part of a (sub)cluster that reads as zeroes: with all of it, whatever becomes of the backing file. */
  #zeroPart(slot: Slot, start: number, length: number, plan: WritePlan): undefined {
    if (!this.readsZero(this.image.map.entryAt(slot, start), start)) this.#notQuickly(start);
    const unit = start - start % this.subSize;
    this.#each(slot, unit, unit + this.subSize, (at, from, to) => {
      this.#zeroEntry(slot, at, from, to, false);
    });
    plan.metadataOnly(length);
    this.image.commits.written();
  }

  /**
   * Where zeroes from `start` on must end, at `to` at most: parts of a compressed cluster have no flags of their own.
   */
  #besideCompressed(slot: Slot, start: number, to: number): number {
    if (!this.extended) return to;
    const size = this.clusterSize;
    const compressed = (guest: number) =>
      this.image.map.kind(this.image.map.entryAt(slot, guest), 0) === Kind.compressed;
    const tail = to >= this.image.size ? 0 : to % size;
    const first = start - start % size;
    const part = start !== first || (tail !== 0 && to - tail === first);
    if (part && compressed(start)) this.#notQuickly(start);
    return tail !== 0 && to - tail > start && compressed(to - 1) ? to - tail : to;
  }

  /** There is no L2 table. */
  #zeroUnmapped(
    start: number,
    length: number,
    plan: WritePlan,
    flags: boolean,
  ): Promise<void> | undefined {
    const { geometry: { l2Coverage: coverage }, tables, backing } = this.image;
    if (flags) return tables.make(Math.floor(start / coverage));
    if (backing !== undefined) this.#notQuickly(start);
    plan.metadataOnly(Math.min(length, coverage - (start % coverage)));
    return undefined;
  }

  /**
   * Without zero flags: done where zeroes are read already, whatever becomes of a backing file; the file below may be
   * quick in a raw data file.
   */
  #zeroPlainly(
    slot: Slot,
    start: number,
    end: number,
    plan: WritePlan,
  ): Promise<void> | undefined {
    const { map, geometry, data, cipher, backing } = this.image;
    const at = map.entryAt(slot, start);
    // Subclusters may be of different kinds.
    const stop = Math.min(end, start - (start % this.subSize) + this.subSize);
    const inside = start % this.clusterSize;
    const kind = map.kind(at, this.extended ? Math.floor(inside / this.subSize) : 0);
    if (geometry.dataFileRaw && cipher === undefined && kind === Kind.data) {
      map.checkHost(slot, at, map.host(at), start - inside);
      plan.inChild(data, start, stop - start);
    } else if (
      kind === Kind.zero || kind === Kind.zeroAllocated ||
      (kind === Kind.unallocated && backing === undefined)
    ) {
      plan.metadataOnly(stop - start);
    } else {
      this.#notQuickly(start);
    }
    return undefined;
  }

  #zeroEntry(slot: Slot, at: number, from: number, to: number, unmap: boolean): void {
    const { map } = this.image;
    const view = this.view;
    const whole = from === 0 && to === this.clusterSize;
    if (this.extended) {
      const compressed = (view.getUint32(at) & EntryHigh.compressed) !== 0;
      if (!compressed) map.checkExtended(slot, at);
      if (whole && (compressed || unmap)) return this.#drop(slot, at, 0xffffffff);
      const mask = subclusterMask(this.subSize, from, to);
      view.setUint32(at + 8, (view.getUint32(at + 8) | mask) >>> 0);
      view.setUint32(at + 12, (view.getUint32(at + 12) & ~mask) >>> 0);
      return map.changed(slot, at);
    }
    const kind = map.kind(at, 0);
    if (kind === Kind.zero) return;
    if (kind === Kind.compressed || (unmap && !this.image.options.discardNoUnref)) {
      return this.#drop(slot, at, EntryLow.zero);
    }
    if (kind === Kind.zeroAllocated) return;
    view.setUint32(at + 4, (view.getUint32(at + 4) | EntryLow.zero) >>> 0);
    map.changed(slot, at);
  }

  // --- discards ---

  /** Plans the front part of the range; or says what to wait for. What cannot be discarded stays. */
  discard(start: number, length: number, plan: WritePlan): Promise<void> | undefined {
    const { map, geometry, inFlight, options, data, backing } = this.image;
    if (geometry.version < 3 && backing !== undefined) this.#notQuickly(start);
    const size = this.clusterSize;
    const inside = start % size;
    // Parts of clusters stay, but for the last, short one of the disk.
    if (inside !== 0 || (length < size && start + length < this.image.size)) {
      plan.metadataOnly(Math.min(length, size - inside));
      return undefined;
    }
    const slot = this.#ready(start);
    if (mustWait(slot)) return slot;
    if (slot === undefined) {
      if (backing !== undefined) {
        return this.image.tables.make(Math.floor(start / geometry.l2Coverage));
      }
      plan.metadataOnly(Math.min(length, geometry.l2Coverage - (start % geometry.l2Coverage)));
      return undefined;
    }
    const dirty = this.image.markDirty();
    if (dirty !== undefined) return dirty;
    const end = Math.min(start + length, map.sliceEnd(slot));
    const whole = end >= this.image.size ? end : end - end % size;
    const done = this.#each(slot, start, whole, (at) => this.#discardEntry(slot, at));
    this.image.commits.written();
    // What is punched into a raw data file is no zeroes once it is decrypted, and no entry says so.
    const garbled = geometry.dataFileRaw && this.image.cipher !== undefined;
    const inPlace = geometry.externalData || options.discardNoUnref;
    if (!options.passDiscardRequest || !inPlace || garbled) {
      plan.metadataOnly(done - start);
      return undefined;
    }
    if (geometry.externalData) plan.inChild(data, start, done - start);
    else this.#planKept(slot, start, done, plan);
    const busy = this.#occupy(plan, start, done - start);
    plan.onCommit(() => inFlight.end(busy));
    return undefined;
  }

  /** What is discarded below is the very place that the next write goes to: that one has to wait. */
  #occupy(plan: WritePlan, start: number, length: number): Busy {
    const { inFlight } = this.image;
    const first = Math.floor(start / this.clusterSize);
    const busy = inFlight.begin(first, Math.ceil((start + length) / this.clusterSize) - first);
    plan.onAbandon(() => inFlight.end(busy));
    return busy;
  }

  /** What became zeroes need not take room in the data file. Advice: failures do not matter. */
  #discardBelow(plan: WritePlan, start: number, length: number): void {
    const { data, inFlight } = this.image;
    const busy = this.#occupy(plan, start, length);
    plan.onCommit(async () => {
      try {
        await data.discard(start, length);
      } catch {
        // It stays allocated there.
      }
      inFlight.end(busy);
    });
  }

  /** Clusters in [start, end) that kept their place, and are this image's alone, are discarded below. */
  #planKept(slot: Slot, start: number, end: number, plan: WritePlan): void {
    const { map, data } = this.image;
    const view = this.view;
    let host = 0, from = start;
    const flush = (to: number) => {
      if (to === from) return;
      if (host === 0) plan.metadataOnly(to - from);
      else plan.inChild(data, host, to - from);
      from = to;
    };
    for (let guest = start; guest < end; guest += this.clusterSize) {
      const at = map.entryAt(slot, guest);
      const own = view.getUint32(at) >= EntryHigh.copied &&
        map.kind(at, 0) === Kind.zeroAllocated;
      const place = own ? map.host(at) : 0;
      if (place === (host === 0 ? 0 : host + guest - from)) continue;
      flush(guest);
      host = place;
    }
    flush(end);
  }

  /** What is discarded reads as zeroes; with a backing file also what only that one holds. */
  #discardEntry(slot: Slot, at: number): void {
    const { map, geometry, options, backing } = this.image;
    if (geometry.dataFileRaw) return;
    const zeroFlags = geometry.version >= 3;
    if (this.extended) {
      map.checkExtended(slot, at);
      const nothing = map.host(at) === 0 && (this.view.getUint32(at) >>> 30) === 0;
      if (nothing) {
        const zero = this.view.getUint32(at + 8) === 0xffffffff;
        return backing === undefined || zero ? undefined : this.#drop(slot, at, 0xffffffff);
      }
      if (options.discardNoUnref) {
        return this.#zeroEntry(slot, at, 0, this.clusterSize, false);
      }
      return this.#drop(slot, at, 0xffffffff);
    }
    const kind = map.kind(at, 0);
    if (kind === Kind.zero || (kind === Kind.unallocated && backing === undefined)) return;
    if (kind === Kind.unallocated) return this.#drop(slot, at, EntryLow.zero);
    if (kind !== Kind.compressed && options.discardNoUnref) {
      return this.#zeroEntry(slot, at, 0, this.clusterSize, false);
    }
    this.#drop(slot, at, zeroFlags ? EntryLow.zero : 0);
  }

  // --- common parts ---

  /** The slice, if entries for `start` may be changed now; undefined if there is no table. */
  #ready(start: number): Slot | undefined | Promise<void> {
    const { map, tables, inFlight, geometry } = this.image;
    const slot = map.slice(start);
    if (slot === undefined || mustWait(slot)) return slot;
    const index = Math.floor(start / geometry.l2Coverage);
    if (!tables.writable(index)) return tables.make(index);
    return inFlight.active === 0
      ? slot
      : inFlight.wait(Math.floor(start / this.clusterSize)) ?? slot;
  }

  /** Each entry of [start, end), up to one that is busy. Offsets in the cluster go along. The end reached. */
  #each(
    slot: Slot,
    start: number,
    end: number,
    act: (at: number, from: number, to: number) => void,
  ): number {
    const size = this.clusterSize;
    const { map, inFlight } = this.image;
    const first = Math.floor(start / size);
    const count = Math.ceil(end / size) - first;
    const clear = inFlight.active === 0 ? count : inFlight.clear(first, count);
    const stop = Math.min(end, (first + clear) * size);
    let at = map.entryAt(slot, start);
    for (let guest = first * size; guest < stop; guest += size, at += this.entrySize) {
      const from = Math.max(start - guest, 0);
      // The last, short cluster of the disk is zeroed to its end.
      const to = stop - guest >= size || stop >= this.image.size ? size : stop - guest;
      act(at, from, Math.min(size, to));
    }
    return stop;
  }

  /** The cluster loses its place. `low`: the zero flag, or with extended entries the zero bits. */
  #drop(slot: Slot, at: number, zero: number): void {
    const { map, geometry, releases } = this.image;
    releases.checkEntry(at);
    releases.addEntry(at, "request");
    this.view.setUint32(at, 0);
    this.view.setUint32(at + 4, geometry.extendedL2 ? 0 : zero);
    if (geometry.extendedL2) {
      this.view.setUint32(at + 8, zero);
      this.view.setUint32(at + 12, 0);
    }
    map.changed(slot, at);
  }

  #notQuickly(offset: number): never {
    throw new BlockError("ENOTSUP", "zeroes cannot be written quickly", {
      node: this.image.nodeName,
      offset,
    });
  }
}
