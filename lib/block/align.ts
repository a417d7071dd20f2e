/**
 * Requests that a node cannot take as they are: offsets, lengths or buffer addresses that are not
 * multiples of its alignment. They go through bounce buffers; writes read the rest of the first and last
 * block, and are serialised with whatever overlaps them (serialise.ts).
 */
import { alignDown, alignUp, type IoVec, IoVec as Vec, type MaybePromise } from "../base/mod.ts";
import { gather, isMemoryAligned, scatter, zeroFill } from "./memory.ts";
import type { BlockNode } from "./node.ts";
import type { Seam } from "./seam.ts";
import { Serialiser, type Ticket } from "./serialise.ts";
import { RequestFlag } from "./types.ts";

/** Bounce buffers are at most this long (or one block); longer requests go in several steps. */
const BOUNCE = 1024 * 1024;

function bounceLength(node: BlockNode): number {
  const { requestAlignment, maxTransfer } = node.limits;
  return Math.max(requestAlignment, alignDown(Math.min(BOUNCE, maxTransfer), requestAlignment));
}

/** Whether the driver can take these segments as they are. (A format's children see to their own needs.) */
function takesSegments(node: BlockNode, iov: IoVec): boolean {
  const { memoryAlignment, maxSegments } = node.limits;
  return node.instance.kind === "format" ||
    (iov.count <= maxSegments && isMemoryAligned(iov, memoryAlignment));
}

/** Reads any range of a node that needs alignment. */
export function readAligned(
  seam: Seam,
  node: BlockNode,
  offset: number,
  iov: IoVec,
  flags: number,
): MaybePromise<void> {
  const align = node.limits.requestAlignment;
  if (offset % align === 0 && iov.total % align === 0 && takesSegments(node, iov)) {
    return seam.submitRead(node, offset, iov, flags);
  }
  return readBounced(seam, node, offset, iov, flags);
}

async function readBounced(
  seam: Seam,
  node: BlockNode,
  offset: number,
  iov: IoVec,
  flags: number,
): Promise<void> {
  const align = node.limits.requestAlignment;
  const end = offset + iov.total;
  // A bounce buffer has held others' data: nothing of it may be left in place of contents that do not exist.
  const passed = flags & ~RequestFlag.ownMemory;
  const step = bounceLength(node);
  const first = alignDown(offset, align);
  const buffer = seam.buffers.acquire(Math.min(step, alignUp(end, align) - first));
  const block = new Vec();
  try {
    for (let at = first; at < end; at += step) {
      const length = Math.min(step, alignUp(end, align) - at);
      await seam.submitRead(node, at, block.single(buffer.address, length), passed);
      const from = Math.max(at, offset);
      const size = Math.min(at + length, end) - from;
      scatter(seam.sys, buffer.address + (from - at), iov, from - offset, size);
    }
  } finally {
    seam.buffers.release(buffer);
  }
}

/** Enters a write of [offset, offset+length) in the node's order; with its ticket, and what to wait for. */
function enter(node: BlockNode, offset: number, length: number, serialising: boolean): {
  ticket: Ticket;
  wait: Promise<void> | undefined;
} {
  const align = node.limits.requestAlignment;
  node.serialiser ??= new Serialiser();
  const ticket = node.serialiser.begin(
    alignDown(offset, align),
    alignUp(offset + length, align),
    serialising,
  );
  return { ticket, wait: node.serialiser.wait(ticket) };
}

/** Runs `act` as an aligned write of the range: in order with read-modify-writes that overlap it. */
export function inOrder(
  node: BlockNode,
  offset: number,
  length: number,
  serialising: boolean,
  act: () => MaybePromise<void>,
): MaybePromise<void> {
  const { ticket, wait } = enter(node, offset, length, serialising);
  let result: MaybePromise<void>;
  try {
    result = wait === undefined ? act() : wait.then(act);
  } catch (error) {
    ticket.finish();
    throw error;
  }
  if (result === undefined) return ticket.finish();
  return result.finally(ticket.finish);
}

/** Writes any range of a node that needs alignment. */
export function writeAligned(
  seam: Seam,
  node: BlockNode,
  offset: number,
  iov: IoVec,
  flags: number,
): MaybePromise<void> {
  const align = node.limits.requestAlignment;
  const whole = offset % align === 0 && iov.total % align === 0;
  const act = whole && takesSegments(node, iov)
    ? () => seam.submitWrite(node, offset, iov, flags)
    : () => writeBounced(seam, node, offset, iov, iov.total, flags);
  return inOrder(node, offset, iov.total, !whole, act);
}

/** Writes zeroes to any range, as data. */
export function writeZeroesAligned(
  seam: Seam,
  node: BlockNode,
  offset: number,
  length: number,
  flags: number,
): MaybePromise<void> {
  return inOrder(
    node,
    offset,
    length,
    true,
    () => writeBounced(seam, node, offset, undefined, length, flags),
  );
}

/** Without `iov`: zeroes. The caller has entered the range. */
async function writeBounced(
  seam: Seam,
  node: BlockNode,
  offset: number,
  iov: IoVec | undefined,
  total: number,
  flags: number,
): Promise<void> {
  const align = node.limits.requestAlignment;
  const end = offset + total;
  const step = bounceLength(node);
  const first = alignDown(offset, align);
  const last = alignUp(end, align);
  const buffer = seam.buffers.acquire(Math.min(step, last - first));
  const block = new Vec();
  const readBlock = (at: number, target: number) =>
    readWithin(seam, node, at, block.single(target, align));
  try {
    for (let at = first; at < last; at += step) {
      const length = Math.min(step, last - at);
      const from = Math.max(at, offset);
      const to = Math.min(at + length, end);
      if (from > at) await readBlock(at, buffer.address);
      const tail = alignDown(to, align);
      if (to < at + length && (tail > at || from === at)) {
        await readBlock(tail, buffer.address + (tail - at));
      }
      const target = buffer.address + (from - at);
      if (iov === undefined) seam.sys.fill(target, 0, to - from);
      else gather(seam.sys, iov, from - offset, to - from, target);
      await seam.submitWrite(node, at, block.single(buffer.address, length), flags);
    }
  } finally {
    seam.buffers.release(buffer);
  }
}

/** Reads an aligned block, zeroes where it lies beyond the end. */
function readWithin(
  seam: Seam,
  node: BlockNode,
  offset: number,
  iov: IoVec,
): MaybePromise<void> {
  if (offset >= node.instance.size) return zeroFill(seam.sys, iov);
  return seam.submitRead(node, offset, iov, 0);
}
