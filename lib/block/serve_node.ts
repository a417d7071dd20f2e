/** Requests of other contexts, carried out where the node lives: through its seam, as any other. */
import { BlockError, chain, type IoVec, type MaybePromise } from "../base/mod.ts";
import { NodeOp } from "./forward.ts";
import type { BlockNode } from "./node.ts";
import type { Seam } from "./seam.ts";
import { chainDepth, chainStatus } from "./status.ts";
import type { BlockStatus } from "./types.ts";

/** Carries out one request; `out` is filled by NodeOp.status and depth alone. */
export function executeOn(
  seam: Seam,
  node: BlockNode,
  op: number,
  offset: number,
  length: number,
  flags: number,
  iov: IoVec,
  out: BlockStatus,
): MaybePromise<void> {
  switch (op) {
    case NodeOp.read:
      return seam.read(node, offset, iov, flags);
    case NodeOp.write:
      return seam.write(node, offset, iov, flags);
    case NodeOp.writeZeroes:
      return seam.writeZeroes(node, offset, length, flags);
    case NodeOp.discard:
      return seam.discard(node, offset, length);
    case NodeOp.flush:
      return seam.flush(node);
    case NodeOp.prefetch:
      return seam.prefetch(node, offset, length);
    case NodeOp.status:
      if ((flags & 2) !== 0) {
        return chainStatus(seam, node, offset, length, (flags & 1) !== 0, out);
      }
      return chain(seam.status(node, offset, length, (flags & 1) !== 0, out), () => {
        // What a format has nothing of reads as zeroes, unless a layer below it provides it: the asker sees to that.
        if (!out.allocated && !out.data && node.instance.kind === "format") out.zero = true;
      });
    case NodeOp.depth:
      return chainDepth(seam, node, offset, length).then((found) => {
        out.depth = found.depth;
        out.length = found.length;
        out.allocated = found.depth > 0;
        delete out.offset;
        delete out.file;
      });
    default:
      throw new BlockError("ENOTSUP", `request ${op} is not known`, { node: node.name, offset });
  }
}
