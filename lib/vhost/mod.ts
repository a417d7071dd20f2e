/**
 * vhost-user-blk exports: see session.ts for what a front-end can say, queue.ts for how a request travels. What serves
 * front-ends is loaded with the first export.
 */
import { laterPart, type ThreadPartKind } from "../thread/mod.ts";

export { VhostUserBlk } from "./control.ts";

/** Starts vhost-user-blk exports in threads. */
export const vhostPart: ThreadPartKind = laterPart(
  "vhost-user-blk",
  async () => (await import("./thread_part.ts")).vhostPart,
);
