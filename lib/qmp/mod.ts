/** QMP: the wire, the sessions, the dispatcher and the control plane's own commands. */
export { compatibleVersion, controlHandlers, type ControlParts } from "./commands.ts";
export { type CommandEntry, CommandRegistry, Dispatcher, type Reply } from "./dispatcher.ts";
export {
  isJsonObject,
  type JsonObject,
  JsonReader,
  type JsonValue,
  parseJson,
  writeJson,
} from "./json/mod.ts";
export { Monitor, type Version } from "./monitor.ts";
export { monitorClasses, monitorKind, type MonitorSurroundings } from "./monitor_object.ts";
export { type MonitorOptions, QmpServer, type QmpServerParts } from "./server.ts";
