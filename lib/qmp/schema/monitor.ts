/** `--monitor` (QAPI control.json). */
import { bool, enumeration, type Infer, opt, str, struct } from "./core.ts";

export const MonitorMode = enumeration("MonitorMode", ["readline", "control"]);
/** What `--monitor` takes; only mode=control works. */
export const MonitorOptions = struct("MonitorOptions", {
  id: opt(str),
  mode: opt(MonitorMode),
  pretty: opt(bool),
  chardev: str,
});
export type MonitorOptionsValue = Infer<typeof MonitorOptions>;
