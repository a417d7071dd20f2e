/** vhost-user-blk exports: see session.ts for what a front-end can say, queue.ts for how a request travels. */
export { vhostPart } from "./thread_part.ts";
export { VhostUserBlk } from "./control.ts";
export { VhostUserBlkExport } from "./export.ts";
