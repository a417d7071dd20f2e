/**
 * Internal snapshots: a second L1 table that shares all L2 tables and clusters with the active one. What the header
 * leads to is always complete on disk:
 *
 * - create: counts of everything shared go up and are stable, then the new table of snapshots is, then the header
 *   leads to it;
 * - delete: the header leads to a table without the snapshot, then counts go down;
 * - apply: counts go up, the header leads to a copy of the snapshot's L1 table, then those of the old one go down.
 *
 * A cut in between leaks clusters, and leaves copied flags that do not fit their counts; therefore the image is
 * marked dirty meanwhile, so that whoever opens it next repairs it. Version 2 has no such mark: there a cut may leave
 * flags for a check to complain of, which do no harm (the count is the higher one, or a copy is made). Source: the QCOW2 specification,
 * "Snapshots".
 */
import { BlockError, CommandError, MAX_OFFSET } from "../../../base/mod.ts";
import type {
  FormatInstance,
  InternalSnapshot,
  InternalSnapshots,
  NewSnapshot,
} from "../../mod.ts";
import { Bounds, Incompatible } from "./format.ts";
import { type Header, l1EntriesFor } from "./header.ts";
import {
  newExtra,
  type ReadBytes,
  readSnapshotTable,
  serialiseSnapshotTable,
  type Snapshot,
  snapshotText,
} from "./snapshots_table.ts";
import type { OpenedImage, Qcow2Image } from "./types.ts";

/** Bytes of a name that are kept, as the original does. */
const MAX_NAME = 255;
/** Bits of an L1 entry that say where the L2 table is. */
const L2_OFFSET = 0x00fffffffffffe00n;

function badTable(message: string): BlockError {
  return new BlockError("EINVAL", message, { op: "open" });
}

/** The snapshots of one image. */
export class Snapshots implements InternalSnapshots {
  #snapshots: readonly Snapshot[] = [];
  /** Bytes of the table on disk. */
  #length = 0;
  /** Snapshots that are open for reading, with the number of their views. */
  readonly #viewed = new Map<Snapshot, number>();

  constructor(private readonly image: Qcow2Image & Pick<FormatInstance, "truncate">) {}

  /** Reads the table. Throws BlockError where it is broken; nothing is remembered then. */
  async load(): Promise<void> {
    const { image, image: { header } } = this;
    this.#snapshots = [];
    this.#length = 0;
    if (header.snapshotCount === 0) return;
    const read = (offset: number, length: number) => image.readMetadata(offset, length);
    const table = await readSnapshotTable(read, header.snapshotsOffset, header.snapshotCount);
    this.#snapshots = table.snapshots;
    this.#length = table.length;
    if (!image.readOnly) this.#protect();
  }

  /** Overlap checks learn where the table and the L1 tables are. */
  #protect(): void {
    const { image } = this;
    image.protect(image.header.snapshotsOffset, this.#length, "snapshot table");
    for (const { l1Offset, l1Size } of this.#snapshots) {
      if (this.#sane(l1Offset, l1Size)) {
        image.protect(Number(l1Offset), l1Size * 8, "inactive L1 table");
      }
    }
  }

  #sane(l1Offset: bigint, l1Size: number): boolean {
    return l1Offset % BigInt(this.image.geometry.clusterSize) === 0n &&
      l1Offset < BigInt(Bounds.maxHostOffset) && l1Size <= Bounds.maxL1Bytes / 8;
  }

  /** Clusters of a data file have no counts. */
  #checkPossible(): void {
    const { nodeName, geometry } = this.image;
    if (!geometry.externalData) return;
    throw new BlockError("ENOTSUP", "Operation not supported", { node: nodeName });
  }

  list(): readonly InternalSnapshot[] {
    this.#checkPossible();
    return this.#snapshots.map((one) => ({
      id: snapshotText(one.id),
      name: snapshotText(one.name),
      vmStateSize: Number(one.vmStateSize),
      dateSec: one.dateSec,
      dateNsec: one.dateNsec,
      vmClockNsec: one.vmClockNsec,
      icount: one.icount,
    }));
  }

  /** The snapshot as the table has it. Throws BlockError ENOENT. */
  find(id: string): Snapshot {
    const found = this.#snapshots.find((one) => snapshotText(one.id) === id);
    if (found === undefined) throw new BlockError("ENOENT", "No such file or directory");
    return found;
  }

  /** One more than the highest identifier that is a number. */
  #newId(): string {
    let highest = 0;
    for (const { id } of this.#snapshots) {
      const number = /^\s*\+?(\d+)/.exec(snapshotText(id))?.[1];
      const value = Number(number ?? 0);
      if (value > highest && Number.isSafeInteger(value + 1)) highest = value;
    }
    return String(highest + 1);
  }

  create(what: NewSnapshot): Promise<void> {
    const { image } = this;
    return image.exclusive(async () => {
      this.#checkPossible();
      if (this.#snapshots.length >= Bounds.maxSnapshots) {
        throw new BlockError("EFBIG", "File too large", { node: image.nodeName });
      }
      await image.commit();
      const l1 = this.#activeL1();
      const length = l1.length * 8;
      const l1Offset = length === 0 ? 0 : await image.allocate(length);
      try {
        if (length > 0) await image.writeMetadata(l1Offset, l1Bytes(l1), "inactive L1 table");
        await this.#whileDirty(() => this.#share(l1, this.#new(what, l1Offset, l1.length)));
      } catch (error) {
        if (length > 0) image.release(l1Offset, length, "other");
        throw error;
      }
      image.protect(l1Offset, length, "inactive L1 table");
    });
  }

  #new(what: NewSnapshot, l1Offset: number, l1Size: number): Snapshot {
    const text = new TextEncoder();
    return {
      ...what,
      l1Offset: BigInt(l1Offset),
      l1Size,
      id: text.encode(this.#newId()),
      name: text.encode(what.name).slice(0, MAX_NAME),
      vmStateSize: 0n,
      diskSize: BigInt(this.image.size),
      icount: what.icount,
      extra: newExtra(what.icount),
    };
  }

  /** What the active L1 table leads to is the snapshot's, too; then the table has the snapshot. */
  async #share(l1: BigUint64Array, snapshot: Snapshot): Promise<void> {
    const { image } = this;
    await image.changeReferences(l1, 1, true);
    try {
      await this.#replace([...this.#snapshots, snapshot]);
    } catch (error) {
      await image.changeReferences(l1, -1, false);
      await image.changeReferences(l1, 0, true);
      throw error;
    }
  }

  delete(id: string): Promise<void> {
    const { image } = this;
    return image.exclusive(async () => {
      const snapshot = this.find(id);
      if (this.#viewed.has(snapshot)) {
        throw new BlockError("EBUSY", "Device or resource busy", { node: image.nodeName });
      }
      const l1 = await this.readL1(snapshot);
      await image.commit();
      await this.#whileDirty(async () => {
        await this.#replace(this.#snapshots.filter((one) => one !== snapshot));
        await image.changeReferences(l1, -1, false);
        if (l1.length > 0) image.release(Number(snapshot.l1Offset), l1.length * 8, "snapshot");
        await image.changeReferences(this.#activeL1(), 0, true);
      });
    });
  }

  /** The disk becomes what it was when the snapshot was taken, its length included; its VM state stays with it. */
  async apply(id: string): Promise<void> {
    const { image } = this;
    const { diskSize } = this.find(id);
    if (image.header.bitmaps !== undefined) {
      // They would not know of the change.
      throw new BlockError("ENOTSUP", "Device has active dirty bitmaps", { node: image.nodeName });
    }
    if (diskSize !== undefined && diskSize !== BigInt(image.size)) {
      if (diskSize > BigInt(MAX_OFFSET)) throw badTable("Snapshot of too large a disk");
      await image.truncate?.(Number(diskSize), { exact: true, preallocation: "off" });
    }
    await this.#apply(id);
  }

  #apply(id: string): Promise<void> {
    const { image } = this;
    return image.exclusive(async () => {
      const snapshot = this.find(id);
      const { diskSize } = snapshot;
      if (diskSize !== undefined && diskSize !== BigInt(image.size)) {
        throw new BlockError("EINVAL", "The snapshot is of a disk of another length", {
          node: image.nodeName,
        });
      }
      const shared = await this.readL1(snapshot);
      await image.commit();
      const old = this.#activeL1();
      const l1 = new BigUint64Array(Math.max(shared.length, old.length));
      l1.set(shared);
      await this.#whileDirty(async () => {
        await image.changeReferences(shared, 1, false);
        await image.replaceL1(l1);
        await image.changeReferences(old, -1, false);
        await image.changeReferences(l1, 0, true);
      });
    });
  }

  /**
   * The snapshot as an image of its own, only to be read; it stays while it is open. What its tables lead to is
   * never written to: whoever writes to a cluster with two references makes a copy.
   */
  async view(id: string): Promise<OpenedImage> {
    const { image } = this;
    await image.commit();
    const snapshot = this.find(id);
    this.#viewed.set(snapshot, (this.#viewed.get(snapshot) ?? 0) + 1);
    const done = () => {
      const left = this.#viewed.get(snapshot)! - 1;
      if (left === 0) this.#viewed.delete(snapshot);
      else this.#viewed.set(snapshot, left);
    };
    try {
      const view = await image.openView(snapshotHeader(image.header, snapshot));
      const close = view.close.bind(view);
      view.close = async () => {
        await close();
        done();
      };
      return view;
    } catch (error) {
      done();
      throw error;
    }
  }

  /** Where the L2 tables of the snapshot lie; flags are cleared. Throws BlockError where the table is broken. */
  async readL1(snapshot: Snapshot): Promise<BigUint64Array> {
    checkL1(snapshot, this.image.header.clusterBits);
    const { l1Offset, l1Size } = snapshot;
    const bytes = await this.image.readMetadata(Number(l1Offset), l1Size * 8);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return BigUint64Array.from({ length: l1Size }, (_, i) => view.getBigUint64(i * 8) & L2_OFFSET);
  }

  #activeL1(): BigUint64Array {
    const { image } = this;
    return BigUint64Array.from(
      { length: image.l1Length },
      (_, index) => image.l1Entry(index) & L2_OFFSET,
    );
  }

  /** The image is marked dirty while `task` runs, until everything that it changed is stable. */
  async #whileDirty(task: () => Promise<void>): Promise<void> {
    const { image } = this;
    const { version, incompatibleFeatures: features } = image.header;
    const mark = version >= 3 && (features & Incompatible.dirty) === 0n;
    if (mark) await image.updateHeader({ incompatibleFeatures: features | Incompatible.dirty });
    try {
      await task();
    } finally {
      await image.commit();
      if (mark) {
        const { incompatibleFeatures: now } = image.header;
        await image.updateHeader({ incompatibleFeatures: now & ~Incompatible.dirty });
      }
    }
  }

  /** The table holds `snapshots` from now on. */
  async #replace(snapshots: readonly Snapshot[]): Promise<void> {
    const { image } = this;
    const old = image.header.snapshotsOffset;
    const bytes = serialiseSnapshotTable(snapshots, image.size);
    const offset = bytes.length === 0 ? 0 : await image.allocate(bytes.length);
    try {
      if (bytes.length > 0) await image.writeMetadata(offset, bytes, "snapshot table");
      await image.commit();
      await image.updateHeader({ snapshotsOffset: offset, snapshotCount: snapshots.length });
    } catch (error) {
      if (bytes.length > 0) image.release(offset, bytes.length, "other");
      throw error;
    }
    if (this.#length > 0) image.release(old, this.#length, "other");
    this.#snapshots = snapshots;
    this.#length = bytes.length;
    if (bytes.length > 0) image.protect(offset, bytes.length, "snapshot table");
  }
}

/** Looks whether the L1 table can be one. Throws BlockError EINVAL. */
function checkL1({ l1Offset, l1Size }: Snapshot, clusterBits: number): void {
  if (l1Size > Bounds.maxL1Bytes / 8) throw badTable("Snapshot L1 table too large");
  if (l1Offset % BigInt(2 ** clusterBits) !== 0n || l1Offset >= BigInt(Bounds.maxHostOffset)) {
    throw badTable("Snapshot L1 table offset invalid");
  }
}

/** The header that shows `snapshot` as an image of its own, only to be read. Throws BlockError EINVAL. */
export function snapshotHeader(header: Header, snapshot: Snapshot): Header {
  checkL1(snapshot, header.clusterBits);
  const { l1Offset, l1Size, diskSize } = snapshot;
  const size = diskSize ?? BigInt(header.size);
  const extended = (header.incompatibleFeatures & Incompatible.extendedL2) !== 0n;
  if (
    size > BigInt(MAX_OFFSET) || l1EntriesFor(Number(size), header.clusterBits, extended) > l1Size
  ) {
    throw badTable("Snapshot L1 table is too small");
  }
  return { ...header, size: Number(size), l1Offset: Number(l1Offset), l1Size, snapshotCount: 0 };
}

/** The snapshot with the identifier or, if there is none, the name `wanted`. Throws CommandError. */
export async function findSnapshot(
  read: ReadBytes,
  { snapshotsOffset, snapshotCount }: Header,
  wanted: string,
): Promise<Snapshot> {
  const { snapshots } = await readSnapshotTable(read, snapshotsOffset, snapshotCount);
  const found = snapshots.find(({ id }) => snapshotText(id) === wanted) ??
    snapshots.find(({ name }) => snapshotText(name) === wanted);
  if (found === undefined) {
    throw new CommandError("Failed to load snapshot: Can't find snapshot");
  }
  return found;
}

/** Entries as they are stored. */
function l1Bytes(l1: BigUint64Array): Uint8Array {
  const bytes = new Uint8Array(l1.length * 8);
  const view = new DataView(bytes.buffer);
  l1.forEach((entry, i) => view.setBigUint64(i * 8, entry));
  return bytes;
}
