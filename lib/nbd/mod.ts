/** The NBD server: see connection.ts for how a request travels. */
export * from "./commands.ts";
export * from "./connection.ts";
export * from "./control.ts";
export * from "./export.ts";
export * from "./server.ts";
export { nbdPart } from "./thread_part.ts";
export * from "./transport.ts";
