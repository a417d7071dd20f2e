/** QMP commands on where nodes run. */
import { CommandError } from "../base/mod.ts";
import type { BlockGraph } from "../block/mod.ts";
import type { Handlers } from "../qmp/schema/core.ts";
import type { threadCommands } from "../qmp/schema/thread.ts";
import type { ThreadHub } from "./hub.ts";

/** The handlers of threadCommands. */
export function threadHandlers(
  graph: BlockGraph,
  hub: ThreadHub,
): Handlers<typeof threadCommands> {
  return {
    "x-blockdev-set-iothread": async ({ "node-name": name, iothread, force }) => {
      const node = graph.find(name);
      if (node === undefined) {
        throw new CommandError(`Failed to find node with node-name='${name}'`);
      }
      if (force !== true && graph.hasUser(node)) {
        throw new CommandError(
          `Node ${name} is associated with a BlockBackend and could be in use ` +
            "(use force=true to override this check)",
        );
      }
      const thread = iothread === null ? undefined : hub.find(iothread);
      if (iothread !== null && thread === undefined) {
        throw new CommandError(`Cannot find iothread ${iothread}`);
      }
      await thread?.ready;
      await graph.place(node, thread);
      return {};
    },
  };
}
