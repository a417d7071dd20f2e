/** QMP's commands on the NBD server. */
import { CommandError } from "../base/mod.ts";
import type { BlockGraph } from "../block/mod.ts";
import type { ExportRegistry } from "../export/mod.ts";
import type { Handlers } from "../qmp/schema/core.ts";
import type { nbdCommandTable } from "../qmp/schema/export.ts";
import { flattenAddress } from "../qmp/schema/sockets.ts";
import type { NbdControl } from "./control.ts";

/** Handlers of nbdCommandTable. */
export function nbdHandlers(
  parts: { control: NbdControl; exports: ExportRegistry; graph: BlockGraph },
): Handlers<typeof nbdCommandTable> {
  const { control, exports, graph } = parts;
  return {
    "nbd-server-start": async ({ addr, ...options }) => {
      // A number would name a descriptor of the daemon's own: only its command line may do so.
      if (addr.type === "fd" && control.server === undefined) {
        throw new CommandError("only QEMU supports file descriptor passing");
      }
      await control.start({ ...options, addr: flattenAddress(addr) });
      return {};
    },
    "nbd-server-stop": async () => {
      await control.stop();
      return {};
    },
    "nbd-server-add": async ({ device, name, description, writable, bitmap }) => {
      const node = graph.lookup(device, device);
      await exports.add({
        type: "nbd",
        id: name ?? device,
        name: name ?? device,
        "node-name": node.name,
        // This command, unlike block-export-add, makes do with reading.
        writable: (writable ?? false) && !node.readOnly,
        ...(description === undefined ? {} : { description }),
        ...(bitmap === undefined ? {} : { bitmaps: [bitmap] }),
      });
      return {};
    },
    "nbd-server-remove": ({ name, mode }) => {
      if (exports.find(name)?.type !== "nbd") {
        throw new CommandError(`Export '${name}' is not found`);
      }
      exports.del(name, mode);
      return {};
    },
  };
}
