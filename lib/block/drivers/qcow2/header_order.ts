/**
 * In which order a header's sectors are written, so that a cut leaves the old header or the new one. A disk writes
 * sectors of 512 bytes whole or not at all, and several of them in any order. Pure.
 */
import { alignUp, BlockError, SECTOR } from "../../../base/mod.ts";
import { At, type Header, parseHeader } from "./header.ts";
import { serialiseHeader } from "./header_write.ts";

/** Bytes to be written at `at` of the image, and made stable before the next ones. */
export interface HeaderWrite {
  readonly at: number;
  readonly bytes: Uint8Array;
}

/**
 * The writes that replace `old`, the first cluster as it is on disk, by `header`. One is enough where one sector
 * changes. Else the first sector is written by itself: after what the old header does not need, before what the new
 * one does not need; for that the backing file's name may move. Where nothing helps it is one write. Throws as
 * serialiseHeader.
 */
export function headerWrites(old: Uint8Array, header: Header): readonly HeaderWrite[] {
  const after = serialiseHeader(header);
  const before = parsed(old);
  if (before === undefined) return [{ at: 0, bytes: after }];
  for (const bytes of [after, ...withNameElsewhere(old, header, after)]) {
    const changed = changedSectors(old, bytes);
    if (changed.length <= 1) return [{ at: 0, bytes }];
    const others = changed.filter((sector) => sector > 0);
    const late = others.filter((sector) => !ignores(old, [sector], before));
    const early = others.filter((sector) => !late.includes(sector));
    if (!ignores(old, early, before) || !ignores(bytes, late, after)) continue;
    const first = bytes.slice();
    for (const sector of late) {
      const at = sector * SECTOR;
      first.set(old.subarray(at, at + SECTOR), at);
    }
    const writes: HeaderWrite[] = [{ at: 0, bytes: first.subarray(0, SECTOR) }];
    if (early.length > 0) writes.unshift({ at: SECTOR, bytes: first.subarray(SECTOR) });
    if (late.length > 0) writes.push({ at: SECTOR, bytes: bytes.subarray(SECTOR) });
    return writes;
  }
  return [{ at: 0, bytes: after }];
}

/** The header with the name behind the old one, if it fits there. */
function* withNameElsewhere(old: Uint8Array, header: Header, plain: Uint8Array) {
  const place = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    return {
      at: Number(view.getBigUint64(At.backingOffset)),
      length: view.getUint32(At.backingLength),
    };
  };
  const [was, is] = [place(old), place(plain)];
  const from = alignUp(was.at + was.length, SECTOR);
  if (was.at > 0 && is.at > 0 && from + is.length <= plain.length) {
    yield serialiseHeader(header, from);
  }
}

function changedSectors(a: Uint8Array, b: Uint8Array): number[] {
  const changed: number[] = [];
  for (let at = 0; at < b.length; at += SECTOR) {
    for (let i = at; i < at + SECTOR; i++) {
      if (a[i] === b[i]) continue;
      changed.push(at / SECTOR);
      break;
    }
  }
  return changed;
}

/** Whether a header says the same (`as`, see `parsed`) whatever these sectors hold, the first one apart. */
function ignores(bytes: Uint8Array, sectors: readonly number[], as: Uint8Array): boolean {
  const other = bytes.slice();
  for (const sector of sectors) {
    if (sector > 0) other.fill(0xff, sector * SECTOR, (sector + 1) * SECTOR);
  }
  const now = parsed(other);
  return now !== undefined && changedSectors(now, as).length === 0;
}

/** What a header says, in one form; undefined: nothing. */
function parsed(bytes: Uint8Array): Uint8Array | undefined {
  try {
    return serialiseHeader(parseHeader(bytes));
  } catch (error) {
    if (error instanceof BlockError) return undefined;
    throw error;
  }
}
