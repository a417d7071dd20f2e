/**
 * Writing back what the caches hold, in the order that types.ts gives. One commit runs at a time; whoever asks
 * meanwhile shares the next one, which takes everything that was dirty when it begins.
 */
import { assert, BlockError } from "../../../base/mod.ts";
import type { Range } from "./discard.ts";
import type { Image } from "./image.ts";
import type { L1Write } from "./l1.ts";
import { writeBytes } from "./metadata.ts";
import type { TableWrite } from "./refcounts.ts";
import type { StagedSlices } from "./staged.ts";
import type { MetadataKind } from "./types.ts";

/** More dirty slices than this, and a commit is due. */
const MANY_DIRTY = 256;
/** Within a transition, so many bytes are copied and written at a time. */
const PART = 1 << 20;

/** Everything that one commit writes. */
interface Staged {
  readonly slices: StagedSlices | undefined;
  readonly blocks: StagedSlices | undefined;
  readonly table: { readonly writes: readonly TableWrite[]; back(): void };
  readonly l1: { readonly offset: number; readonly entries: readonly L1Write[]; back(): void };
  readonly releases: readonly Range[];
}

/** The commits of one image. */
export class Commits {
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  /** Counts are held back (lazy refcounts) unless the cache needs room or the image is closed. */
  #countsWanted = false;

  constructor(private readonly image: Image) {}

  /** Whether there is anything to write. */
  get needed(): boolean {
    const { map, refcounts, l1, releases, headerDoubtful } = this.image;
    return headerDoubtful || map.cache.hasDirty || refcounts.cache.hasDirty ||
      refcounts.hasDirtyTable ||
      l1.hasDirty ||
      releases.pending;
  }
  get running(): boolean {
    return this.#running !== undefined || this.#next !== undefined;
  }

  /** Waits for those under way, however they end. */
  async ended(): Promise<void> {
    while (this.running) await (this.#next ?? this.#running)!.catch(() => {});
  }

  /** Writes everything that is dirty now; stable when it resolves. `counts`: lazy ones, too. */
  commit(counts = false): Promise<void> {
    if (counts) this.#countsWanted = true;
    // When the one before has just ended, the next one is still to begin: never two at a time.
    if (this.#next !== undefined) return this.#next;
    if (this.#running === undefined) return this.#start();
    return this.#next = this.#running.catch(() => {}).then(() => {
      this.#next = undefined;
      return this.#start();
    });
  }

  /** Commits until nothing is left to be written, clusters given back included. No request is in flight. */
  async all(): Promise<void> {
    while (this.needed || this.running) {
      await this.commit(true);
      await this.image.releases.idle();
    }
  }

  /** Begins a commit unless one is under way: too much is dirty. What fails is dirty again and seen by a flush. */
  background(): void {
    if (!this.running && this.image.transition === undefined) this.#start().catch(() => {});
  }

  /** Entries were changed: too many dirty ones are written without being asked for. */
  written(): void {
    const { unstable, capacity } = this.image.map.cache;
    if (unstable >= MANY_DIRTY || unstable * 2 > capacity) this.background();
  }

  #start(): Promise<void> {
    assert(this.#running === undefined, "two commits at a time");
    return this.#running = this.#run().finally(() => void (this.#running = undefined));
  }

  #stage(): Staged {
    const { map, refcounts, l1, releases, lazy } = this.image;
    const withCounts = !lazy || this.#countsWanted;
    this.#countsWanted = false;
    return {
      slices: map.cache.stage(),
      blocks: withCounts ? refcounts.cache.stage() : undefined,
      // New blocks are counted in others and lead nowhere before they are written.
      table: withCounts ? refcounts.stageTable() : { writes: [], back: () => {} },
      l1: l1.stage(),
      releases: releases.take(),
    };
  }

  async #run(): Promise<void> {
    const { image } = this;
    if (!this.needed) return;
    if (image.readOnly) {
      throw new BlockError("EIO", "metadata of a read-only image was changed", {
        node: image.nodeName,
      });
    }
    const doubt = image.assureHeader();
    if (doubt !== undefined) await doubt;
    if (image.transition !== undefined) return await this.#runHeld();
    const staged = this.#stage();
    let written = false;
    try {
      await this.#write(staged);
      written = true;
    } finally {
      staged.slices?.finish(written);
      staged.blocks?.finish(written);
      if (!written) {
        staged.table.back();
        staged.l1.back();
        image.releases.back(staged.releases);
      }
    }
    image.releases.settle(staged.releases);
  }

  /**
   * Within a transition: nothing on disk leads to what is written here before the transition writes the tables and,
   * when all is stable, the header. So it needs no order and no flushes, and is copied in parts: others have their turn.
   */
  async #runHeld(): Promise<void> {
    const { map, refcounts, pace } = this.image;
    this.#countsWanted = false;
    for (
      const [cache, kind] of [
        [refcounts.cache, "refcount block"],
        [map.cache, "active L2 table"],
      ] as const
    ) {
      for (const staged of cache.stageParts(PART)) {
        let written = false;
        try {
          this.#check(staged, kind);
          await staged.write();
          written = true;
        } finally {
          staged.finish(written);
        }
        if (pace.tired) await pace.rest();
      }
    }
  }

  #check(staged: StagedSlices | undefined, kind: MetadataKind): void {
    const { overlap } = this.image;
    for (const { host, length } of staged?.ranges() ?? []) overlap.check(host, length, kind);
  }

  async #write({ slices, blocks, table, l1, releases }: Staged): Promise<void> {
    const { image } = this;
    const { file, context, overlap } = image;
    const { flush } = image.traces;
    if (flush.enabled) flush.emit(`node ${image.nodeName} l1 entries ${l1.entries.length}`);
    this.#check(slices, "active L2 table");
    this.#check(blocks, "refcount block");
    await blocks?.write();
    if (table.writes.length > 0) {
      await file.flush();
      for (const { offset, bytes } of table.writes) {
        overlap.check(offset, bytes.length, "refcount table");
        await writeBytes(context, file, offset, bytes);
      }
    }
    const mapped = slices !== undefined || l1.entries.length > 0;
    if (mapped) {
      await this.#flushFiles();
      await slices?.write();
    }
    if (l1.entries.length > 0) {
      if (slices !== undefined) await file.flush();
      for (const { start, bytes } of l1.entries) {
        overlap.check(l1.offset + start * 8, bytes.length, "active L1 table");
        await writeBytes(context, file, l1.offset + start * 8, bytes);
      }
    }
    if (mapped || blocks !== undefined || table.writes.length > 0 || releases.length > 0) {
      await this.#flushFiles();
    }
  }

  /** Makes what was written to the data file, and to the file, stable. */
  async #flushFiles(): Promise<void> {
    const { data, file } = this.image;
    if (data !== file) await data.flush();
    await file.flush();
  }
}
