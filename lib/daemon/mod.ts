/** The composition root: start, readiness, graceful stop. */
export { runDaemon } from "./run.ts";
