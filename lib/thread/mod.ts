/**
 * IOThreads: contexts in Workers. The main context owns the graph and everything that has a name; a thread has the
 * drivers of the nodes that run in it, and the parts of exports that do. See iothread.ts (the main context's side) and
 * program.ts (the thread's).
 */
export { threadHandlers } from "./commands.ts";
export { ThreadHub } from "./hub.ts";
export { IoThread, type PartListener, type RemotePart } from "./iothread.ts";
export { iothreadKind, mainLoopKind, threadClasses } from "./object.ts";
export { laterPart, type PartHost, type ThreadPart, type ThreadPartKind } from "./parts.ts";
export { runThread } from "./program.ts";
