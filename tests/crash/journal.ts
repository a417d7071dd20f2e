/**
 * Disks that write down everything that reaches them, and what such a disk may hold after a power cut.
 *
 * A write is safe once a flush that was asked for after it had completed has completed itself. Whatever is not safe
 * may be there, or not, or in part (each 512-byte sector by itself), in any order.
 */
import { BlockError, type IoVec, type MaybePromise } from "../../lib/base/mod.ts";
import {
  defineDriver,
  type DriverDefinition,
  type FilePages,
  type FilePlace,
  type IoInstance,
} from "../../lib/block/mod.ts";
import { struct } from "../../lib/qmp/schema/core.ts";
import { Errno, type Sys } from "../../lib/sys/mod.ts";
import type { Dice } from "../harness/dice.ts";
import { PageCache } from "./pages.ts";

const SECTOR = 512;

/** A change of a disk. Bytes of "write" only; of zeroes and discards the length. */
interface Change {
  readonly kind: "write" | "zero" | "truncate";
  readonly disk: number;
  readonly at: number;
  readonly length: number;
  readonly bytes?: Uint8Array;
  /** When it was asked for, and when it completed: positions in the journal. */
  readonly issued: number;
  done: number;
}

/** One line of the journal. */
type Entry =
  | { readonly kind: "issue"; readonly change: Change }
  | { readonly kind: "done"; readonly change: Change }
  /** `asked`: position in the journal when the flush was asked for. */
  | { readonly kind: "flushed"; readonly disk: number; readonly asked: number }
  /** Something that the test wants to happen here in a replay as well. */
  | { readonly kind: "note"; readonly act: () => void };

/** All that happened on some disks, in one order. */
export class Journal {
  readonly entries: Entry[] = [];
  readonly disks: RecordingDisk[] = [];

  /** Adds a disk with these bytes on it, safe. */
  disk(bytes: Uint8Array, dice: Dice): RecordingDisk {
    const disk = new RecordingDisk(this, this.disks.length, bytes, dice);
    this.disks.push(disk);
    return disk;
  }

  /** `act` is called when a replay comes to this place. */
  note(act: () => void): void {
    this.entries.push({ kind: "note", act });
  }

  /**
   * Goes through the journal again and calls `cut` wherever something had changed, with what the disks may hold
   * if the power fails there: `take` makes one such state after the other.
   */
  async replay(
    cut: (position: number, take: (dice: Dice) => Uint8Array[]) => Promise<void> | void,
  ): Promise<void> {
    const safe = this.disks.map((disk) => new Bytes(disk.original));
    let loose: Change[] = [];
    for (const [position, entry] of this.entries.entries()) {
      if (entry.kind === "note") entry.act();
      if (entry.kind === "issue") loose.push(entry.change);
      if (entry.kind === "flushed") {
        const covered = (change: Change) =>
          change.disk === entry.disk && change.done >= 0 && change.done < entry.asked;
        for (const change of loose) if (covered(change)) safe[change.disk]!.apply(change);
        loose = loose.filter((change) => !covered(change));
      }
      if (entry.kind === "issue" || entry.kind === "flushed") {
        const now = loose;
        await cut(position, (dice) => crashed(safe, now, dice));
      }
    }
  }
}

/** A state after a cut: the safe bytes, and some of what was not safe. */
function crashed(safe: readonly Bytes[], loose: readonly Change[], dice: Dice): Uint8Array[] {
  const disks = safe.map((bytes) => bytes.copy());
  const mode = dice.below(8);
  if (mode > 0) {
    const share = mode === 1 ? 1 : dice.below(1000) / 1000;
    const tears = mode > 4;
    const chosen = loose.filter(() => dice.below(1000) < share * 1000 || share === 1);
    // Mode 2 keeps the order in which they were asked for: the plainest of all cuts.
    if (mode > 2) dice.shuffle(chosen);
    for (const change of chosen) disks[change.disk]!.apply(change, tears ? dice : undefined);
  }
  return disks.map((bytes) => bytes.bytes);
}

/** Bytes that grow. */
class Bytes {
  #room: Uint8Array;
  #length: number;

  constructor(bytes: Uint8Array) {
    this.#room = bytes.slice();
    this.#length = bytes.length;
  }
  get bytes(): Uint8Array {
    return this.#room.subarray(0, this.#length);
  }
  copy(): Bytes {
    return new Bytes(this.bytes);
  }
  resize(length: number): void {
    if (length > this.#room.length) {
      const room = new Uint8Array(Math.max(length, this.#room.length * 1.5));
      room.set(this.bytes);
      this.#room = room;
    }
    if (length < this.#length) this.#room.fill(0, length, this.#length);
    this.#length = length;
  }
  /** With dice, each sector makes it or does not. */
  apply(change: Change, dice?: Dice): void {
    if (change.kind === "truncate") return this.resize(change.length);
    for (let from = 0; from < change.length;) {
      const at = change.at + from;
      const take = dice === undefined
        ? change.length
        : Math.min(SECTOR - at % SECTOR, change.length - from);
      if (dice === undefined || dice.below(2) === 1) this.#put(at, change, from, take);
      from += take;
    }
  }
  #put(at: number, change: Change, from: number, length: number): void {
    if (at + length > this.#length) this.resize(at + length);
    if (change.bytes === undefined) this.#room.fill(0, at, at + length);
    else this.#room.set(change.bytes.subarray(from, from + length), at);
  }
}

/** A disk in memory. Name it in option `disk` of driver `recording`. */
export class RecordingDisk {
  readonly #bytes: Bytes;
  /** Most bytes that it can take. */
  room = Infinity;
  readonly original: Uint8Array;
  /** What is sent is sent from there. */
  readonly pages: PageCache;

  constructor(
    private readonly journal: Journal,
    readonly number: number,
    bytes: Uint8Array,
    private readonly dice: Dice,
  ) {
    this.original = bytes.slice();
    this.#bytes = new Bytes(bytes);
    this.pages = new PageCache(() => this.bytes, dice);
  }

  /** What it holds now, were the power never cut. */
  get bytes(): Uint8Array {
    return this.#bytes.bytes;
  }

  /** Requests take a few turns each, so that they overtake each other. */
  async #latency(): Promise<void> {
    for (let left = this.dice.below(12); left > 0; left--) await undefined;
  }

  #change(
    kind: Change["kind"],
    at: number,
    length: number,
    bytes?: Uint8Array,
  ): MaybePromise<void> {
    const finish = this.#issue(kind, at, length, bytes);
    if (this.dice.below(4) === 0) return finish();
    return this.#latency().then(finish);
  }

  /** A change is asked for; what is returned carries it out. */
  #issue(kind: Change["kind"], at: number, length: number, bytes?: Uint8Array): () => void {
    const { entries } = this.journal;
    const change: Change = {
      kind,
      disk: this.number,
      at,
      length,
      ...(bytes === undefined ? {} : { bytes }),
      issued: entries.length,
      done: -1,
    };
    entries.push({ kind: "issue", change });
    return () => {
      if (kind === "zero") this.pages.zeroing(at, length);
      if (kind === "write") this.pages.touch(at, length);
      this.#bytes.apply(change);
      change.done = entries.length;
      entries.push({ kind: "done", change });
    };
  }

  #needRoom(end: number): void {
    if (end > this.room) throw new BlockError("ENOSPC", "No space left on device");
  }

  write(at: number, bytes: Uint8Array): MaybePromise<void> {
    this.#needRoom(at + bytes.length);
    return this.#change("write", at, bytes.length, bytes);
  }
  /** How many of `length` bytes are written at once, from `at` on. */
  accepts(at: number, length: number): number {
    this.#needRoom(at + 1);
    return Math.min(length, this.room - at, this.dice.below(4) === 0 ? 10 * SECTOR : Infinity);
  }
  /** Writes without anything in between. */
  writeNow(at: number, bytes: Uint8Array): void {
    this.#issue("write", at, bytes.length, bytes)();
  }
  zero(at: number, length: number): MaybePromise<void> {
    this.#needRoom(at + length);
    return this.#change("zero", at, length);
  }
  truncate(length: number): MaybePromise<void> {
    this.#needRoom(length);
    return this.#change("truncate", 0, length);
  }
  async flush(): Promise<void> {
    const { entries } = this.journal;
    const asked = entries.length;
    await this.#latency();
    entries.push({ kind: "flushed", disk: this.number, asked });
  }
  async read(at: number, length: number): Promise<Uint8Array> {
    await this.#latency();
    const out = new Uint8Array(length);
    out.set(this.bytes.subarray(Math.min(at, this.bytes.length), at + length));
    return out;
  }
}

class RecordingInstance implements IoInstance, FilePages {
  readonly kind = "io";
  readonly pages: FilePages = this;
  constructor(private readonly sys: Sys, private readonly disk: RecordingDisk) {}
  get size(): number {
    return this.disk.bytes.length;
  }
  async read(offset: number, iov: IoVec): Promise<void> {
    const bytes = await this.disk.read(offset, iov.total);
    for (let i = 0, at = 0; i < iov.count; at += iov.lengths[i]!, i++) {
      const length = iov.lengths[i]!;
      this.sys.viewAt(iov.addresses[i]!, length).set(bytes.subarray(at, at + length));
    }
  }
  write(offset: number, iov: IoVec): MaybePromise<void> {
    const bytes = new Uint8Array(iov.total);
    for (let i = 0, at = 0; i < iov.count; at += iov.lengths[i]!, i++) {
      bytes.set(this.sys.viewAt(iov.addresses[i]!, iov.lengths[i]!), at);
    }
    return this.disk.write(offset, bytes);
  }
  pipeUnit(): number {
    return 1;
  }
  writeFromPipe(offset: number, pipe: number, length: number): number {
    try {
      length = this.disk.accepts(offset, length);
    } catch {
      return -Errno.ENOSPC;
    }
    const memory = this.sys.allocate(length);
    try {
      const taken = this.sys.read(pipe, memory.address, length);
      if (taken > 0) this.disk.writeNow(offset, memory.bytes.slice(0, taken));
      return taken;
    } finally {
      memory.unmap();
    }
  }
  writeZeroes(offset: number, length: number): MaybePromise<void> {
    return this.disk.zero(offset, length);
  }
  discard(offset: number, length: number): MaybePromise<void> {
    return this.disk.zero(offset, length);
  }
  flush(): Promise<void> {
    return this.disk.flush();
  }
  truncate(size: number): MaybePromise<void> {
    return this.disk.truncate(size);
  }
  locate(offset: number, _length: number, _known: boolean, out: FilePlace): boolean {
    out.fd = -1;
    out.offset = offset;
    return true;
  }
  inPageCache(offset: number, length: number): boolean {
    return this.disk.pages.has(offset, length);
  }
  dropPages(offset: number, length: number): void {
    this.disk.pages.drop(offset, length);
  }
  close(): void {}
}

/** The driver `recording`, whose option `disk` names one of `disks`. */
export function recordingDriver(
  disks: Readonly<Record<string, RecordingDisk>>,
): DriverDefinition<unknown> {
  return defineDriver({
    name: "recording",
    kind: "protocol",
    options: struct("BlockdevOptionsRecording", {}),
    open(open, options) {
      const disk = disks[String((options as { disk?: string }).disk)];
      if (disk === undefined) throw new Error("there is no such disk in this test");
      return new RecordingInstance(open.context.sys, disk);
    },
  }) as DriverDefinition<unknown>;
}
