/**
 * How the graph and its threads talk: what the main context, which owns the graph, asks of the part of it that
 * lives in an IOThread (replica.ts), and what it is told. Everything here can be posted to another thread.
 */
import type { MaybePromise } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { BackendStatistics } from "./backend_types.ts";
import type { BitmapChange, BitmapState } from "./bitmaps/mod.ts";
import type { NodeChannel, NodeFacts } from "./forward.ts";
import type { RequestInFlight } from "./graph_types.ts";
import type { CommonOptions } from "./node.ts";
import type { InternalSnapshot, SnapshotRequest } from "./snapshots.ts";
import type { ChildRole, HandedOver, ImageFacts, TruncateOptions } from "./types.ts";

/** What a node takes along when it moves. */
export interface NodeRecord {
  /** What its driver gave away instead of closing it. */
  handedOver: HandedOver | undefined;
  writeThreshold: number | bigint;
  writeHighest: number;
  /** Requests of users that have gone from the thread where it was. */
  counted?: BackendStatistics;
}

/** A child of a node that is to be opened. */
export interface ChildSpec {
  readonly name: string;
  readonly role: readonly ChildRole[];
  /** The node at the other end; it is there already. */
  readonly node: string;
  readonly owned: boolean;
  readonly needed: number;
  readonly shared: number;
}

/** A node to be opened in a thread. */
export interface NodeSpec {
  readonly name: string;
  readonly handle: number;
  readonly options: BlockdevOptionsValue;
  readonly common: CommonOptions;
  readonly permissions: { readonly needed: number; readonly shared: number };
  readonly children: readonly ChildSpec[];
  readonly record: NodeRecord;
  /** The driver is to be told to keep quiet until `resume`. */
  readonly quiesced: boolean;
  /** Its dirty bitmaps, oldest first. */
  readonly bitmaps: readonly BitmapState[];
}

/** A node that is used in a thread and lives in another context. */
export interface ForwardSpec {
  readonly name: string;
  readonly handle: number;
  readonly options: BlockdevOptionsValue;
  readonly common: CommonOptions;
  readonly facts: NodeFacts;
  /** The context that it lives in. */
  readonly place: string;
}

/** Permissions as the owner of the graph has settled them. */
export interface PermissionNews {
  readonly nodes: readonly (readonly [name: string, needed: number, shared: number])[];
  readonly edges: readonly (readonly [
    parent: string,
    child: string,
    needed: number,
    shared: number,
  ])[];
}

/** What a thread knows of a node that lives in it, for status and statistics. */
export interface NodeReport {
  readonly name: string;
  readonly writeHighest: number;
  readonly writeThreshold: number | bigint;
  readonly statistics: Record<string, unknown> | undefined;
}

/** What a thread knows, for status. */
export interface ThreadReport {
  readonly nodes: readonly NodeReport[];
  /** What users there have asked of nodes, wherever these live. */
  readonly users: readonly { readonly node: string; readonly statistics: BackendStatistics }[];
  readonly requests: readonly RequestInFlight[];
}

/** What the owner of the graph asks of a thread, in this order or another; each call is answered. */
export interface ReplicaCalls {
  /** Opens a node whose children are there. Throws with nothing changed and nothing of the record closed. */
  open(spec: NodeSpec): Promise<NodeFacts>;
  /** Closes a node so that it can be opened elsewhere; its users here stay, and wait for `forward` or `open`. */
  release(name: string): Promise<NodeRecord>;
  /** Makes nodes that live elsewhere known, or known to live somewhere else now. */
  forward(specs: readonly ForwardSpec[]): void;
  /** Nodes that are not used here any more. */
  forget(names: readonly string[]): void;
  /** The end of a node. */
  close(name: string): Promise<void>;
  permissions(news: PermissionNews): void;
  preparePermissions(name: string, needed: number, shared: number): Promise<void>;
  settlePermissions(name: string, commit: boolean): void;
  /** Drain: users here of these nodes (all, if not given) wait until `unhold`. Answers when they are quiet. */
  hold(id: number, names: readonly string[] | undefined): Promise<void>;
  unhold(id: number): void;
  quiesce(name: string): Promise<void>;
  resume(name: string): void;
  truncate(name: string, size: number, options: TruncateOptions): Promise<NodeFacts>;
  facts(name: string): MaybePromise<Partial<ImageFacts>>;
  snapshots(
    name: string,
    request: SnapshotRequest,
  ): Promise<readonly InternalSnapshot[] | undefined>;
  /** A node that lives elsewhere has changed. */
  update(name: string, facts: NodeFacts): void;
  setThreshold(name: string, threshold: number | bigint): void;
  /** Changes a dirty bitmap of the node. */
  changeBitmap(name: string, bitmap: string, change: BitmapChange): void;
  /** Writes the persistent dirty bitmaps of the node to its image: it is about to be closed. */
  storeBitmaps(name: string): Promise<void>;
  report(): ThreadReport;
}

/** What a thread tells the owner of the graph. */
export interface ReplicaNews {
  /** With the dirty bitmaps, whose memory may be another one now. */
  resized(name: string, facts: NodeFacts, bitmaps: readonly BitmapState[]): void;
  thresholdExceeded(name: string, exceeded: number, threshold: number | bigint): void;
  /** A QMP event. */
  emit(event: string, data: Record<string, unknown>): void;
}

/** Where a node runs: an IOThread, or undefined for the main context. */
export type Place = GraphThread | undefined;

/** The owner's view of a thread. */
export interface GraphThread {
  /** The iothread's id. */
  readonly name: string;
  /** Nothing runs there any more: all calls reject. */
  readonly failed: boolean;
  /** From the main context to the thread's nodes. */
  readonly channel: NodeChannel;
  /** Calls are carried out in their order. Rejects with CommandError or BlockError. */
  call<M extends keyof ReplicaCalls>(
    method: M,
    ...args: Parameters<ReplicaCalls[M]>
  ): Promise<Awaited<ReturnType<ReplicaCalls[M]>>>;
  /** As `call`, where no answer is needed. */
  post<M extends keyof ReplicaCalls>(method: M, ...args: Parameters<ReplicaCalls[M]>): void;
  /** Lets requests go from here to `other` directly. */
  connect(other: GraphThread): Promise<void>;
}
