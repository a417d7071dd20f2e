/** What a guest may find on its disk after a power cut, sector by sector. */

const SECTOR = 512;
const ZEROES = new Uint8Array(SECTOR);

/** Contents of a sector: what the disk began with, zeroes, or the write of that number. */
type Content = number;
const ORIGINAL: Content = 0;
const ZERO: Content = -1;

/** A sector's possible contents, in the order in which they were sent; the last one is the newest. */
interface History {
  contents: Content[];
  /** How many of them were there when it was last discarded: after that any of them may show. */
  discarded: number;
}

/** Every sector that was ever written. */
export class Ledger {
  readonly #sectors: Map<number, History> = new Map();
  /** Sectors that may hold more than one content. */
  readonly #loose: Set<number> = new Set();
  #writes = 0;

  /** `original`: the guest's bytes at the start. */
  constructor(private readonly original: Uint8Array) {}

  /** As it is now, apart from what comes. */
  copy(): Ledger {
    const copy = new Ledger(this.original);
    for (const [sector, { contents, discarded }] of this.#sectors) {
      copy.#sectors.set(sector, { contents: [...contents], discarded });
      if (contents.length > 1) copy.#loose.add(sector);
    }
    return copy;
  }

  #each(offset: number, length: number, act: (history: History, sector: number) => void): void {
    for (let sector = offset / SECTOR; sector < (offset + length) / SECTOR; sector++) {
      let history = this.#sectors.get(sector);
      if (history === undefined) {
        this.#sectors.set(sector, history = { contents: [ORIGINAL], discarded: 0 });
      }
      act(history, sector);
      if (history.contents.length > 1) this.#loose.add(sector);
    }
  }

  /** The bytes of a new write, and its number for `sent`. */
  compose(offset: number, length: number): { number: number; bytes: Uint8Array } {
    const number = ++this.#writes;
    const bytes = new Uint8Array(length);
    for (let at = 0; at < length; at += SECTOR) {
      bytes.set(contentOf(number, (offset + at) / SECTOR), at);
    }
    return { number, bytes };
  }

  /** A write of that number, or zeroes, is sent. */
  sent(offset: number, length: number, number: number | "zeroes"): void {
    this.#each(offset, length, ({ contents }) => {
      contents.push(number === "zeroes" ? ZERO : number);
    });
  }

  /** A discard, or what is beyond a new end: zeroes or what was there, and that may change. */
  discarded(offset: number, length: number): void {
    this.#each(offset, length, (history) => {
      if (!history.contents.includes(ORIGINAL)) history.contents.unshift(ORIGINAL);
      history.contents.push(ZERO);
      history.discarded = history.contents.length;
    });
  }

  /** The disk is to become what `then` says: until that is certain it holds the one or the other. */
  goesBack(then: Ledger): void {
    const sectors = new Set([...this.#sectors.keys(), ...then.#sectors.keys()]);
    for (const sector of sectors) {
      this.#each(sector * SECTOR, SECTOR, (history) => {
        const others = then.#sectors.get(sector)?.contents ?? [ORIGINAL];
        history.contents.push(...others);
        history.discarded = history.contents.length;
      });
    }
  }
  /** It has. */
  wentBack(then: Ledger): void {
    this.#loose.clear();
    for (const sector of this.#sectors.keys()) {
      const { contents, discarded } = then.#sectors.get(sector) ??
        { contents: [ORIGINAL], discarded: 0 };
      this.#sectors.set(sector, { contents: [...contents], discarded });
      if (contents.length > 1) this.#loose.add(sector);
    }
  }

  /** As `discarded`, for everything that is known from `offset` on. */
  cutOff(offset: number): void {
    for (const sector of this.#sectors.keys()) {
      if (sector * SECTOR >= offset) this.discarded(sector * SECTOR, SECTOR);
    }
  }

  /** A flush has completed, and nothing was in flight: only the newest contents are left. */
  flushed(): void {
    for (const sector of [...this.#loose]) {
      const history = this.#sectors.get(sector)!;
      if (history.discarded === history.contents.length) continue;
      history.contents = [history.contents.at(-1)!];
      history.discarded = 0;
      this.#loose.delete(sector);
    }
  }

  /** Ranges of sectors that were ever written and lie below `end`, as [offset, length], joined. */
  touched(end: number): [number, number][] {
    const out: [number, number][] = [];
    for (const sector of [...this.#sectors.keys()].sort((a, b) => a - b)) {
      const offset = sector * SECTOR;
      if (offset + SECTOR > end) break;
      const last = out.at(-1);
      if (last !== undefined && last[0] + last[1] === offset) last[1] += SECTOR;
      else out.push([offset, SECTOR]);
    }
    return out;
  }

  /** What is wrong with these bytes, read at `offset`; undefined: nothing. */
  judge(offset: number, bytes: Uint8Array): string | undefined {
    for (let at = 0; at < bytes.length; at += SECTOR) {
      const sector = (offset + at) / SECTOR;
      const got = bytes.subarray(at, at + SECTOR);
      const allowed = this.#sectors.get(sector)?.contents ?? [ORIGINAL];
      if (!allowed.some((content) => same(got, this.#bytes(content, sector)))) {
        return `sector ${sector} holds ${describe(got)}, allowed are writes ${allowed}`;
      }
    }
    return undefined;
  }

  #bytes(content: Content, sector: number): Uint8Array {
    if (content === ZERO) return ZEROES;
    if (content !== ORIGINAL) return contentOf(content, sector);
    const at = sector * SECTOR;
    if (at + SECTOR <= this.original.length) return this.original.subarray(at, at + SECTOR);
    const padded = new Uint8Array(SECTOR);
    padded.set(this.original.subarray(Math.min(at, this.original.length)));
    return padded;
  }
}

/** The bytes that write `number` puts into a sector: they say so, and can be compressed. */
function contentOf(number: number, sector: number): Uint8Array {
  const bytes = new Uint8Array(SECTOR).fill((number * 31 + sector * 7) & 255 | 1);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, number);
  view.setUint32(4, sector);
  return bytes;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  for (let at = 0; at < SECTOR; at++) if (a[at] !== b[at]) return false;
  return true;
}

function describe(bytes: Uint8Array): string {
  if (bytes.every((byte) => byte === 0)) return "zeroes";
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const [number, sector] = [view.getUint32(0), view.getUint32(4)];
  return same(bytes, contentOf(number, sector))
    ? `write ${number} of sector ${sector}`
    : "something else";
}
