/**
 * A disk that several clients use at once, as a model: which bytes each read may rightly have seen. Every write has
 * a number, which is in each word that it wrote, with the word's place; so whatever is misplaced, torn, lost or
 * comes back shows. Sectors are registers: a write takes effect at one moment between its begin and its end, a read
 * that meets no write sees one write's sector whole, and what was seen is never taken back.
 */
import assert from "node:assert/strict";

/** Bytes of a sector, and 64-bit words in it. */
export const SECTOR = 512;
const WORDS = SECTOR / 8;

/** A write that has begun; `zero`: of zeroes. */
export interface Write {
  readonly id: number;
  readonly first: number;
  readonly count: number;
  readonly zero: boolean;
  readonly begun: number;
  ended: number;
}

/** A read that has begun: for each sector what it may see. */
export interface Read {
  readonly first: number;
  readonly count: number;
  readonly allowed: Set<Write>[];
  /** Whether a write was under way at the same time. */
  readonly met: boolean[];
}

interface Sector {
  /** What it may hold, of writes that have ended. */
  possible: Set<Write>;
  readonly pending: Set<Write>;
  readonly readers: Set<Read>;
}

/** The model. */
export class History {
  readonly #sectors: Sector[];
  #clock = 0;
  #writes = 0;
  /** Reads that met writes, and reads that did not, by sectors. */
  readonly seen = { met: 0, alone: 0 };

  /** A disk of zeroes. */
  constructor(readonly sectors: number) {
    const nothing = this.#write(0, sectors, true);
    nothing.ended = ++this.#clock;
    this.#sectors = Array.from({ length: sectors }, () => ({
      possible: new Set([nothing]),
      pending: new Set<Write>(),
      readers: new Set<Read>(),
    }));
  }

  #write(first: number, count: number, zero: boolean): Write {
    return { id: this.#writes++, first, count, zero, begun: ++this.#clock, ended: Infinity };
  }

  #range(first: number, count: number): Sector[] {
    return this.#sectors.slice(first, first + count);
  }

  /** A write is about to be asked for. */
  beginWrite(first: number, count: number, zero = false): Write {
    const write = this.#write(first, count, zero);
    this.#range(first, count).forEach((sector, i) => {
      sector.pending.add(write);
      for (const read of sector.readers) {
        const at = first + i - read.first;
        read.allowed[at]!.add(write);
        read.met[at] = true;
      }
    });
    return write;
  }

  /** Its bytes. */
  bytesOf(write: Write): Uint8Array<ArrayBuffer> {
    const words = new Uint32Array(write.count * WORDS * 2);
    if (!write.zero) {
      for (let i = 0; i < words.length; i += 2) {
        words[i] = write.id;
        words[i + 1] = write.first * WORDS + i / 2;
      }
    }
    return new Uint8Array(words.buffer);
  }

  /** The client was told that it is done. */
  endWrite(write: Write): void {
    write.ended = ++this.#clock;
    for (const sector of this.#range(write.first, write.count)) {
      sector.pending.delete(write);
      // Of the others only those may have come later that had not ended when this one began.
      for (const other of sector.possible) {
        if (other.ended < write.begun) sector.possible.delete(other);
      }
      sector.possible.add(write);
    }
  }

  /** A read is about to be asked for. */
  beginRead(first: number, count: number): Read {
    const sectors = this.#range(first, count);
    const read = {
      first,
      count,
      allowed: sectors.map(({ possible, pending }) => new Set([...possible, ...pending])),
      met: sectors.map(({ pending }) => pending.size > 0),
    };
    for (const sector of sectors) sector.readers.add(read);
    return read;
  }

  /** Its data has come. */
  endRead(read: Read, data: Uint8Array, who: string): void {
    assert.equal(data.length, read.count * SECTOR, `${who}: length`);
    const words = new Uint32Array(data.slice().buffer);
    for (let i = 0; i < read.count; i++) {
      const index = read.first + i;
      const sector = this.#sectors[index]!;
      sector.readers.delete(read);
      const found = this.#sector(words, read, i, who);
      if (read.met[i]!) this.seen.met++;
      else {
        this.seen.alone++;
        assert.equal(found.size, 1, `${who}: sector ${index} is torn`);
        // Nobody may see an older one from now on.
        if (sector.pending.size === 0) sector.possible = found;
      }
    }
  }

  /** Of which writes the words of a sector are; all must be allowed. */
  #sector(words: Uint32Array, read: Read, i: number, who: string): Set<Write> {
    const found = new Set<Write>();
    const allowed = [...read.allowed[i]!];
    for (let word = 0; word < WORDS; word++) {
      const at = (i * WORDS + word) * 2;
      const [id, place] = [words[at]!, words[at + 1]!];
      const write = allowed.find((one) =>
        one.zero
          ? id === 0 && place === 0
          : one.id === id && place === (read.first + i) * WORDS + word
      );
      if (write === undefined) {
        const may = allowed.map((one) => `${one.id}${one.zero ? " (zeroes)" : ""}`).join(", ");
        assert.fail(
          `${who}: sector ${
            read.first + i
          }, word ${word}: of write ${id}, place ${place}; may be ${may}`,
        );
      }
      found.add(write);
    }
    return found;
  }

  /** Checks a whole image, while nobody writes. */
  check(image: Uint8Array, who: string): void {
    this.endRead(this.beginRead(0, this.sectors), image, who);
  }
}
