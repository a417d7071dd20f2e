/** Commands on image files that need no daemon: `qsd check`. */
export { runImageCommand } from "./run.ts";
