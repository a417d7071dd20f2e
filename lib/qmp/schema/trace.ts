/** Trace events (QAPI trace.json, as QEMU 7.2's emulator has it; its storage daemon has not). */
import { array, bool, command, empty, enumeration, exactInt, opt, str, struct } from "./core.ts";

export const TraceEventState = enumeration("TraceEventState", [
  "unavailable",
  "disabled",
  "enabled",
]);
/** A trace event. `vcpu`: whether it belongs to a virtual CPU (none does here). */
export const TraceEventInfo = struct("TraceEventInfo", {
  name: str,
  state: TraceEventState,
  vcpu: bool,
});

/** Commands on trace events. */
export const traceCommands = {
  "trace-event-get-state": command(
    struct("q_obj_trace-event-get-state-arg", { name: str, vcpu: opt(exactInt) }),
    array(TraceEventInfo),
    {
      doc: "The state of the trace events that a name or a pattern (`*`, `?`) stands for.",
      errors: ['`unknown event "NAME"`', "`invalid vCPU index N`: there are no virtual CPUs"],
    },
  ),
  "trace-event-set-state": command(
    struct("q_obj_trace-event-set-state-arg", {
      name: str,
      enable: bool,
      "ignore-unavailable": opt(bool),
      vcpu: opt(exactInt),
    }),
    empty,
    {
      doc: "Turns trace events on or off; lines go where --trace sends them, else to stderr.",
      errors: ['`unknown event "NAME"`', "`invalid vCPU index N`: there are no virtual CPUs"],
    },
  ),
} as const;
