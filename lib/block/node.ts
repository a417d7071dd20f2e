/**
 * Nodes and edges of the graph: their state, and nothing else. The graph changes the structure (graph.ts),
 * the seam sends requests (seam.ts).
 */
import { alignUp, assert, type IoVec, type MaybePromise, SECTOR } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Backend } from "./backend.ts";
import type { BackendStatistics } from "./backend_types.ts";
import type { BitmapList } from "./bitmaps/list.ts";
import { FactsRound } from "./facts.ts";
import type { NodeView, RequestInFlight } from "./graph_types.ts";
import type { RequestEpochs } from "./epochs.ts";
import { resolveLimits } from "./limits.ts";
import { dropPages, inPageCache } from "./pages.ts";
import type { Seam } from "./seam.ts";
import type { Serialiser } from "./serialise.ts";
import { noStatistics } from "./statistics.ts";
import { layerStatus } from "./status.ts";
import type { GraphThread } from "./thread_types.ts";
import type { DriverDefinition } from "./driver_types.ts";
import {
  type BlockStatus,
  type Child,
  type ChildRole,
  type DriverInstance,
  type ImageFacts,
  type IoInstance,
  type Limits,
  Perm,
  RequestFlag,
  type TruncateOptions,
} from "./types.ts";

/** The options that every driver takes, with defaults and inheritance resolved. */
export interface CommonOptions {
  readOnly: boolean;
  autoReadOnly: boolean;
  direct: boolean;
  noFlush: boolean;
  discard: "ignore" | "unmap";
  detectZeroes: "off" | "on" | "unmap";
  forceShare: boolean;
  /** Not handed over to another process: blockdev-set-active changes it. */
  active: boolean;
}

/** Whatever holds a node: an edge from a parent node, or a backend. */
export type Parent = Edge | Backend;

/** A node of the graph. */
export class BlockNode implements NodeView {
  #instance: DriverInstance | undefined;
  /** The instance, if the node lives in another context. */
  elsewhere: IoInstance | undefined;
  /** Set when the driver has opened; never shown to others before. */
  #limits: Limits = resolveLimits(undefined, []);
  common: CommonOptions;
  /** The driver's options as given, with the common ones. */
  options: BlockdevOptionsValue;
  /** As blockdev-add was told (read-only may differ from common.readOnly after auto-read-only). */
  monitorOwned = false;
  readonly parents: Parent[] = [];
  readonly children: Edge[] = [];
  /** What all parents together need and share now. */
  permissions = { needed: Perm.none as number, shared: Perm.all as number };
  /** Requests in the driver that did not complete at once, oldest first. */
  readonly requests: Set<RequestInFlight> = new Set();
  /** Orders overlapping writes where the node needs alignment; made when first needed. */
  serialiser: Serialiser | undefined;
  /** Nested drained sections. */
  drained = 0;
  /** What the first of them has asked of the driver. */
  quiescing: MaybePromise<void> = undefined;
  /** Generations of requests in flight, where the driver asked for them. */
  epochs: RequestEpochs | undefined;
  /** Counts completed writes; a flush covers those up to `flushedGeneration`. */
  writeGeneration = 0;
  flushedGeneration = 0;
  flushing: Promise<void> | undefined;
  /** block-set-write-threshold, bytes; 0 is off. A bigint is beyond every write. */
  writeThreshold: number | bigint = 0;
  /** The threshold of a node that runs in an IOThread, where it is watched. */
  shownThreshold: number | bigint = 0;
  /** End of the furthest write, bytes. */
  writeHighest = 0;
  /** Requests of users that have gone; see `usersStatistics`. */
  readonly counted: BackendStatistics = noStatistics();
  /** Takes any offset, length and address: the short way through the seam. */
  plain = false;
  /** The IOThread that it runs in; undefined: the main context. Only the main context's graph keeps this. */
  place: GraphThread | undefined;
  /** `place` was asked for by command: the node stays there when its last user goes. */
  placed = false;
  /** Dirty bitmaps, if there are any. */
  bitmaps: BitmapList | undefined;
  /** Set when the driver has closed: nothing of it is called again. */
  closed = false;

  constructor(
    readonly name: string,
    readonly definition: DriverDefinition<unknown>,
    options: BlockdevOptionsValue,
    common: CommonOptions,
  ) {
    this.options = options;
    this.common = common;
  }

  get driver(): string {
    return this.definition.name;
  }
  get instance(): DriverInstance {
    assert(this.#instance !== undefined, "the driver has not opened yet");
    return this.#instance;
  }
  set instance(instance: DriverInstance) {
    this.#instance = instance;
    this.elsewhere = instance.kind === "io" && instance.forwards === true ? instance : undefined;
    this.refreshLimits();
  }
  get opened(): boolean {
    return this.#instance !== undefined;
  }
  get size(): number {
    return alignUp(this.instance.size, SECTOR);
  }
  /** Whether media are in the drives that it reads from. */
  get inserted(): boolean {
    if (this.elsewhere !== undefined) return this.elsewhere.inserted?.() ?? true;
    return (this.instance.inserted?.() ?? true) &&
      this.children.every((edge) => edge.node.inserted);
  }
  /** Whether `end` lies within the node. (The length is seldom unaligned, and a remainder costs.) */
  holds(end: number): boolean {
    return end <= this.instance.size || end <= this.size;
  }
  get readOnly(): boolean {
    return this.common.readOnly;
  }
  get forceShare(): boolean {
    return this.common.forceShare;
  }
  get active(): boolean {
    return this.common.active;
  }
  get limits(): Limits {
    return this.#limits;
  }
  get supportedFlags(): number {
    return this.instance.supportedFlags ?? 0;
  }

  /** Asks the driver again for its limits. */
  refreshLimits(): void {
    if (this.elsewhere !== undefined) {
      this.#limits = resolveLimits(this.elsewhere.limits, []);
      this.plain = true; // the seam over there aligns
      return;
    }
    this.#limits = resolveLimits(
      this.instance.limits,
      this.children.filter((edge) => !edge.role.includes("cow")).map((edge) => edge.limits),
    );
    this.plain = this.#limits.requestAlignment === 1 &&
      (this.instance.kind === "format" || this.#limits.memoryAlignment === 1);
  }

  /** block-set-write-threshold's, wherever it is watched. */
  get threshold(): number | bigint {
    return this.place === undefined ? this.writeThreshold : this.shownThreshold;
  }

  /** How conflict messages call it as a parent. */
  get describe(): string {
    return `node '${this.name}'`;
  }

  /** Contents changed, or may have: the next flush is not left out, and dirty bitmaps record it. */
  changed(offset: number, length: number): void {
    this.writeGeneration++;
    if (this.bitmaps !== undefined) this.bitmaps.mark(offset, length);
  }

  edge(name: string): Edge | undefined {
    return this.children.find((edge) => edge.name === name);
  }
}

/** An edge: a child as its parent's driver holds it. Its node may be replaced (reopen) while drained. */
export class Edge implements Child {
  needed: number = Perm.none;
  shared: number = Perm.all;

  constructor(
    private readonly seam: Seam,
    readonly parent: BlockNode,
    readonly name: string,
    /** What the child is to its parent; a reopen may change it. */
    public role: readonly ChildRole[],
    /** The node at the other end. */
    public node: BlockNode,
    /** Whether the child was described inline: it is closed with its parent. */
    public owned: boolean,
  ) {}

  get size(): number {
    return this.node.size;
  }
  get limits(): Readonly<Limits> {
    return this.node.limits;
  }

  get compressedUnit(): number | undefined {
    const { instance } = this.node;
    return instance.kind === "format" ? instance.compressedUnit : undefined;
  }

  facts(round: FactsRound = new FactsRound()): MaybePromise<Partial<ImageFacts>> {
    return round.of(this.node);
  }

  /** Whether this edge may write `length` bytes at `offset`: past the end only with the resize permission. */
  mayWrite(offset: number, length: number): boolean {
    return this.node.holds(offset + length) || (this.needed & Perm.resize) !== 0;
  }

  read(offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    return this.seam.read(this.node, offset, iov, flags);
  }
  write(offset: number, iov: IoVec, flags: number): MaybePromise<void> {
    return this.seam.writeChild(this, offset, iov, flags);
  }
  writeZeroes(offset: number, length: number, flags: number): MaybePromise<void> {
    return this.seam.writeZeroesChild(this, offset, length, flags);
  }
  discard(offset: number, length: number): MaybePromise<void> {
    return this.seam.discard(this.node, offset, length);
  }
  flush(): MaybePromise<void> {
    return this.seam.flush(this.node);
  }
  truncate(size: number, options: TruncateOptions): MaybePromise<void> {
    return this.seam.truncate(this.node, size, options);
  }
  status(
    offset: number,
    length: number,
    precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void> {
    return layerStatus(this.node, offset, length, precise, out);
  }
  inPageCache(offset: number, length: number): boolean | undefined {
    return inPageCache(this.seam, this.node, offset, length);
  }
  dropPages(offset: number, length: number): MaybePromise<void> {
    return dropPages(this.seam, this.node, offset, length);
  }
}

/** Whether `flags` ask for force unit access. */
export function wantsFua(flags: number): boolean {
  return (flags & RequestFlag.fua) !== 0;
}

/** `nodes` and all below them, each after those that it stands on. */
export function childrenFirst(nodes: readonly BlockNode[]): BlockNode[] {
  const order = new Set<BlockNode>();
  const visit = (node: BlockNode): void => {
    if (order.has(node)) return;
    for (const edge of node.children) visit(edge.node);
    order.add(node);
  };
  for (const node of nodes) visit(node);
  return [...order];
}
