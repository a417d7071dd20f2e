/** Character devices: what monitors speak through. */
export type { Channel, ChannelUser } from "./channel.ts";
export { chardevHandlers } from "./commands.ts";
export { type ChardevMade, ChardevRegistry } from "./registry.ts";
export { chardevHelp } from "./options.ts";
export { chardevClasses } from "./qom.ts";
