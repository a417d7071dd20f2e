/** Changing the length of a node. */
import { alignUp, chain, CommandError, type MaybePromise, SECTOR } from "../base/mod.ts";
import type { BlockNode } from "./node.ts";
import type { Seam } from "./seam.ts";
import type { TruncateOptions } from "./types.ts";

/** Truncates `node` to `size` bytes; a filter without an opinion passes it on. Parents learn of it. */
export function truncateNode(
  seam: Seam,
  node: BlockNode,
  size: number,
  options: TruncateOptions,
): MaybePromise<void> {
  if (node.readOnly) throw new CommandError("Image is read-only");
  if (!node.active) throw new CommandError("Image is inactive");
  const { instance } = node;
  const kept = node.bitmaps?.all().filter(({ persistent }) => persistent) ?? [];
  for (const bitmap of kept) bitmap.check();
  instance.bitmaps?.checkSize(size, kept);
  let result: MaybePromise<void>;
  if (instance.truncate !== undefined) {
    result = instance.truncate(size, options);
  } else {
    const filtered = node.definition.kind === "filter"
      ? node.children.find((edge) => edge.role.includes("filtered"))
      : undefined;
    if (filtered === undefined) {
      throw new CommandError("Image format driver does not support resize");
    }
    result = truncateNode(seam, filtered.node, size, options);
  }
  return chain(result, () => {
    node.writeGeneration++;
    if (node.writeHighest > alignUp(size, SECTOR)) node.writeHighest = alignUp(size, SECTOR);
    seam.events.resized(node);
  });
}
