/** The way into the graph for its users: exports, jobs, the monitor (QEMU's BlockBackend). */
import type { IoVec, MaybePromise } from "../base/mod.ts";
import type { BlockNodeInfo, BlockStatus, ImageFacts, Limits, TruncateOptions } from "./types.ts";
import type { BackendPages } from "./pages_types.ts";

/** What a user of a node says when it attaches. */
export interface BackendOptions {
  /** How conflict messages call it: as "an unnamed block device", "mirror job 'j'". */
  readonly describe: string;
  /** Perm bits. */
  readonly needed: number;
  readonly shared: number;
  /** The node must stay in the thread that it runs in (fixed-iothread). */
  readonly fixedPlace?: boolean;
  /** Flush after each write. */
  readonly writethrough?: boolean;
  /** It can do with reading while the node is inactive (blockdev-set-active); else it keeps the node active. */
  readonly allowInactive?: boolean;
  /** The node's length changed. */
  onResize?(size: number): void;
}

/**
 * An attachment to a node. Requests are checked, aligned, tracked and counted on their way (seam.ts). While
 * the node is drained they wait; nothing has to be done about it by the user. Failures are BlockErrors.
 */
export interface BlockBackend {
  readonly node: BlockNodeInfo;
  /** Bytes. */
  readonly size: number;
  readonly limits: Readonly<Limits>;
  readonly readOnly: boolean;
  /** What the node's driver tells about it. */
  facts(): MaybePromise<Partial<ImageFacts>>;
  /** Whether there is a medium; without one (an empty drive) there is no length either. */
  readonly inserted: boolean;
  /** Any offset and length within the node; unaligned ones are rounded (read-modify-write). */
  read(offset: number, iov: IoVec, flags?: number): MaybePromise<void>;
  write(offset: number, iov: IoVec, flags?: number): MaybePromise<void>;
  writeZeroes(offset: number, length: number, flags?: number): MaybePromise<void>;
  discard(offset: number, length: number): MaybePromise<void>;
  flush(): MaybePromise<void>;
  /** Changes the node's length; only for who has the resize permission. */
  truncate(size: number, options: TruncateOptions): MaybePromise<void>;
  /** Status of the front part of the range, through the whole chain (`allocated`: by any layer). */
  status(
    offset: number,
    length: number,
    precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void>;
  /** Depth of the layer that provides the front part: 0 none, 1 this node, 2 its backing file... */
  allocationDepth(offset: number, length: number): MaybePromise<{ depth: number; length: number }>;
  prefetch(offset: number, length: number): MaybePromise<void>;
  /** Ways past our memory for data. Absent: there are none. */
  readonly pages?: BackendPages;
  /** Changes what it needs and shares; throws CommandError with QEMU's conflict text. */
  setPermissions(needed: number, shared: number): Promise<void>;
  /** Requests that have not completed. */
  readonly inFlight: number;
  /** Resolves when none is in flight. */
  idle(): Promise<void>;
  /** Waits for requests and lets go of the node. */
  detach(): Promise<void>;
  /** Counters since it was attached; query-blockstats shows those of a node's users together. */
  readonly statistics: BackendStatistics;
}

/** Counters of one kind of operation. */
export interface OperationStatistics {
  operations: number;
  bytes: number;
  failed: number;
}
/** Counters of a backend. */
export interface BackendStatistics {
  read: OperationStatistics;
  write: OperationStatistics;
  flush: OperationStatistics;
  discard: OperationStatistics;
}
