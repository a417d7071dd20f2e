/** Jobs: the core that all of them share, and the creation of images. */
export { jobCommands } from "./commands.ts";
export { Job, type JobControl, type JobWork } from "./job.ts";
export { JobRegistry } from "./registry.ts";
export { accepts, checkVerb, type JobVerb, mayMove } from "./state.ts";
