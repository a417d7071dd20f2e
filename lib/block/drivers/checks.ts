/** Checking images: what formats that can be checked offer, and what comes of it. */
import type { MaybePromise } from "../../base/mod.ts";
import type { Context } from "../../sys/mod.ts";
import type { Child } from "../mod.ts";

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

/** The calls of the image file's node that a check needs. */
export interface CheckedNode extends Pick<Child, "size" | "read" | "status"> {
  write: Child["write"];
  truncate: Child["truncate"];
  flush(): MaybePromise<void>;
}

/** A format whose images can be checked without opening them for use. */
export interface ImageChecker {
  /** Reads what says how to read the rest. Throws BlockError where the image is not of the format. */
  open(context: Context, file: CheckedNode): Promise<CheckableImage>;
}

/** An image that is ready to be checked. */
export interface CheckableImage {
  /** Checks, and repairs as `options.fix` says; again and again. Throws BlockError where it cannot be done. */
  check(options: CheckOptions): Promise<CheckResult>;
}
