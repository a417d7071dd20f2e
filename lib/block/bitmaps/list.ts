/** The dirty bitmaps of one node. A node without any has no list: then nothing is on the way of its writes. */
import { CommandError } from "../../base/mod.ts";
import type { BitmapStore } from "../types.ts";
import type { DirtyBitmap } from "./bitmap.ts";

/** Most bytes of a name. */
export const MAX_BITMAP_NAME = 1023;

/** A node's bitmaps, oldest first. */
export class BitmapList {
  readonly #bitmaps: DirtyBitmap[] = [];
  /** Those that record here. */
  #recording: DirtyBitmap[] = [];
  #away = false;

  get length(): number {
    return this.#bitmaps.length;
  }

  /** All of them, oldest first. */
  all(): readonly DirtyBitmap[] {
    return this.#bitmaps;
  }

  find(name: string): DirtyBitmap | undefined {
    return this.#bitmaps.find((bitmap) => bitmap.name === name);
  }

  /** Adds a bitmap. Throws CommandError, in QEMU's words, if there is one called so. */
  add(bitmap: DirtyBitmap): void {
    checkFreeName(this, bitmap.name);
    this.#bitmaps.push(bitmap);
    this.#sort();
  }

  remove(bitmap: DirtyBitmap): void {
    this.#bitmaps.splice(this.#bitmaps.indexOf(bitmap), 1);
    this.#sort();
  }

  /** Begins or ends the recording of writes in one of them. */
  setRecording(bitmap: DirtyBitmap, recording: boolean): void {
    bitmap.recording = recording;
    this.#sort();
  }

  /** Whether the node runs in an IOThread: then its writes are recorded there, and nothing is changed here. */
  set away(away: boolean) {
    this.#away = away;
    this.#sort();
  }

  /** The bits may have become usable, or no longer are. */
  #sort(): void {
    this.#recording = this.#bitmaps.filter((one) =>
      one.recording && !one.inconsistent && !this.#away
    );
  }

  /** `length` bytes at `offset` of the node were written, or may have been. */
  mark(offset: number, length: number): void {
    for (const { bits } of this.#recording) bits.set(offset, length);
  }

  /** The node has another length now. */
  resize(size: number): void {
    if (this.#away) return;
    for (const { bits, inconsistent } of this.#bitmaps) if (!inconsistent) bits.resize(size);
  }

  /** Writes the persistent ones to the image, which then calls them consistent. */
  async store(store: BitmapStore): Promise<void> {
    const persistent = this.#bitmaps.filter((one) => one.persistent && !one.readOnly);
    await store.store(persistent);
  }
}

/** Throws CommandError, in QEMU's words, if there is a bitmap called so. */
export function checkFreeName(list: BitmapList | undefined, name: string): void {
  if (list?.find(name) !== undefined) throw new CommandError(`Bitmap already exists: ${name}`);
}

/** Throws CommandError, in QEMU's words, unless a bitmap can be called so. */
export function checkNewName(list: BitmapList | undefined, name: string): void {
  checkFreeName(list, name);
  if (new TextEncoder().encode(name).length > MAX_BITMAP_NAME) {
    throw new CommandError(`Bitmap name too long: ${name}`);
  }
}
