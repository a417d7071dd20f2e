/** Writes that a format stores compressed, a cluster at a time. */
import { BlockError, type IoVec, type MaybePromise } from "../base/mod.ts";
import { Bounded } from "./bounded.ts";
import type { BlockNode } from "./node.ts";
import type { FormatInstance } from "./types.ts";

/**
 * Writes `iov` at `offset` of a format node as compressed clusters. EINVAL unless it is made of whole clusters (the
 * last one of the image may be short), ENOTSUP where the format has no compression.
 */
export function writeCompressed(
  node: BlockNode,
  format: FormatInstance,
  offset: number,
  iov: IoVec,
): MaybePromise<void> {
  const context = { node: node.name, op: "write", offset };
  const unit = format.compressedUnit;
  if (unit === undefined || format.writeCompressed === undefined) {
    throw new BlockError("ENOTSUP", "compressed writes are not supported", context);
  }
  const end = offset + iov.total;
  if (offset % unit !== 0 || (end % unit !== 0 && end !== format.size)) {
    throw new BlockError("EINVAL", "a compressed write must be of whole clusters", context);
  }
  const write = (at: number, part: IoVec) => {
    const result = format.writeCompressed!(at, part);
    return node.epochs === undefined ? result : node.epochs.track(result);
  };
  if (iov.total <= unit) return write(offset, iov);
  return writeEach(write, unit, offset, iov);
}

async function writeEach(
  write: (at: number, part: IoVec) => MaybePromise<void>,
  unit: number,
  offset: number,
  iov: IoVec,
): Promise<void> {
  const bounded = new Bounded();
  for (let done = 0; done < iov.total && !bounded.failed; done += unit) {
    const part = iov.slice(done, Math.min(unit, iov.total - done));
    await bounded.run(() => write(offset + done, part));
  }
  await bounded.finish();
}
