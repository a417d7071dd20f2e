/** QMP commands on trace events. */
import { CommandError } from "../base/mod.ts";
import type { Handlers } from "../qmp/schema/core.ts";
import type { traceCommands } from "../qmp/schema/trace.ts";
import type { TraceRegistry } from "./trace.ts";

/** The names that `pattern` stands for; a name that is no pattern must exist. Throws CommandError. */
function match(
  registry: TraceRegistry,
  pattern: string,
  vcpu: number | bigint | undefined,
): string[] {
  if (vcpu !== undefined) throw new CommandError(`invalid vCPU index ${vcpu}`);
  const names = registry.match(pattern);
  if (names === undefined) throw new CommandError(`unknown event "${pattern}"`);
  return names;
}

/** The handlers of `traceCommands`. */
export function traceHandlers(registry: TraceRegistry): Handlers<typeof traceCommands> {
  return {
    "trace-event-get-state": ({ name, vcpu }) =>
      match(registry, name, vcpu).map((each) => ({
        name: each,
        state: registry.isEnabled(each) ? "enabled" : "disabled",
        vcpu: false,
      })),
    // There are no unavailable events here, so that `ignore-unavailable` makes no difference.
    "trace-event-set-state": ({ name, enable, vcpu }) => {
      registry.set(match(registry, name, vcpu), enable);
      return {};
    },
  };
}
