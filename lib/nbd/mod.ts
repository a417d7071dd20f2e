/** The NBD server: see connection.ts for how a request travels. */
export * from "./connection.ts";
export * from "./export.ts";
export * from "./transport.ts";
