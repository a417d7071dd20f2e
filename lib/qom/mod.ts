/** User-creatable objects, and the tree in which objects are seen. */
export { objectHandlers } from "./commands.ts";
export { ObjectRegistry } from "./registry.ts";
export * from "./types.ts";
