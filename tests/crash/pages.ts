/**
 * A page cache over a disk in memory, as far as a reply shows it that is sent from there: the reply holds pages, and
 * shows what is in them when the client reads. A write changes pages in place; zeroing and truncating take them away
 * from the disk, and whoever holds them keeps what was there, but of a large page, zeroed in part, that part is zeroed
 * in place; dropping takes those away that nobody holds.
 */
import type { Dice } from "../harness/dice.ts";

export const PAGE = 4096;
/** Pages of a large one. */
const GROUP = 4;

/** A page in a reply; `kept`: it is the disk's no more. */
interface Held {
  readonly page: number;
  kept?: Uint8Array;
}

/** A reply that its client has not read. */
export interface Reply {
  /** The client reads it. */
  take(): Uint8Array;
}

/** The pages of one disk. */
export class PageCache {
  readonly #there = new Set<number>();
  readonly #held = new Map<number, Set<Held>>();
  /** Pages are parts of large ones. */
  large = true;

  /** `bytes`: what the disk holds now. */
  constructor(private readonly bytes: () => Uint8Array, private readonly dice: Dice) {}

  /** Pages that the range touches. */
  #each(at: number, length: number, act: (page: number) => void): void {
    for (let page = Math.floor(at / PAGE); page < (at + length) / PAGE; page++) act(page);
  }

  /** The range was read or written. */
  touch(at: number, length: number): void {
    this.#each(at, length, (page) => this.#there.add(page));
  }

  /** Whether any of the range is there. */
  has(at: number, length: number): boolean {
    let found = false;
    this.#each(at, length, (page) => found ||= this.#there.has(page));
    return found;
  }

  /** A reply with `length` bytes at `at`. */
  send(at: number, length: number): Reply {
    this.touch(at, length);
    const pages: Held[] = [];
    this.#each(at, length, (page) => {
      const one: Held = { page };
      pages.push(one);
      const others = this.#held.get(page);
      if (others === undefined) this.#held.set(page, new Set([one]));
      else others.add(one);
    });
    const take = () => {
      const out = new Uint8Array(pages.length * PAGE);
      for (const [index, one] of pages.entries()) {
        out.set(one.kept ?? this.#page(one.page), index * PAGE);
        this.#letGo(one);
      }
      return out.slice(at % PAGE, at % PAGE + length);
    };
    return { take };
  }

  #page(page: number): Uint8Array {
    return this.bytes().slice(page * PAGE, (page + 1) * PAGE);
  }

  #letGo(one: Held): void {
    const others = this.#held.get(one.page);
    if (others?.delete(one) && others.size === 0) this.#held.delete(one.page);
  }

  /** Whether all of the large page that `page` is part of lies in the range. */
  #whole(page: number, at: number, length: number): boolean {
    const first = this.large ? page - page % GROUP : page;
    const count = this.large ? GROUP : 1;
    return first * PAGE >= at && (first + count) * PAGE <= at + length;
  }

  /** The range is about to be zeroed without being written to. */
  zeroing(at: number, length: number): void {
    this.#each(at, length, (page) => {
      const inside = page * PAGE >= at && (page + 1) * PAGE <= at + length;
      if (inside && this.#whole(page, at, length)) return this.#detach(page, this.#page(page));
      // Zeroed in place; and it may be left there.
      if (inside && this.dice.below(4) > 0) this.#detach(page, new Uint8Array(PAGE));
    });
  }

  #detach(page: number, kept: Uint8Array): void {
    for (const one of this.#held.get(page) ?? []) one.kept = kept;
    this.#held.delete(page);
    this.#there.delete(page);
  }

  /** Those go that lie in the range and that nobody holds. */
  drop(at: number, length: number): void {
    this.#each(at, length, (page) => {
      if (!this.#whole(page, at, length)) return;
      const first = this.large ? page - page % GROUP : page;
      for (let i = 0; i < (this.large ? GROUP : 1); i++) if (this.#held.has(first + i)) return;
      // It may not be written out yet.
      if (this.dice.below(8) > 0) this.#there.delete(page);
    });
  }
}
