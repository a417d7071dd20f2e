/**
 * An opened image as its own parts see it: what ties them together, and what they use of each other (Qcow2Image). What
 * the block layer sees of it is in instance.ts.
 */
import { BlockError, type MaybePromise } from "../../../base/mod.ts";
import { type Context, Pace } from "../../../sys/mod.ts";
import type { BitmapStore, Child } from "../../mod.ts";
import { Allocator } from "./allocate.ts";
import { CacheCleaner } from "./cleaner.ts";
import { Commits } from "./commit.ts";
import { CompressedSpace } from "./compressed_write.ts";
import { type DiscardReason, Releases } from "./discard.ts";
import { geometryOf } from "./format.ts";
import type { Header } from "./header.ts";
import { HeaderState } from "./header_state.ts";
import { HeldClusters } from "./held.ts";
import { InFlight } from "./inflight.ts";
import { L1Table } from "./l1.ts";
import { ClusterMap } from "./map.ts";
import { readBytes, WordTable, writeBytes, writeTable } from "./metadata.ts";
import { OverlapMap } from "./overlap.ts";
import { Planning } from "./planning.ts";
import { Refcounts } from "./refcounts.ts";
import { SentClusters, type SentState } from "./sent.ts";
import { Snapshots } from "./snapshots.ts";
import { L2Tables } from "./tables.ts";
import { type Qcow2Traces, qcow2Traces } from "./traces.ts";
import { transit, type Transition } from "./transition.ts";
import type {
  ClusterCipher,
  ClusterCodec,
  Geometry,
  ImageOptions,
  ImageParts,
  MetadataKind,
  OpenedImage,
  Qcow2Image,
  StateChange,
} from "./types.ts";
import { mustWait } from "./waiting.ts";

/** Slots that must be left of each cache, whatever the options say. */
const MIN_L2_SLICES = 2;
const MIN_REFCOUNT_BLOCKS = 4;

/** The image. Parts (map, counts, ...) know each other through it. */
export abstract class Image implements Qcow2Image {
  protected readonly parts: ImageParts;
  readonly context: Context;
  readonly nodeName: string;
  readonly traces: Qcow2Traces;
  /** That of all long work on the tables. */
  readonly pace: Pace;
  readonly file: Child;
  readonly data: Child;
  backing: Child | undefined;
  readonly bitmaps: BitmapStore | undefined;
  readonly codec: ClusterCodec;
  readonly cipher: ClusterCipher | undefined;
  readonly planning: Planning;
  readonly commits: Commits;
  readonly releases: Releases;
  readonly inFlight: InFlight = new InFlight();
  /** Clusters whose pages clients may hold. */
  readonly sent: SentClusters;
  readonly held: HeldClusters = new HeldClusters(this);
  readonly snapshots: Snapshots = new Snapshots(this);
  geometry: Geometry;
  l1!: L1Table;
  map!: ClusterMap;
  refcounts!: Refcounts;
  allocator!: Allocator;
  overlap!: OverlapMap;
  tables!: L2Tables;
  compressedSpace!: CompressedSpace;
  /** Commits write neither the L1 nor the refcount table meanwhile. */
  transition: Transition | undefined;
  protected readonly headerState: HeaderState;
  #options: ImageOptions;
  #readOnly: boolean;
  #size: number;
  /** End of what was written to the external data file, or of the file. */
  #dataEnd = 0;
  protected readonly cleaner: CacheCleaner = new CacheCleaner(this);

  constructor(parts: ImageParts) {
    this.parts = parts;
    this.context = parts.context;
    this.nodeName = parts.nodeName;
    this.traces = qcow2Traces(parts.context);
    this.pace = new Pace(parts.context);
    this.headerState = new HeaderState(parts, parts.header);
    this.geometry = geometryOf(parts.header);
    this.file = parts.file;
    this.data = parts.data;
    this.backing = parts.backing;
    this.codec = parts.codec;
    this.bitmaps = parts.hooks.bitmaps?.(this);
    this.cipher = parts.cipher;
    this.#options = parts.options;
    this.#readOnly = parts.readOnly;
    this.#size = parts.header.size;
    const settled = parts.open.trackRequests();
    this.planning = new Planning(this, settled);
    this.sent = new SentClusters(this, parts.open.handedOver?.state as SentState | undefined);
    this.commits = new Commits(this);
    this.releases = new Releases(this, settled);
  }

  /** Reads the tables and makes the parts. */
  async load(): Promise<void> {
    this.#take(await this.#readTables(this.header));
    await this.snapshots.load();
  }

  async #readTables(header: Header): Promise<{ l1: WordTable; counts: WordTable }> {
    const { context, file } = this;
    const clusterSize = 2 ** header.clusterBits;
    const l1 = await readBytes(context, file, header.l1Offset, header.l1Size * 8);
    const counts = await readBytes(
      context,
      file,
      header.refcountTableOffset,
      header.refcountTableClusters * clusterSize,
    );
    return { l1: WordTable.parse(l1), counts: WordTable.parse(counts) };
  }
  #take({ l1, counts }: { l1: WordTable; counts: WordTable }): void {
    const { header } = this;
    this.l1 = new L1Table(l1, header.l1Offset);
    this.#assemble(counts, header.refcountTableOffset);
  }

  /** The parts, with nothing cached. */
  #assemble(counts: WordTable, countsOffset: number): void {
    const { l2CacheSize, l2CacheEntrySize, refcountCacheSize } = this.#options;
    const slices = Math.max(MIN_L2_SLICES, Math.floor(l2CacheSize / l2CacheEntrySize));
    const blocks = Math.floor(refcountCacheSize / this.geometry.clusterSize);
    this.map = new ClusterMap(this, slices, () => this.commits.commit());
    this.refcounts = new Refcounts(
      this,
      counts,
      countsOffset,
      Math.max(MIN_REFCOUNT_BLOCKS, blocks),
      () => this.commits.commit(true),
    );
    this.allocator = new Allocator(this);
    this.compressedSpace = new CompressedSpace(this);
    this.overlap = new OverlapMap(this);
    this.tables = new L2Tables(this);
    this.planning.renew();
    this.#dataEnd = this.geometry.externalData ? this.data.size : 0;
    if (!this.#readOnly) this.overlap.fill();
    this.cleaner.start();
  }

  /** Makes the parts anew for other options. Nothing is cached. */
  protected reassemble(options: ImageOptions, readOnly: boolean): void {
    this.#options = options;
    this.#readOnly = readOnly;
    const { table, tableOffset } = this.refcounts;
    this.#assemble(table, tableOffset);
  }

  /** Reads the tables anew that `header` leads to; what is cached goes, unless they cannot be read. */
  protected async reload(header: Header): Promise<void> {
    const tables = await this.#readTables(header);
    await this.closeCaches();
    this.headerState.header = header;
    this.geometry = geometryOf(header);
    this.#size = header.size;
    this.#take(tables);
    await this.snapshots.load();
  }

  protected async closeCaches(): Promise<void> {
    await this.map.cache.close();
    await this.refcounts.cache.close();
  }

  // --- facts ---

  get header(): Header {
    return this.headerState.header;
  }
  get options(): ImageOptions {
    return this.#options;
  }
  get readOnly(): boolean {
    return this.#readOnly;
  }
  get size(): number {
    return this.#size;
  }
  /** Marked corrupt: nothing more is written to it. */
  get corrupted(): boolean {
    return this.headerState.corrupt;
  }
  /** Counts are written late. */
  get lazy(): boolean {
    return this.#options.lazyRefcounts && this.geometry.version >= 3;
  }
  get dataEnd(): number {
    return this.#dataEnd;
  }
  noteData(end: number): void {
    if (end > this.#dataEnd) this.#dataEnd = end;
  }
  /** Whether guest offset `guest` reads as zeroes where this layer has nothing. */
  emptyBelow(guest: number): boolean {
    return this.backing === undefined || guest >= this.backing.size;
  }

  // --- for the parts ---

  exclusive<T>(task: () => Promise<T>): Promise<T> {
    return this.planning.exclusive(task);
  }

  readMetadata(offset: number, length: number): Promise<Uint8Array> {
    return readBytes(this.context, this.file, offset, length);
  }
  async writeMetadata(offset: number, bytes: Uint8Array, kind: MetadataKind): Promise<void> {
    this.overlap.check(offset, bytes.length, kind);
    await writeBytes(this.context, this.file, offset, bytes);
  }
  async writeTable(offset: number, table: WordTable, kind: MetadataKind): Promise<void> {
    this.overlap.check(offset, table.length * 8, kind);
    await writeTable(this.context, this.file, offset, table);
  }
  protect(offset: number, length: number, kind: MetadataKind): void {
    this.overlap.add(offset, length, kind);
  }
  unprotect(offset: number, length: number, kind: MetadataKind): void {
    this.overlap.retire(offset, length, kind);
  }

  async updateHeader(change: Partial<Header>): Promise<void> {
    this.planning.refuseCorrupt();
    await this.headerState.update(() => change);
  }
  /** The file may have another header than this one. */
  get headerDoubtful(): boolean {
    return this.headerState.doubtful;
  }
  /** Nothing may be written that only this header leads to, or given back, before it is there. */
  assureHeader(): Promise<void> | undefined {
    return this.headerState.assure();
  }

  refcount(offset: number): MaybePromise<number> {
    const cluster = Math.floor(offset / this.geometry.clusterSize);
    const count = this.refcounts.peek(cluster);
    return mustWait(count) ? this.refcounts.get(cluster) : count;
  }
  async allocate(length: number): Promise<number> {
    const dirty = this.markDirty();
    if (dirty !== undefined) await dirty;
    return await this.allocator.allocate(length);
  }
  release(offset: number, length: number, discard: DiscardReason): void {
    this.releases.add(offset, length, discard);
  }

  activeL1(): WordTable {
    return this.l1.table.targets();
  }
  transit(task: (change: StateChange) => Promise<Partial<Header>>): Promise<void> {
    return transit(this, task);
  }

  abstract openView(header: Header): Promise<OpenedImage>;

  commit(): Promise<void> {
    return this.commits.commit();
  }

  /** The length on disk; `allow` alone lets the image write up to another one, until it is that, or is not. */
  allow(size: number): void {
    this.#size = size;
  }
  async setSize(size: number): Promise<void> {
    await this.updateHeader({ size });
    this.#size = size;
  }

  // --- marks in the header ---

  /** With lazy counts, sets the dirty bit before anything changes. Undefined: nothing to wait for. */
  markDirty(): Promise<void> | undefined {
    return this.lazy ? this.headerState.markDirty() : undefined;
  }

  corrupt(message: string, offset?: number, size?: number): never {
    this.headerState.markCorrupt(message, !this.#readOnly, offset, size);
    throw new BlockError("EIO", message, { node: this.nodeName });
  }
  /** A structure is broken that does no harm: told, and that is all. */
  suspect(message: string): void {
    this.headerState.markCorrupt(message, false);
  }
}
