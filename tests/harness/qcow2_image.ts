/**
 * QCOW2 images as bytes, read and judged by code of its own: tests do not trust the driver that they test.
 * Written after the specification (docs/interop/qcow2); small and slow, and strict.
 */
import assert from "node:assert/strict";
import zlib from "node:zlib";

const OFFSET = 0x00ff_ffff_ffff_fe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;

/** One entry of the snapshot table. */
export interface SnapshotEntry {
  readonly id: string;
  readonly name: string;
  readonly l1Offset: number;
  readonly l1Length: number;
  readonly size: number;
}

/** One entry of the bitmap directory. */
export interface BitmapEntry {
  /** Where it lies; in bytes, as all offsets. */
  readonly at: number;
  readonly name: string;
  readonly tableOffset: number;
  readonly tableLength: number;
  readonly flags: number;
}

/** What a check found. Errors lose data, now or at a later write; leaks only waste space. */
export interface Verdict {
  readonly errors: string[];
  readonly leaks: number;
}

/** What else a guest's view needs. */
export interface Surroundings {
  /** The backing file's guest bytes; shorter is filled with zeroes. */
  readonly backing?: Uint8Array;
  /** The external data file. */
  readonly data?: Uint8Array;
}

/** An image; every getter reads the bytes anew. */
export class Qcow2Bytes {
  readonly view: DataView;

  constructor(readonly bytes: Uint8Array, readonly around: Surroundings = {}) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    assert.equal(this.u32(0), 0x514649fb, "magic");
    assert.ok(this.version === 2 || this.version === 3, "version");
  }

  u32(at: number): number {
    return at + 4 <= this.bytes.length ? this.view.getUint32(at) : 0;
  }
  u64(at: number): bigint {
    return at + 8 <= this.bytes.length ? this.view.getBigUint64(at) : 0n;
  }
  offset64(at: number): number {
    return Number(this.u64(at));
  }

  get version(): number {
    return this.u32(4);
  }
  get clusterSize(): number {
    return 1 << this.u32(20);
  }
  get size(): number {
    return this.offset64(24);
  }
  get incompatible(): number {
    return this.version === 3 ? this.u32(76) : 0;
  }
  get autoclear(): number {
    return this.version === 3 ? this.u32(92) : 0;
  }
  get dirty(): boolean {
    return (this.incompatible & 1) !== 0;
  }
  get externalData(): boolean {
    return (this.incompatible & 4) !== 0;
  }
  get extendedL2(): boolean {
    return (this.incompatible & 16) !== 0;
  }
  get refcountBits(): number {
    return this.version === 3 ? 1 << this.u32(96) : 16;
  }
  get l2EntrySize(): number {
    return this.extendedL2 ? 16 : 8;
  }
  get l1Offset(): number {
    return this.offset64(40);
  }
  get l1Length(): number {
    return this.u32(36);
  }
  get refcountTableOffset(): number {
    return this.offset64(48);
  }
  get refcountTableClusters(): number {
    return this.u32(56);
  }
  get headerLength(): number {
    return this.version === 3 ? this.u32(100) : 72;
  }
  get zstd(): boolean {
    return (this.incompatible & 8) !== 0 && this.bytes[104] === 1;
  }

  /** Header extensions by type, in order. */
  extensions(): { type: number; at: number; length: number }[] {
    const found = [];
    let at = this.headerLength;
    while (at + 8 <= this.clusterSize) {
      const type = this.u32(at);
      const length = this.u32(at + 4);
      if (type === 0) break;
      found.push({ type, at: at + 8, length });
      at += 8 + Math.ceil(length / 8) * 8;
    }
    return found;
  }

  /** The snapshot table, and the bytes that it takes. */
  snapshots(): { entries: SnapshotEntry[]; offset: number; length: number } {
    const offset = this.offset64(64);
    const entries: SnapshotEntry[] = [];
    let at = offset;
    const text = new TextDecoder();
    for (let i = 0; i < this.u32(60); i++) {
      const idLength = this.view.getUint16(at + 12);
      const nameLength = this.view.getUint16(at + 14);
      const extra = this.u32(at + 36);
      const strings = at + 40 + extra;
      entries.push({
        l1Offset: this.offset64(at),
        l1Length: this.u32(at + 8),
        id: text.decode(this.bytes.subarray(strings, strings + idLength)),
        name: text.decode(
          this.bytes.subarray(strings + idLength, strings + idLength + nameLength),
        ),
        size: extra >= 16 ? this.offset64(at + 48) : this.size,
      });
      at = Math.ceil((strings + idLength + nameLength) / 8) * 8;
    }
    return { entries, offset, length: at - offset };
  }

  /** The bitmap directory, when the extension is there and valid. */
  bitmaps(): { entries: BitmapEntry[]; offset: number; length: number } | undefined {
    const extension = this.extensions().find(({ type }) => type === 0x23852875);
    if (extension === undefined || (this.autoclear & 1) === 0) return undefined;
    const length = this.offset64(extension.at + 8);
    const offset = this.offset64(extension.at + 16);
    const entries: BitmapEntry[] = [];
    let at = offset;
    for (let i = 0; i < this.u32(extension.at); i++) {
      const nameLength = this.view.getUint16(at + 18);
      const extra = this.u32(at + 20);
      const name = this.bytes.subarray(at + 24 + extra, at + 24 + extra + nameLength);
      entries.push({
        at,
        name: new TextDecoder().decode(name),
        tableOffset: this.offset64(at),
        tableLength: this.u32(at + 8),
        flags: this.u32(at + 12),
      });
      at += Math.ceil((24 + extra + nameLength) / 8) * 8;
    }
    return { entries, offset, length };
  }

  /** The count of a cluster, as stored. */
  refcount(cluster: number): number {
    const bits = this.refcountBits;
    const perBlock = this.clusterSize * 8 / bits;
    const index = Math.floor(cluster / perBlock);
    if (index >= this.refcountTableClusters * this.clusterSize / 8) return 0;
    const block = Number(this.u64(this.refcountTableOffset + index * 8) & ~0x1ffn);
    if (block === 0) return 0;
    const within = cluster % perBlock;
    if (bits >= 8) {
      let value = 0n;
      for (let i = 0; i < bits / 8; i++) {
        value = value << 8n | BigInt(this.bytes[block + within * bits / 8 + i] ?? 0);
      }
      return Number(value);
    }
    const byte = this.bytes[block + Math.floor(within * bits / 8)] ?? 0;
    return (byte >> (within * bits % 8)) & ((1 << bits) - 1);
  }

  /** Where a compressed entry's stream lies. */
  compressedRange(entry: bigint): { at: number; length: number } {
    const x = BigInt(62 - (this.u32(20) - 8));
    const at = Number(entry & ((1n << x) - 1n));
    const sectors = Number((entry & (COMPRESSED - 1n)) >> x);
    return { at, length: (sectors + 1) * 512 - (at & 511) };
  }

  /** Guest bytes [start, start + length) of the active state, or of a snapshot's L1 table. */
  read(
    start: number,
    length: number,
    l1 = { offset: this.l1Offset, length: this.l1Length },
  ): Uint8Array {
    const out = new Uint8Array(length);
    const unit = this.extendedL2 ? this.clusterSize / 32 : this.clusterSize;
    for (let done = 0; done < length;) {
      const at = start + done;
      const take = Math.min(unit - at % unit, length - done);
      out.set(this.#readUnit(at, take, l1), done);
      done += take;
    }
    return out;
  }

  #readUnit(at: number, length: number, l1: { offset: number; length: number }): Uint8Array {
    const { clusterSize, l2EntrySize } = this;
    const perTable = clusterSize / l2EntrySize;
    const cluster = Math.floor(at / clusterSize);
    const l1Index = Math.floor(cluster / perTable);
    const table = l1Index < l1.length ? Number(this.u64(l1.offset + l1Index * 8) & OFFSET) : 0;
    if (table === 0) return this.#below(at, length);
    const entryAt = table + cluster % perTable * l2EntrySize;
    const entry = this.u64(entryAt);
    const within = at % clusterSize;
    if ((entry & COMPRESSED) !== 0n) return this.#decode(entry).subarray(within, within + length);
    const host = Number(entry & OFFSET);
    const source = this.externalData ? this.around.data! : this.bytes;
    const plain = () => padded(source, host + within, length);
    if (!this.extendedL2) {
      if ((entry & 1n) !== 0n && this.version === 3) return new Uint8Array(length);
      if (host === 0 && !(this.externalData && (entry & COPIED) !== 0n)) {
        return this.#below(at, length);
      }
      return plain();
    }
    const bitmap = this.u64(entryAt + 8);
    const bit = BigInt(Math.floor(within / (clusterSize / 32)));
    if ((bitmap >> (bit + 32n) & 1n) === 1n) return new Uint8Array(length);
    return (bitmap >> bit & 1n) === 1n ? plain() : this.#below(at, length);
  }

  #decode(entry: bigint): Uint8Array {
    const { at, length } = this.compressedRange(entry);
    const stream = padded(this.bytes, at, length);
    const bytes = this.zstd
      ? zlib.zstdDecompressSync(stream.subarray(0, zstdLength(stream)))
      : zlib.inflateRawSync(stream, { maxOutputLength: this.clusterSize });
    assert.equal(bytes.length, this.clusterSize, "a compressed cluster's length");
    return bytes;
  }

  #below(at: number, length: number): Uint8Array {
    return padded(this.around.backing ?? new Uint8Array(0), at, length);
  }

  /** Compares all counts with what leads to each cluster, as `qemu-img check` does. */
  check(): Verdict {
    return new Checker(this).run();
  }
}

function padded(source: Uint8Array, at: number, length: number): Uint8Array {
  const out = new Uint8Array(length);
  out.set(source.subarray(Math.min(at, source.length), at + length));
  return out;
}

/** Length of the zstd frame in front of some bytes. */
function zstdLength(bytes: Uint8Array): number {
  const descriptor = bytes[4]!;
  const single = (descriptor >> 5) & 1;
  const content = [single, 2, 4, 8][descriptor >> 6]!;
  let at = 5 + (1 - single) + [0, 1, 2, 4][descriptor & 3]! + content;
  for (;;) {
    const header = bytes[at]! | bytes[at + 1]! << 8 | bytes[at + 2]! << 16;
    at += 3 + ((header >> 1 & 3) === 1 ? 1 : header >> 3);
    if ((header & 1) !== 0) return at + ((descriptor & 4) !== 0 ? 4 : 0);
  }
}

/** One check of an image. */
class Checker {
  readonly #errors: string[] = [];
  readonly #references = new Map<number, number>();
  /** Metadata clusters: nothing else may lead to them. */
  readonly #metadata = new Map<number, string>();

  constructor(private readonly image: Qcow2Bytes) {}

  run(): Verdict {
    const { image } = this;
    this.#own(0, image.clusterSize, "header");
    this.#own(image.l1Offset, image.l1Length * 8, "active L1 table");
    const tableLength = image.refcountTableClusters * image.clusterSize;
    this.#own(image.refcountTableOffset, tableLength, "refcount table");
    for (let i = 0; i < tableLength / 8; i++) {
      const block = image.offset64(image.refcountTableOffset + i * 8);
      if (block !== 0) this.#own(block, image.clusterSize, `refcount block ${i}`);
    }
    this.#walk(image.l1Offset, image.l1Length, "active");
    const snapshots = image.snapshots();
    if (snapshots.length > 0) this.#own(snapshots.offset, snapshots.length, "snapshot table");
    for (const { name, l1Offset, l1Length } of snapshots.entries) {
      if (l1Length > 0) this.#own(l1Offset, l1Length * 8, `L1 table of snapshot ${name}`);
      this.#walk(l1Offset, l1Length, `snapshot ${name}`);
    }
    this.#bitmaps();
    this.#copied();
    return { errors: this.#errors, leaks: this.#compare() };
  }

  #error(text: string): void {
    if (this.#errors.length < 20) this.#errors.push(text);
  }

  #refer(at: number, length: number): void {
    const { clusterSize, bytes } = this.image;
    if (at + length >= bytes.length + clusterSize) {
      this.#error(`${length} bytes at ${at} lie beyond the end of the file`);
    }
    for (let i = Math.floor(at / clusterSize); i * clusterSize < at + length; i++) {
      this.#references.set(i, (this.#references.get(i) ?? 0) + 1);
    }
  }

  /** A structure that nothing else may use. */
  #own(at: number, length: number, what: string): void {
    const { clusterSize } = this.image;
    if (at % clusterSize !== 0) this.#error(`${what} at ${at} is not aligned`);
    for (let i = Math.floor(at / clusterSize); i * clusterSize < at + length; i++) {
      const other = this.#metadata.get(i);
      if (other !== undefined) this.#error(`${what} overlaps ${other} in cluster ${i}`);
      this.#metadata.set(i, what);
    }
    this.#refer(at, length);
  }

  /** L2 tables may be shared by snapshots, and nothing else may. */
  #table(at: number, what: string): void {
    const { clusterSize } = this.image;
    const cluster = at / clusterSize;
    if (at % clusterSize !== 0) this.#error(`${what} at ${at} is not aligned`);
    const other = this.#metadata.get(cluster);
    if (other !== undefined && !other.startsWith("L2")) {
      this.#error(`${what} overlaps ${other} in cluster ${cluster}`);
    }
    this.#metadata.set(cluster, `L2 table`);
    this.#refer(at, clusterSize);
  }

  #walk(l1Offset: number, l1Length: number, what: string): void {
    const { image } = this;
    for (let i = 0; i < l1Length; i++) {
      const table = Number(image.u64(l1Offset + i * 8) & OFFSET);
      if (table === 0) continue;
      this.#table(table, `L2 table ${i} (${what})`);
      for (let j = 0; j < image.clusterSize; j += image.l2EntrySize) {
        this.#entry(image.u64(table + j), `${what} ${i}/${j / image.l2EntrySize}`);
      }
    }
  }

  #entry(entry: bigint, what: string): void {
    const { image } = this;
    if ((entry & COMPRESSED) !== 0n) {
      const { at, length } = image.compressedRange(entry);
      if (image.externalData) this.#error(`${what}: compressed with a data file`);
      this.#refer(at, length);
      return;
    }
    const host = Number(entry & OFFSET);
    if (host === 0) return;
    if (host % image.clusterSize !== 0) this.#error(`${what}: data at ${host} is not aligned`);
    if (!image.externalData) this.#refer(host, image.clusterSize);
  }

  #bitmaps(): void {
    const { image } = this;
    const bitmaps = image.bitmaps();
    if (bitmaps === undefined) return;
    this.#own(bitmaps.offset, bitmaps.length, "bitmap directory");
    for (const { name, tableOffset, tableLength } of bitmaps.entries) {
      this.#own(tableOffset, tableLength * 8, `table of bitmap ${name}`);
      for (let i = 0; i < tableLength; i++) {
        const data = Number(image.u64(tableOffset + i * 8) & OFFSET);
        if (data !== 0) this.#own(data, image.clusterSize, `data of bitmap ${name}`);
      }
    }
  }

  /** Metadata and data apart; COPIED exactly where the count is 1. */
  #copied(): void {
    const { image } = this;
    for (let i = 0; i < image.l1Length; i++) {
      const entry = image.u64(image.l1Offset + i * 8);
      const table = Number(entry & OFFSET);
      if (table === 0) continue;
      this.#copiedBit(entry, table, `L1 entry ${i}`);
      for (let j = 0; j < image.clusterSize; j += image.l2EntrySize) {
        const data = image.u64(table + j);
        const host = Number(data & OFFSET);
        if ((data & COMPRESSED) !== 0n || host === 0 || image.externalData) continue;
        this.#copiedBit(data, host, `L2 entry ${i}/${j / image.l2EntrySize}`);
        const owner = this.#metadata.get(host / image.clusterSize);
        if (owner !== undefined) this.#error(`L2 entry ${i}/${j}: data at ${host} is ${owner}`);
      }
    }
  }

  #copiedBit(entry: bigint, host: number, what: string): void {
    if (this.image.dirty) return; // counts are not valid
    const count = this.image.refcount(Math.floor(host / this.image.clusterSize));
    const copied = (entry & COPIED) !== 0n;
    if (copied !== (count === 1)) this.#error(`${what}: copied is ${copied}, the count ${count}`);
  }

  #compare(): number {
    const { image } = this;
    let leaks = 0;
    const perBlock = image.clusterSize * 8 / image.refcountBits;
    const counted = image.refcountTableClusters * image.clusterSize / 8 * perBlock;
    for (const [cluster, references] of this.#references) {
      if (image.dirty) break;
      const count = image.refcount(cluster);
      if (count < references) {
        this.#error(`cluster ${cluster}: count ${count}, references ${references}`);
      }
    }
    const end = Math.min(counted, Math.ceil(image.bytes.length / image.clusterSize));
    for (let cluster = 0; cluster < end; cluster++) {
      leaks += Math.max(0, image.refcount(cluster) - (this.#references.get(cluster) ?? 0));
    }
    return leaks;
  }
}
