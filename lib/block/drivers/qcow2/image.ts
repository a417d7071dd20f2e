/**
 * An opened image: ties the parts together, and is what the block layer (FormatInstance) and the driver's other
 * parts (Qcow2Image) see of them.
 */
import {
  assert,
  BlockError,
  CommandError,
  type IoVec,
  type MaybePromise,
  SECTOR,
} from "../../../base/mod.ts";
import { type Context, Pace } from "../../../sys/mod.ts";
import type {
  BitmapStore,
  Child,
  FactsRound,
  HandedOver,
  ImageFacts,
  Limits,
  OpenContext,
  Placement,
  ReopenChange,
  TruncateOptions,
  WritePlan,
} from "../../mod.ts";
import { Allocator } from "./allocate.ts";
import { CacheCleaner } from "./cleaner.ts";
import { Commits } from "./commit.ts";
import { CompressedSpace, writeCompressed } from "./compressed_write.ts";
import { type DiscardReason, Releases } from "./discard.ts";
import { geometryOf } from "./format.ts";
import { type Header, MAX_HEADER_BYTES, parseHeader } from "./header.ts";
import { HeaderState } from "./header_state.ts";
import { HeldClusters } from "./held.ts";
import { InFlight } from "./inflight.ts";
import { L1Table } from "./l1.ts";
import { ClusterMap } from "./map.ts";
import { readBytes, WordTable, writeBytes } from "./metadata.ts";
import { OverlapMap } from "./overlap.ts";
import { Planning } from "./planning.ts";
import { Refcounts } from "./refcounts.ts";
import { resize } from "./resize.ts";
import { SentClusters, type SentState } from "./sent.ts";
import { quiet, settle } from "./settle.ts";
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
  StateChange,
} from "./types.ts";
import { mustWait } from "./waiting.ts";

/** Slots that must be left of each cache, whatever the options say. */
const MIN_L2_SLICES = 2;
const MIN_REFCOUNT_BLOCKS = 4;

/** Opens an image whose header was parsed; reads the L1 table and the refcount table. */
export async function openImage(parts: ImageParts): Promise<OpenedImage> {
  const image = new Image(parts);
  await image.load();
  return image;
}

/** The image. Parts (map, counts, ...) know each other through it. */
export class Image implements OpenedImage {
  readonly kind = "format";
  readonly #parts: ImageParts;
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
  readonly #header: HeaderState;
  #options: ImageOptions;
  #readOnly: boolean;
  #size: number;
  /** End of what was written to the external data file, or of the file. */
  #dataEnd = 0;
  readonly #cleaner: CacheCleaner = new CacheCleaner(this);

  constructor(parts: ImageParts) {
    this.#parts = parts;
    this.context = parts.context;
    this.nodeName = parts.nodeName;
    this.traces = qcow2Traces(parts.context);
    this.pace = new Pace(parts.context);
    this.#header = new HeaderState(parts, parts.header);
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
    const { header, context, file } = this;
    const { clusterSize } = this.geometry;
    const l1 = await readBytes(context, file, header.l1Offset, header.l1Size * 8);
    const counts = await readBytes(
      context,
      file,
      header.refcountTableOffset,
      header.refcountTableClusters * clusterSize,
    );
    this.l1 = new L1Table(WordTable.parse(l1), header.l1Offset);
    this.#assemble(WordTable.parse(counts), header.refcountTableOffset);
    await this.snapshots.load();
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
    this.resume();
  }

  // --- facts ---

  get header(): Header {
    return this.#header.header;
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
    return this.#header.corrupt;
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
  get limits(): Partial<Limits> {
    const { subclusterSize, clusterSize } = this.geometry;
    const limits: Partial<Limits> = {
      writeZeroesAlignment: subclusterSize,
      discardAlignment: clusterSize,
    };
    if (this.cipher !== undefined) limits.requestAlignment = SECTOR;
    return limits;
  }
  /** Nobody could find a stream in a data file, nor decrypt one. */
  get compressedUnit(): number | undefined {
    const { externalData, clusterSize } = this.geometry;
    return externalData || this.cipher !== undefined ? undefined : clusterSize;
  }
  facts(round: FactsRound): MaybePromise<Partial<ImageFacts>> {
    return this.#parts.hooks.facts(this, round);
  }

  /** Whether guest offset `guest` reads as zeroes where this layer has nothing. */
  emptyBelow(guest: number): boolean {
    return this.backing === undefined || guest >= this.backing.size;
  }

  // --- requests ---

  sending(at: number, length: number): boolean {
    // Data files are not allocated from: guest data lies at its own offset.
    if (this.geometry.externalData) return true;
    if (!this.held.many) return this.sent.sending(at, length);
    this.releases.lookAgain();
    return false;
  }

  get pipesTo(): Child | undefined {
    return this.cipher === undefined ? this.data : undefined;
  }

  locate(start: number, length: number, out: Placement): MaybePromise<void> {
    return this.map.locate(start, length, out);
  }

  reserve(start: number, length: number, plan: WritePlan): MaybePromise<void> {
    return this.planning.reserve(start, length, plan);
  }

  writeCompressed(offset: number, iov: IoVec): Promise<void> {
    this.planning.checkWritable();
    return writeCompressed(this, offset, iov);
  }

  flush(): MaybePromise<void> {
    if (this.#readOnly || (!this.commits.needed && !this.commits.running)) return undefined;
    return this.commits.commit();
  }

  truncate(size: number, options: TruncateOptions): Promise<void> {
    if (size % SECTOR !== 0) throw new CommandError("The new size must be a multiple of 512");
    this.planning.checkWritable();
    return this.exclusive(() => resize(this, size, options));
  }

  // --- Qcow2Image ---

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
  protect(offset: number, length: number, kind: MetadataKind): void {
    this.overlap.add(offset, length, kind);
  }
  unprotect(offset: number, length: number, kind: MetadataKind): void {
    this.overlap.retire(offset, length, kind);
  }

  async updateHeader(change: Partial<Header>): Promise<void> {
    this.planning.refuseCorrupt();
    await this.#header.update(() => change);
  }
  /** The file may have another header than this one. */
  get headerDoubtful(): boolean {
    return this.#header.doubtful;
  }
  /** Nothing may be written that only this header leads to, or given back, before it is there. */
  assureHeader(): Promise<void> | undefined {
    return this.#header.assure();
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

  get l1Length(): number {
    return this.l1.length;
  }
  l1Entry(index: number): bigint {
    return this.l1.table.entry(index);
  }
  transit(task: (change: StateChange) => Promise<Partial<Header>>): Promise<void> {
    return transit(this, task);
  }

  /** The image as `header` describes it, beside this one and only to be read; its map may not change meanwhile. */
  openView(header: Header): Promise<OpenedImage> {
    const { codec } = this;
    return openImage({
      ...this.#parts,
      header,
      readOnly: true,
      // Closed with this image.
      codec: {
        decode: (...args) => codec.decode(...args),
        encode: (...args) => codec.encode(...args),
        forget: (...args) => codec.forget(...args),
        close: () => {},
      },
      hooks: { facts: () => ({}) },
    });
  }

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
    return this.lazy ? this.#header.markDirty() : undefined;
  }

  corrupt(message: string, offset?: number, size?: number): never {
    this.#header.markCorrupt(message, !this.#readOnly, offset, size);
    throw new BlockError("EIO", message, { node: this.nodeName });
  }
  /** A structure is broken that does no harm: told, and that is all. */
  suspect(message: string): void {
    this.#header.markCorrupt(message, false);
  }

  // --- the node's life ---

  quiesce(): Promise<void> {
    this.#cleaner.stop();
    return quiet(this);
  }
  resume(): void {
    this.#cleaner.start();
  }

  prepareReopen(next: OpenContext, options: unknown): MaybePromise<ReopenChange> {
    const { prepareReopen } = this.#parts.hooks;
    assert(prepareReopen !== undefined, "no hook for reopen");
    return prepareReopen(this, next, options);
  }

  amend(options: Readonly<Record<string, unknown>>, force: boolean): MaybePromise<void> {
    return this.#parts.hooks.amend?.(this, options, force);
  }
  changeBackingFile(filename: string, format: string | undefined): MaybePromise<void> {
    return this.#parts.hooks.changeBackingFile?.(this, filename, format);
  }

  async configure(options: ImageOptions, readOnly: boolean): Promise<void> {
    await settle(this, this.#header);
    await this.quiesce();
    const { table, tableOffset } = this.refcounts;
    await this.#closeCaches();
    this.#options = options;
    this.#readOnly = readOnly;
    this.sent.reopened();
    this.#assemble(table, tableOffset);
    if (!readOnly && this.header.snapshotCount > 0) await this.snapshots.protect();
  }

  setBacking(backing: Child | undefined): void {
    this.backing = backing;
  }

  inactivate(): Promise<void> {
    return settle(this, this.#header);
  }
  async activate(): Promise<void> {
    await this.quiesce();
    await this.#closeCaches();
    const bytes = await readBytes(this.context, this.file, 0, MAX_HEADER_BYTES);
    const header = parseHeader(bytes);
    this.#header.header = await this.#parts.hooks.arrived?.(this, header) ?? header;
    this.geometry = geometryOf(this.header);
    this.#size = this.header.size;
    await this.load();
  }

  async close(): Promise<void> {
    await this.quiesce();
    try {
      await settle(this, this.#header);
    } catch (error) {
      this.context.log.error(`node '${this.nodeName}': closing the image: ${String(error)}`);
    }
    await quiet(this);
    await this.#closeCaches();
    this.codec.close();
  }
  async #closeCaches(): Promise<void> {
    await this.map.cache.close();
    await this.refcounts.cache.close();
  }
  async handOver(): Promise<HandedOver> {
    await this.close();
    return { fds: [], state: this.sent.state };
  }
}
