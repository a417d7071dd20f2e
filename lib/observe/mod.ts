/** What can be seen of a running daemon: trace events. */
export { traceEvents } from "./catalog.ts";
export * from "./trace.ts";
