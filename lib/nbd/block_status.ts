/** Collects the extents that answer BLOCK_STATUS. */
import type { MaybePromise } from "../base/mod.ts";
import type { BlockBackend, BlockStatus } from "../block/mod.ts";
import type { ExportedBitmap, MetaContext } from "./export.ts";
import { BaseAllocation } from "./wire.ts";

/**
 * Most questions to the block layer for one context of one request: the client asks again for the rest. Each
 * may take some system calls, and all are asked in one turn.
 */
const MAX_QUESTIONS = 1024;

/** Extents of one context, in order from the request's offset on. */
export class Extents {
  readonly lengths: number[] = [];
  readonly flags: number[] = [];
  /** Bytes covered. */
  covered = 0;
  #questions = 0;

  constructor(
    readonly context: MetaContext,
    readonly offset: number,
    readonly length: number,
    readonly single: boolean,
  ) {}

  /** Number of extents. */
  get count(): number {
    return this.lengths.length;
  }

  /** Adds what the block layer said; alike neighbours are joined. False: it was one extent too many. */
  add(length: number, flags: number): boolean {
    const take = Math.min(length, this.length - this.covered);
    const last = this.count - 1;
    if (last >= 0 && this.flags[last] === flags) {
      this.lengths[last] = this.lengths[last]! + take;
    } else if (this.single && last >= 0) {
      return false;
    } else {
      this.lengths.push(take);
      this.flags.push(flags);
    }
    this.covered += take;
    return true;
  }

  /** Whether another question is to be asked. */
  more(): boolean {
    return this.covered < this.length && this.#questions++ < MAX_QUESTIONS;
  }
}

/** Fills `extents` from the node: at least one, possibly covering less than was asked for. */
export function collectExtents(backend: BlockBackend, extents: Extents): MaybePromise<void> {
  const { context } = extents;
  switch (context.kind) {
    case "depth":
      return collectDepth(backend, extents);
    case "bitmap":
      return collectDirty(context.bitmap, extents);
    default:
      return collectAllocation(backend, extents);
  }
}

function collectDirty(bitmap: ExportedBitmap, extents: Extents): MaybePromise<void> {
  const { bits } = bitmap;
  if (bits.replaced && bitmap.renew !== undefined) {
    return bitmap.renew().then(() => collectDirty(bitmap, extents));
  }
  const end = extents.offset + extents.length;
  while (extents.more()) {
    const at = extents.offset + extents.covered;
    const dirty = bits.has(at);
    if (!extents.add(bits.next(!dirty, at, end) - at, dirty ? 1 : 0)) return;
  }
}

function collectAllocation(backend: BlockBackend, extents: Extents): MaybePromise<void> {
  const status: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
  while (extents.more()) {
    const { covered } = extents;
    const pending = backend.status(
      extents.offset + covered,
      extents.length - covered,
      true,
      status,
    );
    if (pending !== undefined) {
      return pending.then(() =>
        addAllocation(extents, status) ? collectAllocation(backend, extents) : undefined
      );
    }
    if (!addAllocation(extents, status)) return;
  }
}

/** base:allocation (facts 8.1): hole where there is no data, zero where it reads as zeroes. */
function addAllocation(extents: Extents, status: BlockStatus): boolean {
  const hole = status.data ? 0 : BaseAllocation.hole;
  return extents.add(status.length, hole | (status.zero ? BaseAllocation.zero : 0));
}

function collectDepth(backend: BlockBackend, extents: Extents): MaybePromise<void> {
  while (extents.more()) {
    const { covered } = extents;
    const answer = backend.allocationDepth(extents.offset + covered, extents.length - covered);
    if (answer instanceof Promise) {
      return answer.then(({ depth, length }) =>
        extents.add(length, depth) ? collectDepth(backend, extents) : undefined
      );
    }
    if (!extents.add(answer.length, answer.depth)) return;
  }
}
