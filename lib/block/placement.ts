/** What `locate` and `reserve` fill in: reusable records. */
import { assert, type IoVec, type MaybePromise } from "../base/mod.ts";
import type { Edge } from "./node.ts";
import {
  type Child,
  type Placement,
  type PlanEncoder,
  RequestFlag,
  type WriteIntent,
  type WritePlan,
} from "./types.ts";

/** Kinds of placements. */
export const Placed = { none: 0, child: 1, zero: 2, unallocated: 3, encoded: 4 } as const;

/** One placement: where the front part of a range lives. */
export class PlacementRecord implements Placement {
  kind: number = Placed.none;
  /** Bytes from the start of the range, at most what was asked. */
  length = 0;
  /** The child of `child`, or the backing file of `unallocated`. */
  child: Edge | undefined;
  /** Offset in the child. */
  at = 0;
  /** zero: this layer says so itself. */
  allocated = false;
  decode: ((iov: IoVec) => MaybePromise<void>) | undefined;
  #asked = 0;

  /** Gets ready for an answer about `length` bytes. */
  begin(length: number): this {
    this.kind = Placed.none;
    this.#asked = length;
    return this;
  }
  #cut(length: number | undefined): number {
    assert(this.kind === Placed.none, "locate answered twice");
    if (length === undefined) return this.#asked;
    assert(length > 0, "a driver must make progress");
    return Math.min(length, this.#asked);
  }

  inChild(child: Child, at: number, length?: number): void {
    this.length = this.#cut(length);
    this.kind = Placed.child;
    this.child = child as Edge;
    this.at = at;
  }
  zero(length?: number, allocated = true): void {
    this.length = this.#cut(length);
    this.kind = Placed.zero;
    this.allocated = allocated;
  }
  unallocated(backing: Child | undefined, length?: number): void {
    this.length = this.#cut(length);
    this.kind = Placed.unallocated;
    this.child = backing as Edge | undefined;
  }
  encoded(decode: (iov: IoVec) => MaybePromise<void>, length?: number): void {
    this.length = this.#cut(length);
    this.kind = Placed.encoded;
    this.decode = decode;
  }

  toString(): string {
    switch (this.kind) {
      case Placed.child:
        return `${this.length} bytes in ${this.child!.name} at ${this.at}`;
      case Placed.zero:
        return `${this.length} bytes of zeroes${this.allocated ? "" : " (not allocated)"}`;
      case Placed.unallocated:
        return `${this.length} bytes in ${this.child?.name ?? "nothing"} (not allocated)`;
      case Placed.encoded:
        return `${this.length} bytes encoded`;
      default:
        return "nothing";
    }
  }
}

/** A step of a plan. `from`: guest offset of the data; copies take it as it read before the write. */
export interface PlanStep {
  readonly kind: "data" | "metadata" | "copy";
  readonly from: number;
  readonly length: number;
  readonly child: Edge | undefined;
  readonly at: number;
}

/** A write plan: what is written, where each byte of the range goes, and what follows. */
export class PlanRecord implements WritePlan {
  /** The range, in bytes of the node. */
  start = 0;
  length = 0;
  intent: WriteIntent = "data";
  /** Of RequestFlag. */
  flags = 0;
  /** The first step, if it is data for the whole range: kept apart so that nothing is allocated for it. */
  soleChild: Edge | undefined;
  soleAt = 0;
  readonly steps: PlanStep[] = [];
  encode: PlanEncoder | undefined;
  commit: (() => MaybePromise<void>) | undefined;
  abandon: (() => void) | undefined;
  #planned = 0;

  /** Gets ready for a plan of `length` bytes from `start` on. */
  begin(start: number, length: number, intent: WriteIntent, flags: number): this {
    this.start = start;
    this.length = length;
    this.intent = intent;
    this.flags = flags;
    this.#planned = 0;
    this.soleChild = undefined;
    if (this.steps.length > 0) this.steps.length = 0;
    this.encode = undefined;
    this.commit = undefined;
    this.abandon = undefined;
    return this;
  }

  get mayUnmap(): boolean {
    return (this.flags & RequestFlag.mayUnmap) !== 0;
  }
  /** Bytes of the range that the plan covers. */
  get planned(): number {
    return this.#planned;
  }
  /** Whether it is nothing but one write of the whole range in a child. */
  get simple(): boolean {
    return this.soleChild !== undefined && this.steps.length === 0 && this.commit === undefined &&
      this.abandon === undefined && this.encode === undefined;
  }

  #take(length: number | undefined): number {
    const left = this.length - this.#planned;
    const take = length ?? left;
    assert(take > 0 && take <= left, "a plan must stay within the range");
    return take;
  }
  inChild(child: Child, at: number, length?: number): void {
    const take = this.#take(length);
    if (this.#planned === 0 && take === this.length) {
      this.soleChild = child as Edge;
      this.soleAt = at;
    } else {
      const from = this.start + this.#planned;
      this.steps.push({ kind: "data", from, length: take, child: child as Edge, at });
    }
    this.#planned += take;
  }
  metadataOnly(length?: number): void {
    const take = this.#take(length);
    const from = this.start + this.#planned;
    this.steps.push({ kind: "metadata", from, length: take, child: undefined, at: 0 });
    this.#planned += take;
  }
  copy(from: number, child: Child, at: number, length: number): void {
    assert(length > 0, "an empty copy");
    this.steps.push({ kind: "copy", from, length, child: child as Edge, at });
  }
  encoded(encode: PlanEncoder): void {
    assert(this.encode === undefined, "a plan has one encoder");
    this.encode = encode;
  }
  onCommit(commit: () => MaybePromise<void>): void {
    assert(this.commit === undefined, "a plan has one commit");
    this.commit = commit;
  }
  onAbandon(abandon: () => void): void {
    assert(this.abandon === undefined, "a plan has one abandon");
    this.abandon = abandon;
  }

  /** Every step, the sole one included. */
  allSteps(): PlanStep[] {
    if (this.soleChild === undefined) return [...this.steps];
    return [{
      kind: "data",
      from: this.start,
      length: this.length,
      child: this.soleChild,
      at: this.soleAt,
    }, ...this.steps];
  }

  toString(): string {
    const lines = this.allSteps().map((step) =>
      step.kind === "metadata"
        ? `metadata only for ${step.length} at ${step.from}`
        : `${step.kind} ${step.length} from ${step.from} to ${step.child!.name} at ${step.at}`
    );
    if (this.encode !== undefined) lines.push("encoded");
    if (this.commit !== undefined) lines.push("commit");
    return lines.join("; ");
  }
}
