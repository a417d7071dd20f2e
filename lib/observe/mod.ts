/** What can be seen of a running daemon: trace events. */
export { commandEvents, namedEvents, traceEvents } from "./catalog.ts";
export { traceHandlers } from "./commands.ts";
export * from "./trace.ts";
