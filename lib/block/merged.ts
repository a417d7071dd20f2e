/**
 * Plans that end in one write of data: the user's, with what is copied before and behind it. That is what writes to
 * new clusters nearly always are. They are carried out in the turn in which they were made where nothing has to be
 * waited for, and little is allocated for them.
 */
import { assert, chain, IoVec, type MaybePromise } from "../base/mod.ts";
import { Bounded } from "./bounded.ts";
import type { BlockNode, Edge } from "./node.ts";
import type { PlanRecord } from "./placement.ts";
import { rescue } from "./rescue.ts";
import type { Seam } from "./seam.ts";

/** Up to so many bytes of data between two copies are read with them: cheaper than another read. */
const READ_ACROSS = 16 * 1024;

/** One write: `head` and `tail` are lengths of what is copied around `length` bytes of data; 0: nothing. */
export interface MergedWrite {
  readonly child: Edge;
  /** Where the data goes in the child. */
  readonly at: number;
  /** Guest offset of the data. */
  readonly from: number;
  readonly length: number;
  readonly head: number;
  readonly tail: number;
}

/** What the plan writes, if that is a single write; undefined: it is more than that. */
export function mergedWrite(plan: PlanRecord): MergedWrite | undefined {
  if (plan.encode !== undefined) return undefined;
  const { steps, start: offset, planned: length } = plan;
  let child = plan.soleChild;
  let at = plan.soleAt;
  if (child === undefined) {
    for (const step of steps) {
      if (step.kind === "copy") continue;
      if (child !== undefined || step.child === undefined || step.length !== length) {
        return undefined;
      }
      child = step.child;
      at = step.at;
    }
    if (child === undefined) return undefined;
  }
  let head = 0;
  let tail = 0;
  for (const step of steps) {
    if (step.kind !== "copy") continue;
    if (step.child !== child) return undefined;
    if (head === 0 && step.at + step.length === at && step.from + step.length === offset) {
      head = step.length;
    } else if (tail === 0 && step.at === at + length && step.from === offset + length) {
      tail = step.length;
    } else return undefined;
  }
  return { child, at, from: offset, length, head, tail };
}

/** Writes it, then commits; or abandons the plan, when nothing of it is under way any more. */
export function writeMerged(
  seam: Seam,
  node: BlockNode,
  plan: PlanRecord,
  write: MergedWrite,
  iov: IoVec,
): MaybePromise<void> {
  const { child, at, head, tail } = write;
  const { flags } = plan;
  assert(child.parent === node && at >= head, "planned in a child of another node");
  let result: MaybePromise<void>;
  try {
    result = head + tail === 0
      ? seam.writeChild(child, at, iov, flags)
      : copyAround(seam, node, write, iov, flags);
  } catch (error) {
    plan.abandon?.();
    throw error;
  }
  if (result === undefined) return plan.commit?.();
  return result.then(() => plan.commit?.(), (error) => {
    plan.abandon?.();
    throw error;
  });
}

/** Reads what is copied, as the node reads now, and writes it with the data between. */
function copyAround(
  seam: Seam,
  node: BlockNode,
  write: MergedWrite,
  iov: IoVec,
  flags: number,
): MaybePromise<void> {
  const { child, at, length, head, tail } = write;
  const across = head > 0 && tail > 0 && length <= READ_ACROSS;
  const behind = across ? head + length : head;
  const buffer = seam.buffers.acquire(behind + tail);
  let result: MaybePromise<void>;
  try {
    const out = new IoVec();
    if (head > 0) out.add(buffer.address, head);
    for (let i = 0; i < iov.count; i++) out.add(iov.addresses[i]!, iov.lengths[i]!);
    if (tail > 0) out.add(buffer.address + behind, tail);
    const ends = () => readEnds(seam, node, write, buffer.address, buffer.address + behind);
    const whole = IoVec.of(buffer.address, behind + tail);
    result = chain(
      // What the data replaces may be what cannot be read.
      across ? rescue(() => seam.read(node, write.from - head, whole, 0), ends) : ends(),
      () => seam.writeChild(child, at - head, out, flags),
    );
  } catch (error) {
    seam.buffers.release(buffer);
    throw error;
  }
  if (result === undefined) return seam.buffers.release(buffer);
  return result.finally(() => seam.buffers.release(buffer));
}

/** Reads what is before the data to `first`, what is behind it to `second`; all has ended when it fails. */
function readEnds(
  seam: Seam,
  node: BlockNode,
  { from, length, head, tail }: MergedWrite,
  first: number,
  second: number,
): MaybePromise<void> {
  if (head === 0) return seam.read(node, from + length, IoVec.of(second, tail), 0);
  if (tail === 0) return seam.read(node, from - head, IoVec.of(first, head), 0);
  const reads = new Bounded();
  reads.run(() => seam.read(node, from - head, IoVec.of(first, head), 0));
  reads.run(() => seam.read(node, from + length, IoVec.of(second, tail), 0));
  return reads.finish();
}
