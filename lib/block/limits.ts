/** What a node can take: the driver's own limits completed with defaults and with those of its children. */
import { assert, isPowerOfTwo, MAX_OFFSET } from "../base/mod.ts";
import type { Limits } from "./types.ts";

/** Largest length of one request anywhere (QEMU: INT_MAX, rounded down to the alignment). */
const MAX_REQUEST = 2 ** 31;

/** Resolves `own` limits; transfer size and memory alignment are also bounded by the `children`. Bytes. */
export function resolveLimits(
  own: Partial<Limits> | undefined,
  children: Iterable<Readonly<Limits>>,
): Limits {
  const requestAlignment = own?.requestAlignment ?? 1;
  assert(isPowerOfTwo(requestAlignment), "requestAlignment must be a power of two");
  let maxTransfer = own?.maxTransfer ?? MAX_REQUEST - requestAlignment;
  let memoryAlignment = own?.memoryAlignment ?? 1;
  let optimalTransfer = own?.optimalTransfer ?? 0;
  let maxSegments = own?.maxSegments ?? 1024;
  for (const child of children) {
    maxTransfer = Math.min(maxTransfer, child.maxTransfer);
    memoryAlignment = Math.max(memoryAlignment, child.memoryAlignment);
    optimalTransfer = Math.max(optimalTransfer, child.optimalTransfer);
    maxSegments = Math.min(maxSegments, child.maxSegments);
  }
  maxTransfer -= maxTransfer % requestAlignment;
  assert(maxTransfer >= requestAlignment, "maxTransfer below requestAlignment");
  return {
    requestAlignment,
    memoryAlignment,
    maxTransfer,
    maxWriteZeroes: own?.maxWriteZeroes ?? MAX_OFFSET,
    writeZeroesAlignment: Math.max(own?.writeZeroesAlignment ?? 1, requestAlignment),
    maxDiscard: own?.maxDiscard ?? MAX_OFFSET,
    discardAlignment: Math.max(own?.discardAlignment ?? 1, requestAlignment),
    optimalTransfer,
    maxSegments,
  };
}
