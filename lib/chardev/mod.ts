/** Character devices: what monitors speak through. */
export { chardevHandlers } from "./commands.ts";
export { ChardevRegistry, type ChardevSurroundings } from "./registry.ts";
export { chardevBackends } from "./options.ts";
