/** QMP commands on character devices. */
import type { Handlers } from "../qmp/schema/core.ts";
import type { chardevCommands } from "../qmp/schema/chardev.ts";
import type { ChardevRegistry } from "./registry.ts";

/** The handlers of `chardevCommands`. */
export function chardevHandlers(chardevs: ChardevRegistry): Handlers<typeof chardevCommands> {
  return {
    "query-chardev": () => chardevs.list(),
    "query-chardev-backends": () => chardevs.backends(),
  };
}
