/** Uncached metadata: bytes between the image file and the JS heap. For tables and headers, never for data. */
import { assert, IoVec, viewOf } from "../../../base/mod.ts";
import { type Context, Pace } from "../../../sys/mod.ts";
import type { Child } from "../../mod.ts";
import { EntryHigh, EntryLow, entryOffset } from "./format.ts";

/** Largest single read or write, in bytes. */
const STEP = 1 << 20;

/** `length` bytes at `offset`; zeroes past the end. The caller has bounded `length`. */
export async function readBytes(
  context: Context,
  file: Child,
  offset: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const out = new Uint8Array(length);
  if (length === 0) return out;
  const buffer = context.buffers.acquire(Math.min(STEP, length));
  const pace = new Pace(context);
  try {
    for (let at = 0; at < length; at += STEP) {
      const size = Math.min(STEP, length - at);
      await file.read(offset + at, IoVec.of(buffer.address, size), 0);
      out.set(buffer.bytes.subarray(0, size), at);
      if (pace.tired) await pace.rest();
    }
  } finally {
    context.buffers.release(buffer);
  }
  return out;
}

/** Writes `bytes` at `offset`. */
export async function writeBytes(
  context: Context,
  file: Child,
  offset: number,
  bytes: Uint8Array,
): Promise<void> {
  if (bytes.length === 0) return;
  const buffer = context.buffers.acquire(Math.min(STEP, bytes.length));
  const pace = new Pace(context);
  try {
    for (let at = 0; at < bytes.length; at += STEP) {
      const part = bytes.subarray(at, at + STEP);
      buffer.bytes.set(part);
      await file.write(offset + at, IoVec.of(buffer.address, part.length), 0);
      if (pace.tired) await pace.rest();
    }
  } finally {
    context.buffers.release(buffer);
  }
}

/** Writes a table at `offset`. */
export async function writeTable(
  context: Context,
  file: Child,
  offset: number,
  table: WordTable,
): Promise<void> {
  const pace = new Pace(context);
  const step = STEP / 8;
  for (let from = 0; from < table.length; from += step) {
    const bytes = table.bytes(from, Math.min(from + step, table.length));
    await writeBytes(context, file, offset + from * 8, bytes);
    if (pace.tired) await pace.rest();
  }
}

/** Tables of 64-bit big-endian entries, as two arrays of words. */
export class WordTable {
  constructor(readonly high: Uint32Array, readonly low: Uint32Array) {
    assert(high.length === low.length);
  }

  /** All entries zero. */
  static empty(length: number): WordTable {
    return new WordTable(new Uint32Array(length), new Uint32Array(length));
  }

  /** From bytes; a rest of less than an entry is left out. */
  static parse(bytes: Uint8Array): WordTable {
    const length = Math.floor(bytes.length / 8);
    const table = WordTable.empty(length);
    const view = viewOf(bytes);
    for (let i = 0; i < length; i++) {
      table.high[i] = view.getUint32(i * 8);
      table.low[i] = view.getUint32(i * 8 + 4);
    }
    return table;
  }

  get length(): number {
    return this.high.length;
  }

  /** Entries [from, to) as bytes. */
  bytes(from = 0, to: number = this.length): Uint8Array {
    const out = new Uint8Array((to - from) * 8);
    const view = new DataView(out.buffer);
    for (let i = from; i < to; i++) {
      view.setUint32((i - from) * 8, this.high[i]!);
      view.setUint32((i - from) * 8 + 4, this.low[i]!);
    }
    return out;
  }

  /** The same entries and zeroes behind them, or fewer. */
  resized(length: number): WordTable {
    const table = WordTable.empty(length);
    table.high.set(this.high.subarray(0, length));
    table.low.set(this.low.subarray(0, length));
    return table;
  }

  isZero(index: number): boolean {
    return this.high[index] === 0 && this.low[index] === 0;
  }

  /** Where the entry leads; 0: nowhere. */
  target(index: number): number {
    return entryOffset(this.high[index]!, this.low[index]!);
  }
  /** The same, with nothing in the entries but where they lead. */
  targets(): WordTable {
    const table = WordTable.empty(this.length);
    for (let i = 0; i < this.length; i++) {
      table.high[i] = this.high[i]! & EntryHigh.offset;
      table.low[i] = this.low[i]! & EntryLow.offset;
    }
    return table;
  }

  setEntry(index: number, value: bigint): void {
    this.high[index] = Number(value >> 32n);
    this.low[index] = Number(value & 0xffffffffn);
  }
}
