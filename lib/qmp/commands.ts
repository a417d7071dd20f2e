/** Handlers of the control plane's own commands. */
import type { MaybePromise } from "../base/mod.ts";
import type { CommandRegistry } from "./dispatcher.ts";
import type { Version } from "./monitor.ts";
import { controlCommands } from "./schema/control.ts";
import type { Handlers } from "./schema/core.ts";
import { introspect } from "./schema/introspect.ts";
import type { EventTable } from "./schema/registry.ts";

/** What the handlers need of the daemon. */
export interface ControlParts {
  readonly commands: CommandRegistry;
  readonly events: EventTable;
  readonly version: Version;
  /** Begins to stop; when it is done (exports closed, their events sent) the command is answered. */
  readonly quit: () => MaybePromise<void>;
}

/** The handlers of `controlCommands`. */
export function controlHandlers(parts: ControlParts): Handlers<typeof controlCommands> {
  return {
    // The dispatcher does this one itself, since it changes the session.
    qmp_capabilities: () => ({}),
    "query-version": () => parts.version,
    "query-commands": () => parts.commands.list().map(({ name }) => ({ name })),
    "query-qmp-schema": () => introspect(parts.commands.list(), parts.events),
    quit: async () => {
      await parts.quit();
      return {};
    },
  };
}

/** The level of QEMU that qsd is compatible with, and what qsd is. `version` is qsd's own. */
export function compatibleVersion(version: string): Version {
  return { qemu: { major: 7, minor: 2, micro: 22 }, package: `qsd ${version}` };
}
