/** The trace events of monitors, named as in QEMU; `mon` is the monitor's name where QEMU shows an address. */
import type { Context, TracePoint } from "../sys/mod.ts";
import { isJsonObject, type JsonValue, writeJson } from "./json/mod.ts";

/** The points, looked up once. */
export interface MonitorTrace {
  readonly command: TracePoint;
  readonly enqueue: TracePoint;
  readonly dequeue: TracePoint;
  readonly inBand: TracePoint;
  readonly inBandError: TracePoint;
  readonly outOfBand: TracePoint;
  readonly respond: TracePoint;
}

/** The points of a context. */
export function monitorTrace(context: Pick<Context, "trace">): MonitorTrace {
  return {
    command: context.trace("handle_qmp_command"),
    enqueue: context.trace("monitor_qmp_in_band_enqueue"),
    dequeue: context.trace("monitor_qmp_in_band_dequeue"),
    inBand: context.trace("monitor_qmp_cmd_in_band"),
    inBandError: context.trace("monitor_qmp_err_in_band"),
    outOfBand: context.trace("monitor_qmp_cmd_out_of_band"),
    respond: context.trace("monitor_qmp_respond"),
  };
}

/** The id of a request as the events show it: empty where it has none. */
export function idText(request: JsonValue): string {
  return isJsonObject(request) && "id" in request ? writeJson(request["id"]) : "";
}
