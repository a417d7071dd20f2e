/** IOThreads and nodes (QAPI block-core.json). */
import {
  alternate,
  bool,
  command,
  empty,
  nullType,
  opt,
  type Schema,
  str,
  struct,
} from "./core.ts";

/** A name, or nothing. */
export const StrOrNull: Schema<string | null> = alternate("StrOrNull", { s: str, n: nullType });

/** Commands on where nodes run. */
export const threadCommands = {
  "x-blockdev-set-iothread": command(
    struct("q_obj_x-blockdev-set-iothread-arg", {
      "node-name": str,
      iothread: StrOrNull,
      force: opt(bool),
    }),
    empty,
    {
      features: ["unstable"],
      doc:
        "Moves a node, with everything that is connected with it, to an IOThread, or with null to the main thread. `force`: even if the node is in use by an export.",
      errors: [
        "`Failed to find node with node-name='N'`",
        "`Node N is associated with a BlockBackend and could be in use (use force=true to override this check)`",
        "`Cannot find iothread T`",
        "`Cannot change iothread of active block backend`: an export with `fixed-iothread` uses it",
      ],
    },
  ),
} as const;
