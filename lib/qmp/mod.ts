/** QMP: the wire, the sessions, the dispatcher and the control plane's own commands. */
export { compatibleVersion, controlHandlers } from "./commands.ts";
export { CommandRegistry, Dispatcher } from "./dispatcher.ts";
export { type JsonValue, writeJson } from "./json/mod.ts";
export { Monitor } from "./monitor.ts";
export { monitorClasses, monitorKind, type MonitorSurroundings } from "./monitor_object.ts";
export { QmpServer } from "./server.ts";
