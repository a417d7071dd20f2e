/**
 * The block layer's vocabulary: what an opened driver is, what it is told and what it answers. How one is opened:
 * driver_types.ts.
 *
 * Two kinds of drivers. A *format* does no data I/O: it says where a range lives (`locate`) and where a
 * write may go (`reserve`); one engine moves the bytes. An *I/O driver* (protocols, interposing filters)
 * reads and writes itself. Both are called only through the seam (seam.ts), which has checked the range,
 * the alignment, the permissions and the limits: drivers contain almost no checking.
 *
 * All offsets and lengths are in bytes. `undefined` from a MaybePromise<void> means: done already.
 */
import type { IoVec, MaybePromise } from "../base/mod.ts";
import type { FactsRound } from "./facts.ts";
import type { InternalSnapshots } from "./snapshots.ts";
import type { DirtyBitmap } from "./bitmaps/bitmap.ts";
import type { OpenContext } from "./driver_types.ts";
import type { CachedPages, FilePages } from "./pages_types.ts";

/** Permissions on an edge of the graph (QEMU's BLK_PERM_*; the bit is also the lock byte's index). */
export const Perm = {
  consistentRead: 1,
  write: 2,
  writeUnchanged: 4,
  resize: 8,
  none: 0,
  all: 15,
} as const;

/** What a child is to its parent. */
export type ChildRole = "data" | "metadata" | "filtered" | "cow" | "primary";

/** Bits that go with a request. */
export const RequestFlag = {
  /** Force unit access: on stable storage before the request completes. */
  fua: 1,
  /** write-zeroes may deallocate. */
  mayUnmap: 2,
  /** write-zeroes must fail with ENOTSUP rather than write zeroes the slow way. */
  noFallback: 4,
  /** A write that does not change what is read (needs only write-unchanged). */
  unchanged: 8,
  /** A write of whole clusters that the format is to store compressed. Only where `Child.compressedUnit` is there. */
  writeCompressed: 16,
  /** A read into memory that only the requester has ever seen (a guest's): bytes that have no contents may stay. */
  ownMemory: 32,
  /** write-zeroes leaves nothing of the range in the page cache where it can, be it as a hole (CachedPages.inPageCache). */
  noPages: 64,
} as const;

/** What a node can take in one request. Bytes; the defaults are in brackets. */
export interface Limits {
  /** Offsets and lengths of driver calls are multiples of this [1]. */
  requestAlignment: number;
  /** Addresses of I/O buffers are multiples of this [1]. */
  memoryAlignment: number;
  /** Largest read or write [2^31 - requestAlignment]. */
  maxTransfer: number;
  /** Largest and preferred multiple of write-zeroes and discard [no limit; requestAlignment]. */
  maxWriteZeroes: number;
  writeZeroesAlignment: number;
  maxDiscard: number;
  discardAlignment: number;
  /** Preferred size and largest number of segments. */
  optimalTransfer: number;
  maxSegments: number;
}

/** Where the front part of a range lives: filled in by `locate`. */
export interface Placement {
  /** In a child, at `at`; `raw` as it is. */
  inChild(child: Child, at: number, length?: number): void;
  /** Reads as zeroes. `allocated`: this layer says so itself (does not defer to a backing file). */
  zero(length?: number, allocated?: boolean): void;
  /** This layer has nothing here: read what lies at the same place in `backing`, or zeroes. */
  unallocated(backing: Child | undefined, length?: number): void;
  /** Encoded (compressed, encrypted): `decode` fills native memory with `length` bytes from `start` on. */
  encoded(decode: (iov: IoVec) => MaybePromise<void>, length?: number): void;
}

/** Where a write goes: filled in by `reserve`; a value that can be printed and tested without a disk. */
export interface WritePlan {
  /** What the range is to be written for. */
  readonly intent: WriteIntent;
  /** Of zeroes: the range may be deallocated. */
  readonly mayUnmap: boolean;
  /** The next `length` bytes of the range (all that is left, if not given) go to `child` at `at`. */
  inChild(child: Child, at: number, length?: number): void;
  /** The next `length` bytes need no data written: metadata (see `commit`) says that they are zero or gone. */
  metadataOnly(length?: number): void;
  /**
   * Copy on write around the data: the `length` guest bytes at `from` of this node, as they read before the
   * write, are written to `child` at `at`, together with the neighbouring data where possible.
   */
  copy(from: number, child: Child, at: number, length: number): void;
  /** All data and copies of the plan go through `encode` on their way to the child (encryption). */
  encoded(encode: PlanEncoder): void;
  /** Runs once the data is there: metadata updates, in their order. At most one. */
  onCommit(commit: () => MaybePromise<void>): void;
  /** Runs instead if the data could not be written: gives reserved clusters back. */
  onAbandon(abandon: () => void): void;
}

/**
 * Encodes what lies in `iov`, the guest's bytes from `from` on that go to the child at `at`, to as many bytes of native
 * memory at `target`. If `iov` is one segment, that may be the very same memory.
 */
export type PlanEncoder = (
  iov: IoVec,
  target: number,
  from: number,
  at: number,
) => MaybePromise<void>;

/** What a range is to be written for. */
export type WriteIntent = "data" | "zeroes" | "discard";

/** One extent of block status; `length` bytes from the asked offset on are alike. */
export interface BlockStatus {
  length: number;
  /** This layer provides the contents (data or zeroes of its own). */
  allocated: boolean;
  /** Reads as data that is worth reading (SEEK_DATA). */
  data: boolean;
  /** Reads as zeroes. */
  zero: boolean;
  /** Where it lies, when it can be told: a plain offset in `file`. */
  offset?: number;
  file?: BlockNodeInfo;
  /** In answers of other contexts that were asked for it: which layer provides the contents, see `IoInstance.depth`. */
  depth?: number;
}

/**
 * Persistent dirty bitmaps in an image. Calls come one at a time, in the graph's queue; of those that write, none
 * while the node is read-only or inactive. Failures are CommandErrors or BlockErrors.
 */
export interface BitmapStore {
  /** The bitmaps that the image holds, when it was opened or activated. `claim` follows, if it is writable. */
  load(): Promise<DirtyBitmap[]>;
  /** Throws CommandError, with the driver's reason, if a bitmap like that could not be stored beside `others`. */
  checkNew(
    name: string,
    granularity: number,
    others: readonly DirtyBitmap[],
  ): MaybePromise<void>;
  /** Writes the bitmaps to the image, which holds no others afterwards, and calls them consistent. */
  store(bitmaps: readonly DirtyBitmap[]): Promise<void>;
  /** Removes one from the image, if it is there. */
  remove(name: string): Promise<void>;
  /** Throws CommandError if one of the bitmaps could not be stored in an image of `size` bytes. */
  checkSize(size: number, bitmaps: readonly DirtyBitmap[]): void;
  /**
   * The node was opened, activated or reopened for writing: the image says, durably, that its bitmaps are in use. Until
   * `store`, what it holds of them is out of date.
   */
  claim(): Promise<void>;
  /** Instead of `load`, when the driver was closed and opened again without storing: what belongs to the image. */
  resume(): Promise<void>;
}

/** What every opened driver offers. */
export interface DriverInstanceBase {
  /** Length of the node in bytes, now. May be a getter; the seam reads it on each request. */
  readonly size: number;
  /** Asked after open and reopen, and when a child has changed. */
  readonly limits?: Partial<Limits>;
  /**
   * Request flags that write/writeZeroes honour by themselves; the seam emulates FUA with a flush. A format
   * says `fua` when it is enough that the data it places is written so (raw: it has no metadata).
   */
  readonly supportedFlags?: number;
  /** Makes what was written durable: the node's own part. Children are flushed by the engine afterwards. */
  flush?(): MaybePromise<void>;
  /** Changes the length. `exact`: not larger than asked. New bytes read as zeroes. */
  truncate?(size: number, options: TruncateOptions): MaybePromise<void>;
  /**
   * Permissions that all parents together need and share are about to change (image locking lives here).
   * `prepare` may throw and must not drop what is held; then `commit` or `abort` follows.
   */
  preparePermissions?(needed: number, shared: number): MaybePromise<PermissionChange>;
  /**
   * Takes new options: everything that can fail happens here; then `commit` or `abort` follows, before those
   * of permissions. Children that `next` gives are only for looking at what will be: the driver keeps the
   * ones from open, which lead to the new nodes after the commit.
   */
  prepareReopen?(next: OpenContext, options: unknown): MaybePromise<ReopenChange>;
  /** What query-named-block-nodes tells: see ImageFacts. Children are asked in the same round. */
  facts?(round: FactsRound): MaybePromise<Partial<ImageFacts>>;
  /** change-backing-file: writes another name (empty: none) and format into the header. Absent: it has none. */
  changeBackingFile?(filename: string, format: string | undefined): MaybePromise<void>;
  /** x-blockdev-amend: changes the image as the driver's branch of BlockdevAmendOptions says. Absent: it cannot. */
  amend?(options: Readonly<Record<string, unknown>>, force: boolean): MaybePromise<void>;
  /** Snapshots inside the image. Absent: the driver has no such thing. */
  readonly snapshots?: InternalSnapshots;
  /** Whether a medium is in the drive. Absent: there always is one. */
  inserted?(): boolean;
  /** Driver-specific part of query-blockstats. */
  statistics?(): Record<string, unknown> | undefined;
  /** Where persistent dirty bitmaps are kept. Absent: nowhere. */
  readonly bitmaps?: BitmapStore | undefined;
  /** Drain: no request is in flight until `resume`. Background activity of the driver stops. */
  quiesce?(): MaybePromise<void>;
  resume?(): void;
  /**
   * The node becomes inactive: another process may take the image over. Everything was flushed and no request is
   * in flight; what close would still write is written now, since nothing may be afterwards (not even by close).
   */
  inactivate?(): MaybePromise<void>;
  /** The opposite, with the permissions already taken: the image may be another by now, so nothing cached holds. */
  activate?(): MaybePromise<void>;
  /** Last call: everything was flushed, no request is in flight. */
  close(): MaybePromise<void>;
  /**
   * Instead of close: the node is opened again right away, in another thread or in this one, and finds what this
   * gives in OpenContext.handedOver. For what must not be let go of, as descriptors with their locks.
   */
  handOver?(): MaybePromise<HandedOver>;
}

/** What one instance of a driver gives to the next. It can be posted to another thread. */
export interface HandedOver {
  /** Open descriptors: whoever finds no taker replaces or closes them. */
  readonly fds: readonly number[];
  readonly state: unknown;
}

/** How to change a length. */
export interface TruncateOptions {
  exact: boolean;
  preallocation: "off" | "metadata" | "falloc" | "full";
  /** Asked between the pieces of what takes long: throws once nobody wants the result any more. */
  goOn?: (() => void) | undefined;
}
/** A prepared change of permissions: one of the two follows. */
export interface PermissionChange {
  commit(): void;
  abort(): void;
}
/** A prepared change of options: one of the two follows. */
export interface ReopenChange {
  commit(): MaybePromise<void>;
  /**
   * After everything was committed, permissions too, before requests go on. What fails here is told, but the
   * reopen is not undone.
   */
  finish?(): MaybePromise<void>;
  abort(): MaybePromise<void>;
}

/** Facts for people and QMP (ImageInfo). */
export interface ImageFacts {
  filename: string;
  /** Options that open the node again, nested; only where driver and filename do not say it all. */
  options: Record<string, unknown>;
  format: string;
  /** Bytes allocated on the host, when known. */
  actualSize: number;
  clusterSize: number;
  encrypted: boolean;
  /** Whether the image was not closed cleanly; told by those that ask their file (raw, file: false). */
  dirtyFlag: boolean;
  formatSpecific: { type: string; data: Record<string, unknown> };
  /** The backing file as the image names it, as seen from here, and its format. */
  backingFilename: string;
  fullBackingFilename: string;
  backingFormat: string;
}

/** A format driver's opened image. Neither method does data I/O. */
export interface FormatInstance extends DriverInstanceBase {
  readonly kind: "format";
  /**
   * A guest's byte stays where it is in the child: what lies there does not become another's while a reply that
   * was sent from the file's pages waits in a socket.
   */
  readonly fixed?: boolean;
  /**
   * Where that is not so: `length` bytes at `at` of the child that `locate` gave are about to be sent from the page
   * cache. True: those pages never hold anything else, however long somebody keeps them. False: copy instead. Absent,
   * and not `fixed`: as false.
   */
  sending?(at: number, length: number): boolean;
  /** Says where the bytes from `start` on live: at least one, at most `length` (more is cut off by the seam). */
  locate(start: number, length: number, out: Placement): MaybePromise<void>;
  /**
   * The child that what is written goes to, just as it is, so that it may come out of a pipe. Plans for data that are
   * made at once are committed at once if nothing else ran in between. Absent: there is none.
   */
  readonly pipesTo?: Child | undefined;
  /** Makes room for a write to the bytes from `start` on. Absent: read-only format. */
  reserve?(start: number, length: number, plan: WritePlan): MaybePromise<void>;
  /** Bytes of what can be stored compressed: a cluster. Absent: the format has no compression. */
  readonly compressedUnit?: number | undefined;
  /** Writes one such unit (or the short last one of the image) compressed. Moves the bytes itself. */
  writeCompressed?(offset: number, iov: IoVec): MaybePromise<void>;
}

/** An I/O driver's opened node. The length of a read or write is `iov.total`. */
export interface IoInstance extends DriverInstanceBase {
  readonly kind: "io";
  read(offset: number, iov: IoVec, flags: number): MaybePromise<void>;
  write?(offset: number, iov: IoVec, flags: number): MaybePromise<void>;
  /** Throws BlockError ENOTSUP when it cannot do it quickly: the seam then writes zeroes (unless noFallback). */
  writeZeroes?(offset: number, length: number, flags: number): MaybePromise<void>;
  /** ENOTSUP is not an error to callers: discard is advice. */
  discard?(offset: number, length: number): MaybePromise<void>;
  /** Absent: everything is data. `out` is filled; `length` of at least one byte. */
  status?(
    offset: number,
    length: number,
    precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void>;
  /** The pages of the file that the node is. Absent: all data passes through memory. */
  readonly pages?: FilePages | undefined;
  /** Brings data into the cache (NBD CACHE); advice. */
  prefetch?(offset: number, length: number): MaybePromise<void>;
  /** The node lives in another context: every request goes there as it is, and is checked there. */
  readonly forwards?: true;
  /**
   * Of a node elsewhere that stands for all the layers below it: which of them provides the front part, whose length
   * `out` then has. 1 is the node, 0 none.
   */
  readonly depth?:
    | ((offset: number, length: number, out: BlockStatus) => Promise<number>)
    | undefined;
}

/** An opened driver. */
export type DriverInstance = FormatInstance | IoInstance;

/** What others may know of a node. */
export interface BlockNodeInfo {
  readonly name: string;
  readonly driver: string;
  readonly size: number;
}

/** An edge of the graph, as the parent's driver holds it. */
export interface Child extends CachedPages {
  /** Its name in the parent: "file", "backing", "data-file"... */
  readonly name: string;
  readonly node: BlockNodeInfo;
  /** Length of the child node in bytes, now. */
  readonly size: number;
  /** Limits of the child node. */
  readonly limits: Readonly<Limits>;
  /** Bytes of what the child node stores compressed with RequestFlag.writeCompressed; undefined: nothing. */
  readonly compressedUnit: number | undefined;
  /** What its driver tells about it, in answer to the question that `round` is for; absent: one of its own. */
  facts(round?: FactsRound): MaybePromise<Partial<ImageFacts>>;
  // For interposing filters and metadata; format data goes through locate/reserve instead.
  read(offset: number, iov: IoVec, flags: number): MaybePromise<void>;
  write(offset: number, iov: IoVec, flags: number): MaybePromise<void>;
  writeZeroes(offset: number, length: number, flags: number): MaybePromise<void>;
  discard(offset: number, length: number): MaybePromise<void>;
  flush(): MaybePromise<void>;
  truncate(size: number, options: TruncateOptions): MaybePromise<void>;
  status(
    offset: number,
    length: number,
    precise: boolean,
    out: BlockStatus,
  ): MaybePromise<void>;
}
