/**
 * Internal snapshots: a second L1 table that shares all L2 tables and clusters with the active one. Each change shows
 * on disk all at once (transition.ts). Source: the QCOW2 specification, "Snapshots".
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
import { WordTable } from "./metadata.ts";
import {
  newExtra,
  type ReadBytes,
  readSnapshotTable,
  serialiseSnapshotTable,
  type Snapshot,
  snapshotText,
} from "./snapshots_table.ts";
import type { OpenedImage, Qcow2Image, StateChange } from "./types.ts";

/** Bytes of a name that are kept, as the original does. */
const MAX_NAME = 255;

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
    if (!image.readOnly) await this.protect();
  }

  /** Overlap checks learn where the table and the L1 tables are; and their L2 tables, if these are looked after. */
  async protect(): Promise<void> {
    const { image, image: { geometry: { clusterSize } } } = this;
    image.protect(image.header.snapshotsOffset, this.#length, "snapshot table");
    for (const snapshot of this.#snapshots) {
      const { l1Offset, l1Size } = snapshot;
      if (!this.#sane(l1Offset, l1Size)) continue;
      image.protect(Number(l1Offset), l1Size * 8, "inactive L1 table");
      if (!image.options.overlapCheck.has("inactive L2 table")) continue;
      const l1 = await this.readL1(snapshot);
      for (let i = 0; i < l1.length; i++) {
        if (!l1.isZero(i)) image.protect(l1.target(i), clusterSize, "inactive L2 table");
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
      await this.#replace(async (change) => {
        await change.ownTables();
        const l1 = image.activeL1();
        const l1Offset = l1.length === 0 ? 0 : await image.allocate(l1.length * 8);
        await image.writeTable(l1Offset, l1, "inactive L1 table");
        await change.add(l1);
        await change.mark();
        image.protect(l1Offset, l1.length * 8, "inactive L1 table");
        return [...this.#snapshots, this.#new(what, l1Offset, l1.length)];
      });
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

  delete(id: string): Promise<void> {
    const { image } = this;
    return image.exclusive(async () => {
      const snapshot = this.find(id);
      if (this.#viewed.has(snapshot)) {
        throw new BlockError("EBUSY", "Device or resource busy", { node: image.nodeName });
      }
      const l1 = await this.readL1(snapshot);
      await this.#replace(async (change) => {
        await change.drop(l1);
        await change.dropRange(Number(snapshot.l1Offset), l1.length * 8);
        await change.mark();
        return this.#snapshots.filter((one) => one !== snapshot);
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
      const old = image.activeL1();
      const l1 = shared.resized(Math.max(shared.length, old.length));
      await image.transit(async (change) => {
        // First less, then more: what both have needs no larger count in between.
        await change.drop(old);
        await change.add(shared);
        await change.setL1(l1);
        await change.mark();
        return {};
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
  async readL1(snapshot: Snapshot): Promise<WordTable> {
    checkL1(snapshot, this.image.header.clusterBits);
    const { l1Offset, l1Size } = snapshot;
    const bytes = await this.image.readMetadata(Number(l1Offset), l1Size * 8);
    return WordTable.parse(bytes).targets();
  }

  /** Carries `task` out; the table holds from then on what it returns. */
  async #replace(task: (change: StateChange) => Promise<readonly Snapshot[]>): Promise<void> {
    const { image } = this;
    const old = image.header.snapshotsOffset;
    let snapshots: readonly Snapshot[] = [];
    let length = 0;
    await image.transit(async (change) => {
      snapshots = await task(change);
      const bytes = serialiseSnapshotTable(snapshots, image.size);
      length = bytes.length;
      const offset = length === 0 ? 0 : await image.allocate(length);
      await image.writeMetadata(offset, bytes, "snapshot table");
      return { snapshotsOffset: offset, snapshotCount: snapshots.length };
    });
    if (this.#length > 0) {
      image.unprotect(old, this.#length, "snapshot table");
      image.release(old, this.#length, "other");
    }
    this.#snapshots = snapshots;
    this.#length = length;
    if (length > 0) image.protect(image.header.snapshotsOffset, length, "snapshot table");
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
