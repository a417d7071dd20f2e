/** The way into the graph for its users: exports, jobs, the monitor (QEMU's BlockBackend). */
import type { IoVec, MaybePromise } from "../base/mod.ts";
import type {
  BlockNodeInfo,
  BlockStatus,
  FilePlace,
  ImageFacts,
  Limits,
  TruncateOptions,
} from "./types.ts";

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
  /**
   * Where a range within the node lies in the page cache of one file, so that it can be sent from there at once.
   * False: read it. Sending may go on while others write: it shows the old or the new data, as a read would.
   * `known`: it was there a moment ago, do not ask again. Absent: always false.
   */
  locateFile?(offset: number, length: number, known: boolean, out: FilePlace): boolean;
  /** Counts a read that its user makes by itself, with locateFile. */
  countRead?(length: number): void;
  /**
   * Whether data for a range within the node had better come out of a pipe, now: it goes to a file, just as it is. 0:
   * no, write it. Else parts of it are to end at multiples of so many bytes where they can. Absent: always 0.
   */
  takesPipe?(offset: number, length: number): number;
  /**
   * Writes at once the `length` bytes that wait in the pipe whose reading end is `pipe`, as part of a request that
   * countWrite counts in the end. Call it when takesPipe has just said so of the range. Bytes written, or -errno:
   * what is left in the pipe can still be written, which works where pages cannot be moved, or tells why not. Throws
   * BlockError when data was taken out of the pipe and not written.
   */
  writeFromPipe?(offset: number, pipe: number, length: number): number;
  /** Counts a write of `length` bytes that was made with writeFromPipe. */
  countWrite?(length: number): void;
  /** Changes what it needs and shares; throws CommandError with QEMU's conflict text. */
  setPermissions(needed: number, shared: number): Promise<void>;
  /** Requests that have not completed. */
  readonly inFlight: number;
  /** Resolves when none is in flight. */
  idle(): Promise<void>;
  /** Waits for requests and lets go of the node. */
  detach(): Promise<void>;
  /** Counters, as query-blockstats and metrics show them: operations, bytes, nanoseconds, failures. */
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
