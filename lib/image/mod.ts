/** Commands on image files that need no daemon: `qsd check`, `qsd measure`, `qsd snapshot`. */
export { runImageCommand } from "./run.ts";
