/** User-creatable objects. */
export { objectHandlers, objectHelp, ObjectRegistry } from "./registry.ts";
