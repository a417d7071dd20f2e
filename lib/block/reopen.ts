/** blockdev-reopen. */
import { CommandError } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { BlockGraph } from "./graph.ts";

/** Reopens all nodes of `list`, or none. */
export function reopenNodes(
  _graph: BlockGraph,
  list: readonly BlockdevOptionsValue[],
): Promise<void> {
  if (list.length === 0) return Promise.resolve();
  return Promise.reject(new CommandError("blockdev-reopen is being written"));
}
