/** A dirty bitmap: bits with a name and a state. */
import { CommandError } from "../../base/mod.ts";
import { Bits } from "./bits.ts";

/** What is asked of a bitmap before it is used. */
export interface BitmapUse {
  /** It may be read-only: it will not be changed. */
  readonly readOnly?: boolean;
  /** It may be inconsistent: only for removing it. */
  readonly inconsistent?: boolean;
}

/** What a bitmap is made with. */
export interface BitmapOptions {
  readonly name: string;
  /** Stored in the image when the node is closed. */
  readonly persistent: boolean;
  readonly recording: boolean;
}

/** A bitmap of a node. */
export class DirtyBitmap {
  readonly name: string;
  persistent: boolean;
  /** Writes are recorded. Change it by BitmapList.setRecording. */
  recording: boolean;
  /** How many operations use it: exports, jobs. None may change it meanwhile. */
  users = 0;
  /** The image is read-only, and it is marked there as in use or could not be: it stays as it is. */
  readOnly = false;
  /** It was in use when the image was last closed: its bits are unknown. */
  inconsistent = false;

  constructor(readonly bits: Bits, options: BitmapOptions) {
    this.name = options.name;
    this.persistent = options.persistent;
    this.recording = options.recording;
  }

  get granularity(): number {
    return this.bits.granularity;
  }
  get busy(): boolean {
    return this.users > 0;
  }

  /** Throws CommandError, in QEMU's words, unless it can be used so. */
  check(use: BitmapUse = {}): void {
    if (this.busy) {
      throw new CommandError(
        `Bitmap '${this.name}' is currently in use by another operation and cannot be used`,
      );
    }
    if (this.readOnly && use.readOnly !== true) {
      throw new CommandError(`Bitmap '${this.name}' is readonly and cannot be modified`);
    }
    if (this.inconsistent && use.inconsistent !== true) {
      throw new CommandError(
        `Bitmap '${this.name}' is inconsistent and cannot be used`,
        "GenericError",
        ["Try block-dirty-bitmap-remove to delete this bitmap from disk"],
      );
    }
  }
}
