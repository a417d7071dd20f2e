/** What check and repair are told and answer. */
import type { MaybePromise } from "../../../../base/mod.ts";

/** What was found. Counts are of clusters or table entries, as the original counts them. */
export interface CheckResult {
  /** Errors of the image that are still there. */
  corruptions: number;
  /** Clusters whose count is still higher than what leads to them. */
  leaks: number;
  /** Places that could not be looked at. */
  checkErrors: number;
  corruptionsFixed: number;
  leaksFixed: number;
  /** Where the last cluster in use ends, in bytes. */
  imageEndOffset: number;
  /** Clusters of the virtual disk: all, with data, not after its predecessor in the file, compressed. */
  totalClusters: number;
  allocatedClusters: number;
  fragmentedClusters: number;
  compressedClusters: number;
}

/** What may be repaired: counts that are too high; and errors, too. */
export type CheckFix = "none" | "leaks" | "all";

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

/** How to check. */
export interface CheckOptions {
  readonly fix: CheckFix;
  /** Takes each finding, in the original's words. */
  readonly say?: (line: string) => void;
  /** Takes what the program itself says (with its name before it), and hints. */
  readonly complain?: (message: string, hint?: string) => void;
  /** Bytes of memory for counts. */
  readonly memory?: number;
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
