/**
 * Writes whose data waits in a pipe, and goes from there to the file without passing through our memory. All that is
 * done here is done at once: what a format must wait for, or surround by copies, is left to a plain write.
 */
import { assert, BlockError } from "../base/mod.ts";
import { Errno, errnoName } from "../sys/mod.ts";
import type { Engine } from "./engine.ts";
import { type MergedWrite, mergedWrite } from "./merged.ts";
import type { BlockNode, Edge } from "./node.ts";
import { Placed, PlanRecord } from "./placement.ts";
import type { Seam } from "./seam.ts";
import { type FormatInstance, Perm } from "./types.ts";

/** A pipe with data for a write. */
export interface PipeSource {
  /** Its reading end. */
  readonly fd: number;
  /** Is told what a driver has begun for a write that is given up: a drain has to wait for that. */
  tell(begun: Promise<void>): void;
}

/** As Seam.takesPipe. Where data has its place already, parts may end anywhere. */
export function takesPipe(
  seam: Seam,
  engine: Engine,
  node: BlockNode,
  format: FormatInstance,
  offset: number,
  length: number,
): number {
  const child = format.pipes as Edge | undefined;
  if (child === undefined || (child.needed & (Perm.write | Perm.writeUnchanged)) === 0) return 0;
  const place = engine.locateWhole(format, offset, length);
  const placed = place?.kind === Placed.child && place.child === child;
  const unit = seam.takesPipe(child.node, placed ? place.at : offset, length);
  return placed || unit === 0 ? unit : Math.max(unit, node.limits.writeZeroesAlignment);
}

/** As Seam.writeFromPipe, for a format, when takesPipe has just said so. */
export function writeFromPipe(
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
  plan.begin(offset, length);
  let moved: number;
  try {
    const pending = format.reserve!(offset, length, plan, "data", 0);
    if (pending !== undefined) {
      const giveUp = () => plan.abandon?.();
      const given = pending.then(giveUp, giveUp);
      node.epochs?.track(given);
      source.tell(given);
      return -Errno.EAGAIN;
    }
    const write = mergedWrite(plan, offset);
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

/** Bytes that went from the pipe to their place, or -errno when it were none. `some`: fewer than all will do, too. */
function moveAll(
  seam: Seam,
  { child, at, length, head, tail }: MergedWrite,
  source: PipeSource,
  some: boolean,
): number {
  if (head + tail > 0 || seam.takesPipe(child.node, at, length) === 0) return -Errno.EAGAIN;
  let moved = 0;
  while (moved < length) {
    const rc = seam.writeChildFromPipe(child, at + moved, source, length - moved);
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
