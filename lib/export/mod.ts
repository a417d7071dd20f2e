/** Block exports: the life cycle that all export types have in common. */
export { addressText } from "./address.ts";
export * from "./commands.ts";
export * from "./registry.ts";
