/**
 * The active L1 table: in memory as a whole. Changed entries are written by commit.ts, after the L2 tables that
 * they lead to. A table at another place (resize, snapshot apply) is written completely and then takes the
 * header along.
 */
import { EntryHigh, highWord, lowWord } from "./format.ts";
import { WordTable } from "./metadata.ts";

/** The table. Indices are below `length`. */
export class L1Table {
  /** Indices whose entries are not on disk. */
  readonly #dirty = new Set<number>();

  constructor(
    public table: WordTable,
    /** Where it lies in the image file. */
    public offset: number,
  ) {}

  get length(): number {
    return this.table.length;
  }
  get hasDirty(): boolean {
    return this.#dirty.size > 0;
  }

  /** Where the L2 table lies; 0: there is none. */
  target(index: number): number {
    return this.table.target(index);
  }
  /** The L2 table has no other user. */
  copied(index: number): boolean {
    return this.table.high[index]! >= EntryHigh.copied;
  }

  /** Leads to an L2 table at `target` (0: none) from now on. */
  set(index: number, target: number, copied: boolean): void {
    const flag = copied ? EntryHigh.copied : 0;
    this.table.high[index] = (highWord(target) | flag) >>> 0;
    this.table.low[index] = lowWord(target);
    this.#dirty.add(index);
  }

  /** Takes the changed entries for writing. */
  stage(): { readonly offset: number; readonly entries: readonly L1Write[]; back(): void } {
    const indices = [...this.#dirty].sort((a, b) => a - b);
    this.#dirty.clear();
    const entries: L1Write[] = [];
    for (const index of indices) {
      const last = entries.at(-1);
      if (last !== undefined && last.end === index) last.end++;
      else entries.push({ start: index, end: index + 1, bytes: new Uint8Array(0) });
    }
    for (const entry of entries) entry.bytes = this.table.bytes(entry.start, entry.end);
    const { offset } = this;
    return {
      offset,
      entries,
      back: () => {
        // A table that has moved since was written completely.
        if (this.offset === offset) { for (const index of indices) this.#dirty.add(index); }
      },
    };
  }

  /** Another table takes its place; it is on disk already. */
  replace(table: WordTable, offset: number): void {
    this.table = table;
    this.offset = offset;
    this.#dirty.clear();
  }
}

/** Neighbouring entries [start, end) to be written together. */
export interface L1Write {
  readonly start: number;
  end: number;
  bytes: Uint8Array;
}
