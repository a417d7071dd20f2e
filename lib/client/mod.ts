/** The clients for people: `qsd qmp` and `qsd status`. */
export { runClient } from "./run.ts";
