/** The NBD server: see connection.ts for how a request travels. What serves clients is loaded with the first server. */
import { laterPart, type ThreadPartKind } from "../thread/mod.ts";

export { nbdHandlers } from "./commands.ts";
export { NbdControl } from "./control.ts";

/** Starts NBD exports in threads. */
export const nbdPart: ThreadPartKind = laterPart(
  "nbd",
  async () => (await import("./thread_part.ts")).nbdPart,
);
