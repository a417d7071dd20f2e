/** What blockdev-create lends a driver: the nodes that its options speak of. */
import type { Context } from "../sys/mod.ts";
import type { BlockGraph } from "./graph.ts";
import type { CreateContext } from "./driver_types.ts";
import { Perm } from "./types.ts";

/** The context of one creation; `goOn` throws once it is cancelled. */
export function creationOf(
  context: Context,
  graph: BlockGraph,
  goOn: () => void,
): CreateContext {
  return {
    context,
    goOn,
    node: (value) =>
      graph.open(value, {
        describe: "an unnamed block device",
        needed: Perm.write | Perm.resize,
        shared: Perm.all,
      }),
  };
}
