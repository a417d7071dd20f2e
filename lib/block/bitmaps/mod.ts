/** Dirty bitmaps: which parts of a node were written since when. */
export { DirtyBitmap } from "./bitmap.ts";
export {
  type BitmapChange,
  bitmapsOf,
  type BitmapState,
  bitmapStates,
  changeBitmap,
} from "./away.ts";
export { Bits, type BitsState } from "./bits.ts";
export { bitmapCommands, bitmapInfo } from "./commands.ts";
export { MAX_BITMAP_NAME } from "./list.ts";
export {
  handOverBitmaps,
  loadBitmaps,
  makeBits,
  reopenBitmaps,
  resumeBitmaps,
  storeBitmaps,
} from "./life.ts";
