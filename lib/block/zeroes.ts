/** Zero writes and discards: split by the driver's limits, with zero buffers where it cannot do it itself. */
import {
  alignDown,
  alignUp,
  BlockError,
  IoVec,
  isNotSupported,
  isPromise,
  type MaybePromise,
} from "../base/mod.ts";
import { Pace } from "../sys/mod.ts";
import { inOrder, writeZeroesAligned } from "./align.ts";
import type { BlockNode } from "./node.ts";
import { asAdvice, rescue } from "./rescue.ts";
import type { Seam } from "./seam.ts";
import { RequestFlag } from "./types.ts";

/** Writes zeroes to a range of any alignment. */
export function zeroRange(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  flags: number,
): MaybePromise<void> {
  const { requestAlignment, writeZeroesAlignment, maxWriteZeroes } = node.limits;
  const end = offset + length;
  // The driver's preferred blocks in the middle; what is left of it at both ends.
  const middle = Math.min(end, alignUp(offset, writeZeroesAlignment));
  const tail = Math.max(middle, alignDown(end, writeZeroesAlignment));
  if (middle === offset && tail === end && length <= maxWriteZeroes) {
    return zeroStep(seam, node, offset, length, flags);
  }
  const max = Math.max(writeZeroesAlignment, alignDown(maxWriteZeroes, writeZeroesAlignment));
  const steps: [number, number][] = [];
  for (
    const [from, to] of [
      ...atBlocks(offset, middle, requestAlignment),
      [middle, tail] as const,
      ...atBlocks(tail, end, requestAlignment),
    ]
  ) {
    for (let at = from; at < to; at += max) steps.push([at, Math.min(max, to - at)]);
  }
  return inTurn(steps, (at, size) => zeroStep(seam, node, at, size, flags));
}

/** Cuts [from, to) at the first and last block boundary in it, so that whole blocks stay whole. */
function atBlocks(from: number, to: number, block: number): (readonly [number, number])[] {
  const first = Math.min(to, alignUp(from, block));
  const last = Math.max(first, alignDown(to, block));
  return [[from, first], [first, last], [last, to]];
}

/** Runs `act` for one step after the other; synchronous as long as they are. */
function inTurn(
  steps: readonly (readonly [number, number])[],
  act: (at: number, length: number) => MaybePromise<void>,
  from = 0,
): MaybePromise<void> {
  for (let i = from; i < steps.length; i++) {
    const [at, length] = steps[i]!;
    const result = act(at, length);
    if (isPromise(result)) return result.then(() => inTurn(steps, act, i + 1));
  }
  return undefined;
}

function zeroStep(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  flags: number,
): MaybePromise<void> {
  const align = node.limits.requestAlignment;
  if (align === 1) return zeroCall(seam, node, offset, length, flags);
  if (offset % align !== 0 || length % align !== 0) {
    if ((flags & RequestFlag.noFallback) !== 0) throw notQuickly(node, offset);
    return writeZeroesAligned(seam, node, offset, length, flags & RequestFlag.fua);
  }
  return inOrder(node, offset, length, false, () => zeroCall(seam, node, offset, length, flags));
}

function zeroCall(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  flags: number,
): MaybePromise<void> {
  const instance = node.instance;
  return rescue(
    () => {
      if (instance.kind === "format") {
        return seam.engine.writeZeroes(node, instance, offset, length, flags);
      }
      if (instance.writeZeroes === undefined) throw notQuickly(node, offset);
      const result = instance.writeZeroes(offset, length, flags);
      return isPromise(result)
        ? seam.track(node, "write-zeroes", offset, length, result)
        : undefined;
    },
    (error) => {
      if (!isNotSupported(error) || (flags & RequestFlag.noFallback) !== 0) throw error;
      return zeroesAsData(seam, node, offset, length, flags & ~RequestFlag.mayUnmap);
    },
  );
}

function notQuickly(node: BlockNode, offset: number): BlockError {
  return new BlockError("ENOTSUP", "zeroes cannot be written quickly", {
    node: node.name,
    op: "write-zeroes",
    offset,
  });
}

/** Writes zeroes from a buffer: at once what is one write, else one piece after the other. */
function zeroesAsData(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  flags: number,
): MaybePromise<void> {
  const { address, length: available } = seam.zeroes;
  const most = Math.min(available, node.limits.maxTransfer);
  const write = (at: number) =>
    seam.submitWrite(node, at, IoVec.of(address, Math.min(most, offset + length - at)), flags);
  if (length <= most) return write(offset);
  return piecesOfZeroes(seam, offset, offset + length, most, write);
}

/** The pieces, at a pace: there may be thousands, and each may complete at once. */
async function piecesOfZeroes(
  { context }: Seam,
  start: number,
  end: number,
  step: number,
  write: (at: number) => MaybePromise<void>,
): Promise<void> {
  const pace = new Pace(context);
  for (let at = start; at < end; at += step) {
    const result = write(at);
    if (isPromise(result)) await result;
    else if (pace.tired) await pace.rest();
  }
}

/** Discards the whole blocks in a range; what the driver cannot discard is left as it is. */
export function discardRange(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): MaybePromise<void> {
  const { discardAlignment, maxDiscard, requestAlignment } = node.limits;
  const end = offset + length;
  // The last, short block of the node counts as whole.
  const last = end >= node.size ? end : alignDown(end, discardAlignment);
  const first = alignUp(offset, discardAlignment);
  const max = Math.max(discardAlignment, alignDown(maxDiscard, discardAlignment));
  const steps: [number, number][] = [];
  for (let at = first; at < last; at += max) {
    const size = alignDown(Math.min(max, last - at), requestAlignment);
    if (size > 0) steps.push([at, size]);
  }
  return inTurn(steps, (at, size) => discardCall(seam, node, at, size));
}

function discardCall(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
): MaybePromise<void> {
  const instance = node.instance;
  return asAdvice(() => {
    if (instance.kind === "format") return seam.engine.discard(node, instance, offset, length);
    const result = instance.discard?.(offset, length);
    return isPromise(result) ? seam.track(node, "discard", offset, length, result) : undefined;
  });
}
