/**
 * The data engine: moves the bytes for every format. Formats say where a range lives and where a write may
 * go; the engine goes straight down to the I/O driver when the whole range is one placement, and splits,
 * copies on write, orders and gives back otherwise.
 *
 * Records that locate and reserve fill in are reused, one for each depth of nesting (a format may read its
 * metadata through another format while it answers). A call that does not answer at once keeps its record,
 * and the engine takes a new one: nothing reused is held across an await.
 */
import { assert, chain, type IoVec, type MaybePromise } from "../base/mod.ts";
import { Bounded } from "./bounded.ts";
import { zeroFill } from "./memory.ts";
import type { BlockNode } from "./node.ts";
import { Placed, PlacementRecord, PlanRecord } from "./placement.ts";
import { writeCompressed } from "./compressed.ts";
import { executePlan } from "./plan.ts";
import { mergedWrite, writeMerged } from "./merged.ts";
import type { Seam } from "./seam.ts";
import { type FormatInstance, RequestFlag, type WriteIntent } from "./types.ts";

/** The engine of one context. */
export class Engine {
  readonly #places: PlacementRecord[] = [];
  readonly #plans: (PlanRecord | undefined)[] = [];
  #depth = 0;

  constructor(private readonly seam: Seam) {}

  /** Reads `iov.total` bytes at `offset` of a format node; the range lies within the node. */
  read(
    node: BlockNode,
    format: FormatInstance,
    offset: number,
    iov: IoVec,
    flags: number,
  ): MaybePromise<void> {
    const depth = this.#depth++;
    const place = (this.#places[depth] ??= new PlacementRecord()).begin(iov.total);
    let pending: MaybePromise<void>;
    try {
      pending = format.locate(offset, iov.total, place);
    } finally {
      this.#depth = depth;
    }
    let result: MaybePromise<void>;
    if (pending !== undefined) {
      this.#places[depth] = new PlacementRecord();
      result = pending.then(() => this.#readPlaced(node, format, place, offset, iov, flags));
    } else {
      // Until all pieces are read this record stays in use; reads that begin meanwhile need another one.
      if (place.length < iov.total) this.#places[depth] = new PlacementRecord();
      result = this.#readPlaced(node, format, place, offset, iov, flags);
    }
    return tracked(node, result);
  }

  #readPlaced(
    node: BlockNode,
    format: FormatInstance,
    place: PlacementRecord,
    offset: number,
    iov: IoVec,
    flags: number,
  ): MaybePromise<void> {
    assert(place.kind !== Placed.none, "locate gave no answer");
    if (place.length >= iov.total) return this.#readOne(node, place, offset, iov, flags);
    return this.#readPieces(node, format, place, offset, iov, flags);
  }

  /** Reads `iov`, all of it in one placement. Uses the record only before anything else runs. */
  #readOne(
    node: BlockNode,
    place: PlacementRecord,
    offset: number,
    iov: IoVec,
    flags: number,
  ): MaybePromise<void> {
    switch (place.kind) {
      case Placed.child: {
        const child = place.child!;
        assert(child.parent === node && place.at >= 0, "placed in a child of another node");
        return this.seam.read(child.node, place.at, iov, flags);
      }
      case Placed.unallocated:
        if (place.child !== undefined) {
          // What lies beyond the end of a short backing file reads as zeroes: read() sees to it.
          return this.seam.read(place.child.node, offset, iov, flags);
        }
        return zeroFill(this.seam.sys, iov);
      case Placed.zero:
        return zeroFill(this.seam.sys, iov);
      default:
        return place.decode!(iov);
    }
  }

  /** Reads piece by piece; the pieces' I/O runs together. Waits for all of them also when one fails. */
  async #readPieces(
    node: BlockNode,
    format: FormatInstance,
    place: PlacementRecord,
    offset: number,
    iov: IoVec,
    flags: number,
  ): Promise<void> {
    const bounded = new Bounded();
    let done = 0;
    for (;;) {
      const part = iov.slice(done, Math.min(place.length, iov.total - done));
      const at = offset + done;
      const busy = bounded.run(() => this.#readOne(node, place, at, part, flags));
      if (busy !== undefined) await busy;
      done += part.total;
      if (done === iov.total || bounded.failed) break;
      try {
        const pending = format.locate(
          offset + done,
          iov.total - done,
          place.begin(iov.total - done),
        );
        if (pending !== undefined) await pending;
      } catch (error) {
        bounded.fail(error);
        break;
      }
      assert(place.kind !== Placed.none, "locate gave no answer");
    }
    await bounded.finish();
  }

  /**
   * Where all of the range lies, if that is a child, or the backing file, and can be told at once. To be used before
   * anything else runs.
   */
  locateWhole(
    format: FormatInstance,
    offset: number,
    length: number,
  ): PlacementRecord | undefined {
    const depth = this.#depth++;
    const place = (this.#places[depth] ??= new PlacementRecord()).begin(length);
    let pending: MaybePromise<void>;
    try {
      pending = format.locate(offset, length, place);
    } catch {
      return undefined; // reading meets the failure again, and reports it
    } finally {
      this.#depth = depth;
    }
    if (pending !== undefined) {
      this.#places[depth] = new PlacementRecord();
      pending.catch(() => {});
      return undefined;
    }
    if (place.length < length) return undefined;
    return place.kind === Placed.child || place.kind === Placed.unallocated ? place : undefined;
  }

  /** Writes `iov` at `offset` of a format node. */
  write(
    node: BlockNode,
    format: FormatInstance,
    offset: number,
    iov: IoVec,
    flags: number,
  ): MaybePromise<void> {
    if ((flags & RequestFlag.writeCompressed) !== 0) {
      return writeCompressed(node, format, offset, iov);
    }
    return this.#planned(node, format, this.#plan(offset, iov.total, "data", flags), iov);
  }

  /** Zeroes a range; throws ENOTSUP where the format has no way of its own. */
  writeZeroes(
    node: BlockNode,
    format: FormatInstance,
    offset: number,
    length: number,
    flags: number,
  ): MaybePromise<void> {
    return this.#planned(node, format, this.#plan(offset, length, "zeroes", flags), undefined);
  }

  /** Discards a range; throws ENOTSUP where the format has no way of its own. */
  discard(
    node: BlockNode,
    format: FormatInstance,
    offset: number,
    length: number,
  ): MaybePromise<void> {
    return this.#planned(node, format, this.#plan(offset, length, "discard", 0), undefined);
  }

  /** An empty plan for a request, to be filled in by `reserve` before anything else runs. */
  #plan(start: number, length: number, intent: WriteIntent, flags: number): PlanRecord {
    const plan = this.#plans[this.#depth] ??= new PlanRecord();
    return plan.begin(start, length, intent, flags);
  }

  /** Has `plan` filled in, and carries it out. `iov`: the data, if that is what it is for. */
  #planned(
    node: BlockNode,
    format: FormatInstance,
    plan: PlanRecord,
    iov: IoVec | undefined,
  ): MaybePromise<void> {
    const { start, length } = plan;
    // A format that cannot reserve is opened read-only: the seam has refused the request.
    assert(format.reserve !== undefined, "a read-only format is written to");
    const depth = this.#depth++;
    let pending: MaybePromise<void>;
    try {
      pending = format.reserve(start, length, plan);
    } catch (error) {
      this.#plans[depth] = undefined;
      plan.abandon?.();
      throw error;
    } finally {
      this.#depth = depth;
    }
    if (pending === undefined && plan.simple) return tracked(node, this.#writeOne(plan, iov));
    // While the plan is carried out its record stays in use; requests that begin meanwhile need another one.
    this.#plans[depth] = undefined;
    if (pending === undefined && plan.planned === length) {
      const result = this.#carryOut(node, plan, iov);
      if (result !== undefined) return tracked(node, result);
      this.#plans[depth] = plan;
      return undefined;
    }
    const carryOut = () => this.#carryOut(node, plan, iov);
    const rest = () => {
      const { planned, intent, flags } = plan;
      if (planned === length) return undefined;
      const next = this.#plan(start + planned, length - planned, intent, flags);
      return this.#planned(node, format, next, iov?.slice(planned, length - planned));
    };
    if (pending === undefined) return chain(tracked(node, carryOut()), rest);
    // Each part is counted by itself: a part that waits in the driver may be waiting for the ones before it.
    const done = pending.then(carryOut, (error) => {
      plan.abandon?.();
      throw error;
    });
    return chain(tracked(node, done), rest);
  }

  /** Carries out a plan that is one write in one child. The plan's record is free once that write has begun. */
  #writeOne(plan: PlanRecord, iov: IoVec | undefined): MaybePromise<void> {
    const child = plan.soleChild!;
    switch (plan.intent) {
      case "data":
        return this.seam.writeChild(child, plan.soleAt, iov!, plan.flags);
      case "zeroes":
        return this.seam.writeZeroesChild(child, plan.soleAt, plan.length, plan.flags);
      case "discard":
        return this.seam.discard(child.node, plan.soleAt, plan.length);
    }
  }

  /** Executes the plan, which may cover only the front part of the range. */
  #carryOut(node: BlockNode, plan: PlanRecord, iov: IoVec | undefined): MaybePromise<void> {
    const { planned } = plan;
    assert(planned > 0, "a driver must make progress");
    if (plan.simple) return this.#writeOne(plan, iov);
    const part = iov === undefined || planned === plan.length ? iov : iov.slice(0, planned);
    if (plan.intent === "data") {
      const merged = mergedWrite(plan);
      if (merged !== undefined) return writeMerged(this.seam, node, plan, merged, part!);
    }
    return executePlan(this.seam, node, plan, part);
  }
}

/** Counts a part of a request while it is in flight, where the driver wants to know. */
function tracked(node: BlockNode, result: MaybePromise<void>): MaybePromise<void> {
  return node.epochs === undefined ? result : node.epochs.track(result);
}
