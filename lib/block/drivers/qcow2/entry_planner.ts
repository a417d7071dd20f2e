/** What plans for data and plans for zeroes have in common: both read and change entries of L2 tables in the cache. */
import type { Image } from "./image.ts";
import { Kind } from "./map.ts";

/** Plans that look at entries. `at` is an entry's offset in `view`, which covers the cache of tables. */
export abstract class EntryPlanner {
  protected readonly image: Image;
  protected readonly view: DataView;
  /** Bytes of a cluster, of a subcluster (a cluster, without extended entries) and of an entry. */
  protected readonly clusterSize: number;
  protected readonly subSize: number;
  protected readonly entrySize: number;
  protected readonly extended: boolean;

  constructor(image: Image) {
    const { clusterSize, subclusterSize, l2EntrySize, extendedL2 } = image.geometry;
    this.image = image;
    this.view = image.map.cache.view;
    this.clusterSize = clusterSize;
    this.subSize = subclusterSize;
    this.entrySize = l2EntrySize;
    this.extended = extendedL2;
  }

  /** Whether the entry's (sub)cluster at `guest` reads as zeroes without looking at anything else. */
  protected readsZero(at: number, guest: number): boolean {
    const sub = this.extended ? Math.floor((guest % this.clusterSize) / this.subSize) : 0;
    const kind = this.image.map.kind(at, sub);
    if (kind === Kind.zero || kind === Kind.zeroAllocated) return true;
    return kind === Kind.unallocated && this.image.emptyBelow(guest - (guest % this.subSize));
  }
}
