/**
 * What the parts of the qcow2 driver know of each other. `Qcow2Image` is an opened image: the map (map.ts),
 * the reference counts (refcounts.ts) and the write-back of both (commit.ts) implement it; snapshots, bitmaps,
 * check, resize and information are written against it.
 *
 * ## The order of writes
 * A power cut at any point leaves an image without errors (leaks allowed), because changes of metadata stay
 * in the caches until `commit`, which writes them in this order:
 *
 * 1. reference count blocks (only increases are in them, see 5), then, if there are new blocks, a flush and the
 *    reference count table;
 * 2. a flush: counts and data (copy-on-write included) are stable before anything leads to them;
 * 3. L2 slices; then, if there are new L2 tables, a flush and the L1 entries that lead to them;
 * 4. a flush;
 * 5. only now clusters that nothing leads to any more are given back: their counts decrease in the cache (a cut
 *    before the next commit leaks them), and they may be used again once requests that were in flight settled.
 *
 * All offsets and lengths are in bytes; "host" offsets are in the image file (or data file), "guest" offsets in
 * the virtual disk. Source: the QCOW2 specification (docs/interop/qcow2).
 */
import type { IoVec, MaybePromise } from "../../../base/mod.ts";
import type { Context } from "../../../sys/mod.ts";
import type {
  BitmapStore,
  Child,
  FactsRound,
  FormatInstance,
  ImageFacts,
  OpenContext,
  ReopenChange,
} from "../../mod.ts";
import type { CompressedCluster } from "./format.ts";
import type { Header } from "./header.ts";
import type { WordTable } from "./metadata.ts";

/** Fixed figures of an image, from its header. */
export interface Geometry {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  /** Bytes of a cluster: 512 to 2 MiB. */
  readonly clusterSize: number;
  /** Bits of a reference count: 1 to 64. */
  readonly refcountBits: number;
  /** Largest reference count that is used, capped to 2^53 - 1. */
  readonly refcountMax: number;
  /** 128-bit L2 entries with 32 subclusters. */
  readonly extendedL2: boolean;
  /** Bytes of an L2 entry: 8 or 16; entries of one L2 table (one cluster). */
  readonly l2EntrySize: number;
  readonly l2Entries: number;
  /** Guest bytes that one L2 table maps. */
  readonly l2Coverage: number;
  /** Bytes of a subcluster: a cluster without extended L2. */
  readonly subclusterSize: number;
  /** Reference counts in one block (one cluster). */
  readonly refcountBlockEntries: number;
  /** Guest data lives in an external data file. */
  readonly externalData: boolean;
  readonly dataFileRaw: boolean;
  readonly compression: "zlib" | "zstd";
}

/** What a host range holds, for overlap checks and messages. */
export type MetadataKind =
  | "header"
  | "active L1 table"
  | "active L2 table"
  | "refcount table"
  | "refcount block"
  | "snapshot table"
  | "inactive L1 table"
  | "inactive L2 table"
  | "bitmap directory"
  | "bitmap table"
  | "bitmap data"
  | "data";

/** Options of an opened image, resolved (open.ts): defaults filled in, percentages and sizes checked. */
export interface ImageOptions {
  /** Bytes of the L2 cache, of one of its entries (512 to a cluster), and of the refcount cache. */
  readonly l2CacheSize: number;
  readonly l2CacheEntrySize: number;
  readonly refcountCacheSize: number;
  /** Seconds after which unused cache entries are dropped; 0: never. */
  readonly cacheCleanInterval: number;
  /** Reference counts are written late, under the dirty bit (option, or the header's compatible feature). */
  readonly lazyRefcounts: boolean;
  readonly passDiscardRequest: boolean;
  readonly passDiscardSnapshot: boolean;
  readonly passDiscardOther: boolean;
  /** Discards keep clusters allocated (zero flag only). */
  readonly discardNoUnref: boolean;
  /** Structures that are looked after before each write. */
  readonly overlapCheck: ReadonlySet<MetadataKind>;
}

/** Compressed clusters: compressed.ts implements it, mod.ts hands it in. */
export interface ClusterCodec {
  /** Fills `iov` with the bytes from `from` on of what the cluster holds when it is expanded. */
  decode(
    image: Qcow2Image,
    cluster: CompressedCluster,
    from: number,
    iov: IoVec,
  ): MaybePromise<void>;
  /**
   * Compresses one cluster of data (`iov.total` is the cluster size) to native memory at `target`, which has
   * room for a cluster. The length, or 0 when it would not be shorter than a cluster.
   */
  encode(image: Qcow2Image, iov: IoVec, target: number): MaybePromise<number>;
  /** Another stream is about to be written in [offset, offset + length) of the file. */
  forget(offset: number, length: number): void;
  /** No request is in flight any more. */
  close(): void;
}

/**
 * Encryption of guest data, in sectors of 512 bytes. Offsets are those of the data's first byte, multiples of 512:
 * LUKS numbers its sectors by where they lie in the file, legacy AES as the guest does. Compressed clusters and
 * metadata are not encrypted.
 */
export interface ClusterCipher {
  /** Decrypts `iov` where it is. */
  decrypt(iov: IoVec, guest: number, host: number): MaybePromise<void>;
  /** Encrypts `iov` to native memory at `target`, which has room for it; it may be the same memory. */
  encrypt(iov: IoVec, target: number, guest: number, host: number): MaybePromise<void>;
}

/** What the node's driver definition (mod.ts) adds to the image. */
export interface ImageHooks {
  facts(image: Qcow2Image, round: FactsRound): MaybePromise<Partial<ImageFacts>>;
  prepareReopen?(
    image: OpenedImage,
    next: OpenContext,
    options: unknown,
  ): MaybePromise<ReopenChange>;
  /** x-blockdev-amend and change-backing-file; see DriverInstanceBase. */
  amend?(
    image: OpenedImage,
    options: Readonly<Record<string, unknown>>,
    force: boolean,
  ): MaybePromise<void>;
  changeBackingFile?(
    image: OpenedImage,
    filename: string,
    format: string | undefined,
  ): MaybePromise<void>;
  /** Where persistent dirty bitmaps are kept. */
  bitmaps?(image: Qcow2Image): BitmapStore;
  /**
   * What the header that was found on activation becomes: the image is made ready for writing, or a snapshot is
   * shown instead. Absent: it stays.
   */
  arrived?(image: OpenedImage, header: Header): Promise<Header>;
}

/** What `openImage(parts: ImageParts): Promise<OpenedImage>` (instance.ts) is given. */
export interface ImageParts {
  readonly context: Context;
  readonly open: OpenContext;
  readonly nodeName: string;
  /** Parsed and checked; the dirty bit was dealt with (repaired) before. */
  readonly header: Header;
  readonly file: Child;
  /** `file`, or the external data file. */
  readonly data: Child;
  readonly backing: Child | undefined;
  readonly readOnly: boolean;
  readonly options: ImageOptions;
  readonly codec: ClusterCodec;
  readonly cipher?: ClusterCipher;
  readonly hooks: ImageHooks;
}

/** An opened image as the block layer and the driver definition see it. */
export interface OpenedImage extends FormatInstance, Qcow2Image {
  /** Takes new options (reopen); caches of another size are made anew when nothing is dirty. */
  configure(options: ImageOptions, readOnly: boolean): Promise<void>;
  /** Another backing file (reopen), or none. Nothing is in flight. */
  setBacking(backing: Child | undefined): void;
  /** Reads header and tables anew, after somebody else changed the file. */
  activate(): Promise<void>;
  /** Writes one cluster (or the short last one) compressed, or as it is when that is not shorter. */
  writeCompressed(offset: number, iov: IoVec): MaybePromise<void>;
}

/** What snapshots change of an image, on its way from one state to another: see transition.ts. */
export interface StateChange {
  /** The active table's own L2 tables get new places: their flags can change then. */
  ownTables(): Promise<void>;
  /** One reference more, or less, to everything that the table leads to, compressed clusters and L2 tables included. */
  add(l1: WordTable): Promise<void>;
  drop(l1: WordTable): Promise<void>;
  /** One less to the clusters of a range. */
  dropRange(offset: number, length: number): MaybePromise<void>;
  /** The active L1 table has these entries from now on. */
  setL1(entries: WordTable): Promise<void>;
  /** The copied flags of the active tables become what the counts say. */
  mark(): Promise<void>;
}

/** An opened image, as its parts see it. */
export interface Qcow2Image {
  readonly context: Context;
  readonly options: ImageOptions;
  readonly nodeName: string;
  readonly geometry: Geometry;
  /** The header as it is on disk, or is about to be. Change it by `updateHeader` only. */
  readonly header: Header;
  /** The image file; metadata lives here. */
  readonly file: Child;
  /** Guest data: `file`, or the external data file. */
  readonly data: Child;
  readonly backing: Child | undefined;
  readonly readOnly: boolean;
  /** Length of the virtual disk in bytes. */
  readonly size: number;

  /**
   * Runs `task` alone: no reserve is outstanding and no other exclusive task runs; reads go on. For changes of
   * more than one L2 entry: snapshots, resize, bitmaps' directory.
   */
  exclusive<T>(task: () => Promise<T>): Promise<T>;

  // --- metadata, uncached: tables of snapshots and bitmaps, headers ---
  /** `length` bytes at `offset` of the image file; what lies past its end reads as zeroes. */
  readMetadata(offset: number, length: number): Promise<Uint8Array>;
  /** Writes them, after an overlap check that `kind` may pass. */
  writeMetadata(offset: number, bytes: Uint8Array, kind: MetadataKind): Promise<void>;
  /** The same for a table, which may be long: others have their turn. */
  writeTable(offset: number, table: WordTable, kind: MetadataKind): Promise<void>;
  /** Overlap checks know that the range holds `kind` from now on; or that it does not, and is to be given back. */
  protect(offset: number, length: number, kind: MetadataKind): void;
  unprotect(offset: number, length: number, kind: MetadataKind): void;
  /** Rewrites the header cluster with `change` applied, stable before and after. */
  updateHeader(change: Partial<Header>): Promise<void>;

  // --- reference counts ---
  /** The count of the cluster at `offset` (cached view). */
  refcount(offset: number): MaybePromise<number>;
  /** Allocates contiguous clusters for `length` bytes; count 1. Contents are undefined. ENOSPC, EFBIG... */
  allocate(length: number): Promise<number>;
  /** One less, after the next commit (order of writes, 5). `discard`: pass on to the file what became free. */
  release(
    offset: number,
    length: number,
    discard: "request" | "snapshot" | "other" | "never",
  ): void;

  // --- the map ---
  /** Where the entries of the active L1 table lead, without their flags: as it is now. */
  activeL1(): WordTable;
  /**
   * Runs `task`, in `exclusive`: what it changes shows on disk all at once, with what it returns for the header. When
   * something fails, nothing has changed.
   */
  transit(task: (change: StateChange) => Promise<Partial<Header>>): Promise<void>;

  /** The image as `header` describes it, beside this one and only to be read (a snapshot). Close it first. */
  openView(header: Header): Promise<OpenedImage>;
  /** Writes all cached metadata in the order above; stable when it resolves. */
  commit(): Promise<void>;

  /** A structure is broken: marks the image corrupt, sends BLOCK_IMAGE_CORRUPTED, and throws EIO. */
  corrupt(message: string, offset?: number, size?: number): never;
}
