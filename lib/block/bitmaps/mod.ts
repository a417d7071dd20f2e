/** Dirty bitmaps: which parts of a node were written since when. */
export { DirtyBitmap } from "./bitmap.ts";
export {
  type BitmapChange,
  bitmapsOf,
  type BitmapState,
  bitmapStates,
  changeBitmap,
} from "./away.ts";
export { Bits, type BitsState, MAX_GRANULARITY, MIN_GRANULARITY } from "./bits.ts";
export { bitmapCommands, bitmapInfo } from "./commands.ts";
export { BitmapList, MAX_BITMAP_NAME } from "./list.ts";
export {
  handOverBitmaps,
  loadBitmaps,
  makeBits,
  reopenBitmaps,
  resumeBitmaps,
  storeBitmaps,
} from "./life.ts";
