/** What a check needs of the image file, and the result it begins with. */
import type { MaybePromise } from "../../../../base/mod.ts";
import type { CheckResult } from "../../checks.ts";

export type { CheckFix, CheckOptions, CheckResult } from "../../checks.ts";

/** The image file, by bytes. Tables are read into plain arrays: no guest data comes this way. */
export interface CheckFile {
  /** Length in bytes, now. */
  readonly size: number;
  /** Fills `into`; what lies past the end is zero. Throws BlockError. */
  read(offset: number, into: Uint8Array): Promise<void>;
  write(offset: number, bytes: Uint8Array): Promise<void>;
  flush(): MaybePromise<void>;
  /** Whether the range surely reads as zeroes, found out without reading. */
  isHole(offset: number, length: number): MaybePromise<boolean>;
}

/** Nothing found yet. */
export function emptyResult(): CheckResult {
  return {
    corruptions: 0,
    leaks: 0,
    checkErrors: 0,
    corruptionsFixed: 0,
    leaksFixed: 0,
    imageEndOffset: 0,
    totalClusters: 0,
    allocatedClusters: 0,
    fragmentedClusters: 0,
    compressedClusters: 0,
  };
}
