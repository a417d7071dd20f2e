/**
 * Bitmaps of a node that runs in an IOThread. They are where the node is: there writes are recorded, into memory that
 * the main context looks at too (bits.ts). The main context has the names, who uses them and what state they are in,
 * and asks the thread for every change.
 */
import { CommandError } from "../../base/mod.ts";
import { DirtyBitmap } from "./bitmap.ts";
import { Bits, type BitsState } from "./bits.ts";
import { BitmapList } from "./list.ts";

/** A bitmap, to be posted to another thread. */
export interface BitmapState {
  readonly name: string;
  readonly persistent: boolean;
  readonly recording: boolean;
  readonly readOnly: boolean;
  readonly inconsistent: boolean;
  readonly bits: BitsState;
}

/** What is done to a bitmap where its node runs. */
export type BitmapChange =
  | { readonly op: "clear" }
  | { readonly op: "record"; readonly recording: boolean }
  | { readonly op: "merge"; readonly sources: readonly BitsState[] };

/** The bitmaps of a list, to be posted. */
export function bitmapStates(list: BitmapList | undefined): readonly BitmapState[] {
  return (list?.all() ?? []).map((
    { name, persistent, recording, readOnly, inconsistent, bits },
  ) => ({
    name,
    persistent,
    recording,
    readOnly,
    inconsistent,
    bits: bits.state,
  }));
}

/** Bitmaps that another thread posted: they share its memory. */
export function bitmapsOf(states: readonly BitmapState[]): BitmapList | undefined {
  if (states.length === 0) return undefined;
  const list = new BitmapList();
  for (const { bits, readOnly, inconsistent, ...options } of states) {
    const bitmap = new DirtyBitmap(Bits.of(bits), options);
    bitmap.readOnly = readOnly;
    bitmap.inconsistent = inconsistent;
    list.add(bitmap);
  }
  return list;
}

/** Does it. Throws CommandError with nothing changed; that it may be done has been checked. */
export function changeBitmap(list: BitmapList, bitmap: DirtyBitmap, change: BitmapChange): void {
  const { bits } = bitmap;
  switch (change.op) {
    case "clear":
      return bits.clearAll();
    case "record":
      return list.setRecording(bitmap, change.recording);
    case "merge":
      for (const { size } of change.sources) checkSizes(bits.size, size);
      for (const source of change.sources) bits.merge(Bits.of(source));
  }
}

/** Throws CommandError, in QEMU's words, unless bitmaps of these sizes can be merged. */
export function checkSizes(to: number, from: number): void {
  if (to === from) return;
  throw new CommandError(
    `Bitmaps are of different sizes (destination size is ${to}, source size is ${from}) ` +
      "and can't be merged",
  );
}
