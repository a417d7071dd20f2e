/**
 * The snapshot table: entries of variable length, one after the other. Extra data that is not known is kept byte
 * for byte, and so are identifiers and names, which are bytes to the format. Pure but for reading.
 * Source: the QCOW2 specification, "Snapshots".
 */
import { alignUp, BlockError, viewOf } from "../../../base/mod.ts";
import { Bounds } from "./format.ts";

/** An internal snapshot, as the table has it. Offsets and sizes in bytes. */
export interface Snapshot {
  readonly l1Offset: bigint;
  /** Entries of its L1 table. */
  readonly l1Size: number;
  readonly id: Uint8Array;
  readonly name: Uint8Array;
  readonly dateSec: number;
  readonly dateNsec: number;
  /** How long the guest had run, in nanoseconds. */
  readonly vmClockNsec: bigint;
  readonly vmStateSize: bigint;
  /** Length of the virtual disk when it was taken; undefined in old tables. */
  readonly diskSize: bigint | undefined;
  /** Instructions that the guest had run; undefined where it was not recorded. */
  readonly icount: bigint | undefined;
  /** All extra data as on disk; the fields above are in its front. */
  readonly extra: Uint8Array;
}

/** Fixed part of an entry. */
const FIXED = 40;
/** Extra data that version 3 demands: sizes of VM state and disk. */
export const EXTRA_MINIMUM = 16;
/** Extra data that new snapshots have: those and the instruction count. */
const EXTRA_NEW = 24;

const text = new TextDecoder();

/** Bytes of an identifier or name as text, for messages and QMP. */
export function snapshotText(bytes: Uint8Array): string {
  const end = bytes.indexOf(0);
  return text.decode(end < 0 ? bytes : bytes.subarray(0, end));
}

/** Reads bytes of the image file; those past its end are zero. */
export type ReadBytes = (offset: number, length: number) => Promise<Uint8Array>;

/** Read at a time, unless a piece is larger. */
const CHUNK = 65536;
const NOTHING = new Uint8Array(0);

/** Reads forward in small pieces, so that an entry's claims cost nothing before they are checked. */
class Cursor {
  #buffer: Uint8Array = NOTHING;
  #start = 0;
  /** Where what is kept is copied to, and how much of that is in use. */
  #kept: Uint8Array = NOTHING;
  #used = 0;
  constructor(private readonly read: ReadBytes) {}

  /** Whether `take` finds these bytes; else they are to be fetched first. */
  holds(offset: number, length: number): boolean {
    return offset >= this.#start && offset + length <= this.#start + this.#buffer.length;
  }

  async fetch(offset: number, length: number): Promise<void> {
    this.#buffer = await this.read(offset, Math.max(length, CHUNK));
    this.#start = offset;
  }

  /** A view, until the next `fetch`: see {@link keep}. */
  take(offset: number, length: number): Uint8Array {
    const at = offset - this.#start;
    return this.#buffer.subarray(at, at + length);
  }

  /**
   * Bytes to keep, many to one piece of memory. A header may claim very many entries whose strings are empty: these
   * cost nothing.
   */
  keep(bytes: Uint8Array): Uint8Array {
    const { length } = bytes;
    if (length === 0) return NOTHING;
    if (length > CHUNK / 8) return bytes.slice();
    if (this.#used + length > this.#kept.length) {
      this.#kept = new Uint8Array(CHUNK);
      this.#used = 0;
    }
    const own = this.#kept.subarray(this.#used, this.#used + length);
    own.set(bytes);
    this.#used += length;
    return own;
  }
}

/** What is wrong with a table but can be lived with by a check. */
export interface TableProblems {
  /** The entry has more extra data than is allowed; return normally to drop what is too much. */
  tooMuchExtra(index: number, size: number): void;
  /** The table is larger than is allowed from entry `index` on; return normally to drop the rest. */
  tooLarge(index: number): void;
}

/** The answer to problems when nobody repairs. */
const refuseProblems: TableProblems = {
  tooMuchExtra(index) {
    const message = `Too much extra metadata in snapshot table entry ${index}`;
    throw new BlockError("EFBIG", message, { op: "open" });
  },
  tooLarge() {
    throw new BlockError("EFBIG", "Snapshot table is too big", { op: "open" });
  },
};

/** What was read: the snapshots, and how many bytes of the file the table takes. */
export interface SnapshotTable {
  readonly snapshots: Snapshot[];
  readonly length: number;
}

/** Reads a table of `count` entries at `offset`. Throws BlockError. */
export async function readSnapshotTable(
  read: ReadBytes,
  offset: number,
  count: number,
  problems: TableProblems = refuseProblems,
): Promise<SnapshotTable> {
  const cursor = new Cursor(read);
  const snapshots: Snapshot[] = [];
  let at = 0, length = 0, keptLength = 0;
  for (let index = 0; index < count; index++) {
    at = alignUp(at, 8);
    if (!cursor.holds(offset + at, FIXED)) await cursor.fetch(offset + at, FIXED);
    const fixed = cursor.take(offset + at, FIXED);
    const view = viewOf(fixed);
    const extraSize = view.getUint32(36);
    if (extraSize > Bounds.maxSnapshotExtra) problems.tooMuchExtra(index, extraSize);
    const kept = Math.min(extraSize, Bounds.maxSnapshotExtra);
    const idLength = view.getUint16(12), nameLength = view.getUint16(14);
    const extraAt = offset + at + FIXED, namesAt = extraAt + extraSize;
    if (!cursor.holds(extraAt, kept)) await cursor.fetch(extraAt, kept);
    const extra = cursor.keep(cursor.take(extraAt, kept));
    const namesLength = idLength + nameLength;
    if (!cursor.holds(namesAt, namesLength)) await cursor.fetch(namesAt, namesLength);
    const names = cursor.take(namesAt, namesLength);
    at += FIXED + extraSize + idLength + nameLength;
    keptLength = alignUp(keptLength, 8) + FIXED + kept + idLength + nameLength;
    if (keptLength > Bounds.maxSnapshotTable) {
      problems.tooLarge(index);
      break;
    }
    length = at;
    const [id, name] = [names.subarray(0, idLength), names.subarray(idLength)];
    snapshots.push(decode(view, extra, cursor.keep(id), cursor.keep(name)));
  }
  return { snapshots, length };
}

function decode(view: DataView, extra: Uint8Array, id: Uint8Array, name: Uint8Array): Snapshot {
  const more = viewOf(extra);
  const field = (at: number) => extra.length >= at + 8 ? more.getBigUint64(at) : undefined;
  const icount = field(16);
  return {
    l1Offset: view.getBigUint64(0),
    l1Size: view.getUint32(8),
    id,
    name,
    dateSec: view.getUint32(16),
    dateNsec: view.getUint32(20),
    vmClockNsec: view.getBigUint64(24),
    vmStateSize: field(0) ?? BigInt(view.getUint32(32)),
    diskSize: field(8),
    icount: icount === undefined || icount === 2n ** 64n - 1n ? undefined : icount,
    extra,
  };
}

/** Extra data with its known fields as `snapshot` has them; `diskSize` where it has none. */
function extraData(snapshot: Snapshot, diskSize: number): Uint8Array {
  const extra = new Uint8Array(Math.max(EXTRA_MINIMUM, snapshot.extra.length));
  extra.set(snapshot.extra);
  const view = new DataView(extra.buffer);
  view.setBigUint64(0, snapshot.vmStateSize);
  view.setBigUint64(8, snapshot.diskSize ?? BigInt(diskSize));
  return extra;
}

/**
 * The table as it is stored. `diskSize` in bytes is for entries that do not say how long their disk was. Throws
 * BlockError EFBIG where it would be too large.
 */
export function serialiseSnapshotTable(
  snapshots: readonly Snapshot[],
  diskSize: number,
): Uint8Array {
  const extras = snapshots.map((snapshot) => extraData(snapshot, diskSize));
  let length = 0;
  snapshots.forEach(({ id, name }, i) => {
    length = alignUp(length, 8) + FIXED + extras[i]!.length + id.length + name.length;
  });
  if (length > Bounds.maxSnapshotTable || snapshots.length > Bounds.maxSnapshots) {
    throw new BlockError("EFBIG", "Snapshot table is too big");
  }
  const bytes = new Uint8Array(alignUp(length, 8));
  const view = new DataView(bytes.buffer);
  let at = 0;
  snapshots.forEach((snapshot, i) => {
    const { id, name } = snapshot, extra = extras[i]!;
    at = alignUp(at, 8);
    view.setBigUint64(at, snapshot.l1Offset);
    view.setUint32(at + 8, snapshot.l1Size);
    view.setUint16(at + 12, id.length);
    view.setUint16(at + 14, name.length);
    view.setUint32(at + 16, snapshot.dateSec);
    view.setUint32(at + 20, snapshot.dateNsec);
    view.setBigUint64(at + 24, snapshot.vmClockNsec);
    const { vmStateSize } = snapshot;
    view.setUint32(at + 32, vmStateSize < 2n ** 32n ? Number(vmStateSize) : 0xffffffff);
    view.setUint32(at + 36, extra.length);
    bytes.set(extra, at + FIXED);
    bytes.set(id, at + FIXED + extra.length);
    bytes.set(name, at + FIXED + extra.length + id.length);
    at += FIXED + extra.length + id.length + name.length;
  });
  return bytes;
}

/** Extra data of a new snapshot. `icount` undefined: no instruction count was recorded. */
export function newExtra(icount: bigint | undefined): Uint8Array {
  const extra = new Uint8Array(EXTRA_NEW);
  new DataView(extra.buffer).setBigInt64(EXTRA_MINIMUM, icount ?? -1n);
  return extra;
}
