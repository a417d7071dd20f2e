/**
 * The way from a node's user down to the pages of a file (pages_types.ts), as a part of the seam: what a node does with
 * the data of reads and writes, other than to move it, makes it say no.
 *
 * Nothing is waited for here. A format's answer that comes later, and a write that is more than its data (copies around
 * it, parts in several places), is left to plain requests.
 */
import { assert, BlockError, type MaybePromise } from "../base/mod.ts";
import { Errno, errnoName } from "../sys/mod.ts";
import type { Backend } from "./backend.ts";
import { type MergedWrite, mergedWrite } from "./merged.ts";
import type { BlockNode, Edge } from "./node.ts";
import type { BackendPages, FilePages, FilePlace } from "./pages_types.ts";
import { Placed, PlanRecord } from "./placement.ts";
import type { Seam } from "./seam.ts";
import { type FormatInstance, Perm } from "./types.ts";

// --- reads ---

/** PageTransfers.locate, for a node. */
function locatePages(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  known: boolean,
  out: FilePlace,
): boolean {
  const { instance } = node;
  if (!node.plain || seam.tracesReads || offset + length > instance.size) return false;
  if (instance.kind === "io") return instance.pages?.locate(offset, length, known, out) ?? false;
  if (instance.fixed !== true && instance.sending === undefined) return false;
  const place = seam.engine.locateWhole(instance, offset, length);
  if (place?.child === undefined) return false;
  const below = place.child.node;
  // What the backing file shows is that one's business.
  if (place.kind === Placed.unallocated) {
    return locatePages(seam, below, offset, length, known, out);
  }
  const { at } = place;
  return locatePages(seam, below, at, length, known, out) &&
    (instance.fixed === true || instance.sending!(at, length));
}

// --- what is in the page cache ---

/** Child.inPageCache. */
export function inPageCache(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): boolean | undefined {
  const found = fixedPages(seam, node, offset, length);
  return found?.pages.inPageCache(found.offset, length);
}

/** Child.dropPages. */
export function dropPages(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): MaybePromise<void> {
  const found = fixedPages(seam, node, offset, length);
  const result = found?.pages.dropPages(found.offset, length);
  return result === undefined
    ? undefined
    : seam.track(found!.node, "drop", found!.offset, length, result);
}

/** The file that a range lies in, through formats whose data stays in its place. */
function fixedPages(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): { node: BlockNode; pages: FilePages; offset: number } | undefined {
  for (;;) {
    const { instance } = node;
    if (instance.kind === "io") {
      const { pages } = instance;
      return pages === undefined ? undefined : { node, pages, offset };
    }
    if (instance.fixed !== true) return undefined;
    const place = seam.engine.locateWhole(instance, offset, length);
    if (place?.kind !== Placed.child) return undefined;
    node = place.child!.node;
    offset = place.at;
  }
}

// --- writes ---

/** A pipe with data for a write. */
interface PipeSource {
  /** Its reading end. */
  readonly fd: number;
  /** Takes note of what a driver still does for a write that was given up: a drain has to wait for it. */
  outlives(begun: Promise<void>): void;
}

/** PageTransfers.pipeUnit, for a node. Whoever wants to see, or to change, what is written has it written. */
function pipeUnit(seam: Seam, node: BlockNode, offset: number, length: number): number {
  const { instance, common } = node;
  if (!node.plain || common.readOnly || !common.active || common.detectZeroes !== "off") return 0;
  if (node.writeThreshold !== 0 || seam.tracesWrites) return 0;
  if (instance.kind === "io") return instance.pages?.pipeUnit(offset, length) ?? 0;
  const child = instance.pipesTo as Edge | undefined;
  if (child === undefined || (child.needed & (Perm.write | Perm.writeUnchanged)) === 0) return 0;
  const place = seam.engine.locateWhole(instance, offset, length);
  const placed = place?.kind === Placed.child && place.child === child;
  const unit = pipeUnit(seam, child.node, placed ? place.at : offset, length);
  // Where data has its place already, parts may end anywhere.
  return placed || unit === 0 ? unit : Math.max(unit, node.limits.writeZeroesAlignment);
}

/** PageTransfers.writeFromPipe, for a node. */
function writeFromPipe(
  seam: Seam,
  node: BlockNode,
  offset: number,
  source: PipeSource,
  length: number,
): number {
  const { instance } = node;
  let rc = 0;
  try {
    rc = instance.kind === "format"
      ? writeParts(seam, node, instance, offset, source, length)
      : instance.pages!.writeFromPipe(offset, source.fd, length);
  } finally {
    node.changed(offset, length); // whatever became of it: some of it may have been written
    if (rc > 0 && offset + rc > node.writeHighest) node.writeHighest = offset + rc;
  }
  return rc;
}

/** The same for a format, plan by plan. */
function writeParts(
  seam: Seam,
  node: BlockNode,
  format: FormatInstance,
  offset: number,
  source: PipeSource,
  length: number,
): number {
  const plan = new PlanRecord();
  for (let done = 0; done < length;) {
    const rc = writePart(seam, node, format, plan, offset + done, source, length - done);
    if (rc <= 0) return done > 0 ? done : rc;
    done += rc;
  }
  return length;
}

/** Writes the front part of the range: bytes, or -errno when the pipe is as it was. */
function writePart(
  seam: Seam,
  node: BlockNode,
  format: FormatInstance,
  plan: PlanRecord,
  offset: number,
  source: PipeSource,
  length: number,
): number {
  plan.begin(offset, length, "data", 0);
  let moved: number;
  try {
    const pending = format.reserve!(offset, length, plan);
    if (pending !== undefined) {
      const giveUp = () => plan.abandon?.();
      const given = pending.then(giveUp, giveUp);
      node.epochs?.track(given);
      source.outlives(given);
      return -Errno.EAGAIN;
    }
    const write = mergedWrite(plan);
    moved = write === undefined ? -Errno.EAGAIN : moveAll(seam, write, source, plan.simple);
  } catch (error) {
    plan.abandon?.();
    throw error;
  }
  if (moved < plan.planned) {
    plan.abandon?.();
    return moved;
  }
  const committed = plan.commit?.();
  assert(committed === undefined, "what is planned at once is committed at once");
  return moved;
}

/** Moves bytes from the pipe to their place. How many, or -errno if none. `some`: it may stop before all are moved. */
function moveAll(
  seam: Seam,
  { child, at, length, head, tail }: MergedWrite,
  source: PipeSource,
  some: boolean,
): number {
  if (head + tail > 0 || pipeUnit(seam, child.node, at, length) === 0) return -Errno.EAGAIN;
  let moved = 0;
  while (moved < length) {
    seam.checkChild(child, "write", at + moved, length - moved);
    const rc = writeFromPipe(seam, child.node, at + moved, source, length - moved);
    if (rc === -Errno.EINTR) continue;
    if (rc <= 0) {
      if (moved === 0) return rc;
      if (some) break;
      const code = rc === 0 ? "EIO" : errnoName(-rc);
      throw new BlockError(code, "write failed", {
        node: child.node.name,
        op: "write",
        offset: at,
      });
    }
    moved += rc;
  }
  return moved;
}

// --- for a node's user ---

/** The pages of a backend's node: none while that is drained, since nothing here waits. */
export class NodePages implements BackendPages {
  constructor(private readonly seam: Seam, private readonly backend: Backend) {}

  locate(offset: number, length: number, known: boolean, out: FilePlace): boolean {
    const { node, drained } = this.backend;
    if (drained || !node.holds(offset + length)) return false;
    return locatePages(this.seam, node, offset, length, known, out);
  }

  pipeUnit(offset: number, length: number): number {
    const { node, drained, needed, options } = this.backend;
    const may = !drained && options.writethrough !== true &&
      (needed & (Perm.write | Perm.writeUnchanged)) !== 0 &&
      offset >= 0 && offset + length <= node.instance.size;
    return may ? pipeUnit(this.seam, node, offset, length) : 0;
  }

  writeFromPipe(offset: number, pipe: number, length: number): number {
    const source = { fd: pipe, outlives: this.backend.outlives };
    return writeFromPipe(this.seam, this.backend.node, offset, source, length);
  }

  countRead(length: number): void {
    const { read } = this.backend.statistics;
    read.operations++;
    read.bytes += length;
  }

  countWrite(length: number): void {
    const { write } = this.backend.statistics;
    write.operations++;
    write.bytes += length;
  }
}
