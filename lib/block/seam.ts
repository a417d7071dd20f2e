/**
 * The seam: the one place through which every request reaches a driver. It has checked range, alignment,
 * permission and limits before the driver is called, splits what is too large, keeps the list of requests
 * in flight, writes trace events, emulates what a driver lacks, and asserts afterwards.
 *
 * What completes at once stays synchronous and allocates nothing. Nothing but the node, the IoVec and plain
 * numbers is relied on across an await: the graph is only changed while the node is drained.
 */
import { BlockError, type IoVec, IoVec as Vec, type MaybePromise } from "../base/mod.ts";
import type { BufferPool, Context, Memory, Sys, TracePoint } from "../sys/mod.ts";
import { inOrder, readAligned, writeAligned } from "./align.ts";
import { Bounded } from "./bounded.ts";
import { Engine } from "./engine.ts";
import { flushNode } from "./flush.ts";
import type { RequestInFlight } from "./graph_types.ts";
import { isAllZero, zeroFill } from "./memory.ts";
import { type BlockNode, type Edge, wantsFua } from "./node.ts";
import { Perm, RequestFlag, type TruncateOptions } from "./types.ts";
import { discardRange, zeroRange } from "./zeroes.ts";
import { truncateNode } from "./truncate.ts";
import { prefetchRange } from "./prefetch.ts";

/** What the seam tells the graph. */
export interface SeamEvents {
  /** A write ends `exceeded` bytes beyond the node's write threshold. */
  thresholdExceeded(node: BlockNode, exceeded: number): void;
  /** The node's length or limits may have changed. */
  resized(node: BlockNode): void;
}

/** Length of the shared buffer of zeroes, in bytes. */
const ZEROES = 1024 * 1024;

/** The seam of one context. */
export class Seam {
  readonly sys: Sys;
  readonly buffers: BufferPool;
  readonly engine: Engine;
  readonly #traceRead: TracePoint;
  readonly #traceWrite: TracePoint;
  readonly #traceZeroes: TracePoint;
  readonly #traceFlush: TracePoint;
  #zeroes: Memory | undefined;

  constructor(readonly context: Context, readonly events: SeamEvents) {
    this.sys = context.sys;
    this.buffers = context.buffers;
    this.engine = new Engine(this);
    this.#traceRead = context.trace("bdrv_co_preadv_part");
    this.#traceWrite = context.trace("bdrv_co_pwritev_part");
    this.#traceZeroes = context.trace("bdrv_co_pwrite_zeroes");
    this.#traceFlush = context.trace("bdrv_co_flush");
  }

  /** Memory that holds nothing but zeroes, ZEROES bytes long. */
  get zeroes(): Memory {
    return this.#zeroes ??= this.sys.allocate(ZEROES);
  }

  /** Gives back what the seam holds. */
  close(): void {
    this.#zeroes?.unmap();
    this.#zeroes = undefined;
  }

  /** Whether somebody wants to be told of each read. */
  get tracesReads(): boolean {
    return this.#traceRead.enabled;
  }
  /** The same of writes. */
  get tracesWrites(): boolean {
    return this.#traceWrite.enabled;
  }

  // --- reads ---

  /** Reads `iov.total` bytes at `offset`; what lies beyond the end of the node reads as zeroes. */
  read(node: BlockNode, offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    const length = iov.total;
    if (this.#traceRead.enabled) this.#trace(this.#traceRead, node, offset, length, flags);
    if (offset + length > node.instance.size || length === 0 || tooLarge(node, iov)) {
      return this.#readOdd(node, offset, iov, flags);
    }
    if (node.plain) return this.submitRead(node, offset, iov, flags);
    return readAligned(this, node, offset, iov, flags);
  }

  /** The end of the node lies inside, or the request is too large for one call. */
  #readOdd(node: BlockNode, offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    const inside = Math.min(iov.total, Math.max(0, node.instance.size - offset));
    if (inside < iov.total) {
      zeroFill(this.sys, iov, inside);
      if (inside === 0) return undefined;
      return this.read(node, offset, iov.slice(0, inside), flags);
    }
    return this.#inPieces(node, offset, iov, (at, part) => this.read(node, at, part, flags));
  }

  /** One call into the driver; the caller has seen to range and alignment. */
  submitRead(node: BlockNode, offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    const instance = node.instance;
    if (instance.kind === "format") return this.engine.read(node, instance, offset, iov, flags);
    const result = instance.read(offset, iov, flags);
    if (result === undefined) return undefined;
    return this.track(node, "read", offset, iov.total, result);
  }

  // --- writes ---

  /** Writes on behalf of a parent: past the end only with the resize permission. */
  writeChild(edge: Edge, offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    this.checkChild(edge, "write", offset, iov.total);
    return this.write(edge.node, offset, iov, flags);
  }

  /**
   * As writeChild. They may unmap only where the child's `discard` says so; those that a node's own users write
   * (an export) may whatever it says, as in QEMU: or what is copied to an export would lose its holes.
   */
  writeZeroesChild(
    edge: Edge,
    offset: number,
    length: number,
    flags: number,
  ): MaybePromise<void> {
    this.checkChild(edge, "write-zeroes", offset, length);
    const kept = edge.node.common.discard === "unmap" ? flags : flags & ~RequestFlag.mayUnmap;
    return this.writeZeroes(edge.node, offset, length, kept);
  }

  /** Throws unless `edge` may write there. */
  checkChild(edge: Edge, op: string, offset: number, length: number): void {
    if (!edge.mayWrite(offset, length)) {
      throw new BlockError("EIO", "write beyond the end of the node", {
        node: edge.node.name,
        op,
        offset,
      });
    }
    if ((edge.needed & (Perm.write | Perm.writeUnchanged)) === 0) {
      throw new BlockError("EPERM", "write without permission", {
        node: edge.node.name,
        op,
        offset,
      });
    }
  }

  /** Writes `iov` at `offset`. */
  write(node: BlockNode, offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    const length = iov.total;
    if (this.#traceWrite.enabled) this.#trace(this.#traceWrite, node, offset, length, flags);
    this.checkWritable(node, "write", offset);
    if (length === 0) return undefined;
    if (node.common.detectZeroes !== "off" && isAllZero(this.sys, iov)) {
      const unmap = node.common.detectZeroes === "unmap" ? RequestFlag.mayUnmap : 0;
      return this.writeZeroes(node, offset, length, flags | unmap);
    }
    if (node.writeThreshold !== 0) this.#checkThreshold(node, offset + length);
    const emulateFua = wantsFua(flags) && !wantsFua(node.supportedFlags);
    const passed = emulateFua ? flags & ~RequestFlag.fua : flags;
    let result: MaybePromise<void>;
    try {
      if (tooLarge(node, iov)) {
        result = this.#inPieces(
          node,
          offset,
          iov,
          (at, part) => this.write(node, at, part, passed),
        );
      } else if (node.plain) {
        result = this.submitWrite(node, offset, iov, passed);
      } else {
        result = writeAligned(this, node, offset, iov, passed);
      }
    } catch (error) {
      // It may have been written in part: the next flush is not to be left out.
      node.changed(offset, length);
      throw error;
    }
    return this.afterWrite(node, offset, length, result, emulateFua);
  }

  /** One call into the driver; the caller has seen to range, alignment and order. */
  submitWrite(node: BlockNode, offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    const instance = node.instance;
    if (instance.kind === "format") return this.engine.write(node, instance, offset, iov, flags);
    if (instance.write === undefined) throw readOnlyError(node, "write", offset);
    const result = instance.write(offset, iov, flags);
    if (result === undefined) return undefined;
    return this.track(node, "write", offset, iov.total, result);
  }

  /** Counts a write once it is done, whatever became of it, and flushes it for an emulated FUA. */
  afterWrite(
    node: BlockNode,
    offset: number,
    length: number,
    result: MaybePromise<void>,
    flush: boolean,
  ): MaybePromise<void> {
    if (result === undefined) {
      node.changed(offset, length);
      if (offset + length > node.writeHighest) node.writeHighest = offset + length;
      return flush ? this.flush(node) : undefined;
    }
    return result.then(
      () => this.afterWrite(node, offset, length, undefined, flush),
      (error) => {
        node.changed(offset, length);
        throw error;
      },
    );
  }

  /** Writes zeroes, quickly where the driver can (see zeroes.ts). */
  writeZeroes(
    node: BlockNode,
    offset: number,
    length: number,
    flags: number,
  ): MaybePromise<void> {
    if (this.#traceZeroes.enabled) this.#trace(this.#traceZeroes, node, offset, length, flags);
    this.checkWritable(node, "write-zeroes", offset);
    if (length === 0) return undefined;
    if (node.elsewhere !== undefined) {
      const sent = Promise.resolve(node.elsewhere.writeZeroes!(offset, length, flags));
      return this.track(node, "write-zeroes", offset, length, sent);
    }
    if (node.writeThreshold !== 0) this.#checkThreshold(node, offset + length);
    const emulateFua = wantsFua(flags) && !wantsFua(node.supportedFlags);
    const passed = emulateFua ? flags & ~RequestFlag.fua : flags;
    let result: MaybePromise<void>;
    try {
      result = zeroRange(this, node, offset, length, passed);
    } catch (error) {
      node.changed(offset, length); // as in write
      throw error;
    }
    return this.afterWrite(node, offset, length, result, emulateFua);
  }

  /** Tells the driver that the contents are not needed. Advice: what cannot be discarded stays. */
  discard(node: BlockNode, offset: number, length: number): MaybePromise<void> {
    this.checkWritable(node, "discard", offset);
    if (node.elsewhere !== undefined && length > 0) {
      const sent = Promise.resolve(node.elsewhere.discard!(offset, length));
      return this.track(node, "discard", offset, length, sent);
    }
    if (length === 0 || node.common.discard !== "unmap") return undefined;
    const act = () => discardRange(this, node, offset, length);
    let result: MaybePromise<void>;
    try {
      result = node.limits.requestAlignment === 1
        ? act()
        : inOrder(node, offset, length, false, act);
    } catch (error) {
      node.changed(offset, length); // as in write
      throw error;
    }
    if (result === undefined) return node.changed(offset, length);
    return result.finally(() => node.changed(offset, length));
  }

  /** Makes every write that has completed durable: the node's own part, then its children's. */
  flush(node: BlockNode): MaybePromise<void> {
    if (node.readOnly || !node.active) return undefined;
    if (this.#traceFlush.enabled) this.#traceFlush.emit(`bs ${node.name}`);
    return flushNode(this, node);
  }

  /** Brings data into the cache, where the driver knows how; advice. */
  prefetch(node: BlockNode, offset: number, length: number): MaybePromise<void> {
    return prefetchRange(this, node, offset, length);
  }

  /** Changes the length of a node. */
  truncate(node: BlockNode, size: number, options: TruncateOptions): MaybePromise<void> {
    return truncateNode(this, node, size, options);
  }

  // --- common parts ---

  /** Refuses writes on read-only nodes. */
  checkWritable(node: BlockNode, op: string, offset: number): void {
    if (node.common.readOnly) throw readOnlyError(node, op, offset);
    if (!node.common.active) throw inactiveError(node, op, offset);
  }

  #checkThreshold(node: BlockNode, end: number): void {
    if (end <= node.writeThreshold) return;
    this.events.thresholdExceeded(node, end - Number(node.writeThreshold));
  }

  /** Puts a request on the node's list until `result` settles. */
  track(
    node: BlockNode,
    op: string,
    offset: number,
    length: number,
    result: Promise<void>,
  ): Promise<void> {
    const request: RequestInFlight = {
      op,
      node: node.name,
      offset,
      length,
      startedNs: this.sys.monotonicNs(),
    };
    node.requests.add(request);
    return result.then(
      () => void node.requests.delete(request),
      (error) => {
        node.requests.delete(request);
        throw error;
      },
    );
  }

  /** Splits a request that is too large for the node; the parts run together, a few at a time. */
  #inPieces(
    node: BlockNode,
    offset: number,
    iov: IoVec,
    act: (offset: number, part: IoVec) => MaybePromise<void>,
  ): MaybePromise<void> {
    if (iov.total === 0) return undefined;
    const bounded = new Bounded();
    const cut = (from: number) =>
      iov.slice(from, pieceLength(node, offset + from, iov, from), new Vec());
    const loop = async (from: number, wait: Promise<void> | undefined) => {
      await wait;
      let done = from;
      while (done < iov.total && !bounded.failed) {
        const start = done;
        const part = cut(start);
        done += part.total;
        await bounded.run(() => act(offset + start, part));
      }
      await bounded.finish();
    };
    const part = cut(0);
    return loop(part.total, bounded.run(() => act(offset, part)));
  }

  #trace(point: TracePoint, node: BlockNode, offset: number, bytes: number, flags: number): void {
    point.emit(`bs ${node.name} offset ${offset} bytes ${bytes} flags 0x${flags.toString(16)}`);
  }
}

/**
 * Whether a request must be split before it goes on. Too many segments are no reason where the node needs alignment:
 * a cut between two segments may be unaligned, so such a request goes through bounce buffers instead.
 */
function tooLarge({ limits, plain }: BlockNode, iov: IoVec): boolean {
  return iov.total > limits.maxTransfer || (plain && iov.count > limits.maxSegments);
}

/** Bytes of the piece of `iov` from `start` on, which is for `offset` of the node: as large as can be. */
function pieceLength(node: BlockNode, offset: number, iov: IoVec, start: number): number {
  const { maxTransfer, requestAlignment, maxSegments } = node.limits;
  // It ends on a block of the node, so that only the ends of the whole request can be unaligned.
  const most = Math.min(maxTransfer - (offset % requestAlignment), iov.total - start);
  if (!node.plain) return most;
  let end = 0;
  let segments = 0;
  for (let i = 0; i < iov.count && segments < maxSegments; i++) {
    end += iov.lengths[i]!;
    if (end > start) segments++;
  }
  return Math.min(most, end - start);
}

/** As readOnlyError, for nodes that are another process's now. */
function inactiveError({ name }: BlockNode, op: string, offset: number): BlockError {
  return new BlockError("EPERM", `node '${name}' is inactive`, { node: name, op, offset });
}

/** Writes are refused here with EPERM, as in QEMU. */
function readOnlyError(node: BlockNode, op: string, offset: number): BlockError {
  return new BlockError("EPERM", "Block node is read-only", { node: node.name, op, offset });
}
