/**
 * `x-qsd-status`, a command of our own (QEMU has none like it): what the daemon does now, for `qsd status` and
 * for monitoring. It changes nothing.
 */
import { array, bool, command, empty, type Infer, int, number, opt, str, struct } from "./core.ts";

/** A child of a node: its name in the parent (file, backing...), and the node. */
export const XQsdChild = struct("XQsdChild", { name: str, "node-name": str });

/** A dirty bitmap; `count` in bytes. */
export const XQsdBitmap = struct("XQsdBitmap", {
  name: str,
  count: int,
  recording: bool,
  persistent: bool,
  inconsistent: bool,
});

/** A node. `size` in bytes. */
export const XQsdNode = struct("XQsdNode", {
  "node-name": str,
  driver: str,
  /** What it was opened with, where it has no children. */
  filename: opt(str),
  size: int,
  "read-only": bool,
  direct: bool,
  "no-flush": bool,
  /** Whether blockdev-add or --blockdev made it, so that blockdev-del removes it. */
  "monitor-owned": bool,
  /** The IOThread that it runs in; absent: the main thread. */
  iothread: opt(str),
  children: array(XQsdChild),
  bitmaps: array(XQsdBitmap),
});

/** Counters since the beginning; bytes are payload bytes. `in-flight`: requests not yet answered. */
export const XQsdCounters = struct("XQsdCounters", {
  requests: int,
  errors: int,
  "bytes-read": int,
  "bytes-written": int,
  "in-flight": int,
});

/**
 * A client of an export; without `export` it has not chosen one yet. `unsent`: bytes of replies that it has not taken
 * yet; `stalled`: for how many seconds it has taken none of them.
 */
export const XQsdClient = struct("XQsdClient", {
  peer: str,
  export: opt(str),
  counters: opt(XQsdCounters),
  unsent: int,
  stalled: number,
});

/** An export. `name` is what NBD clients ask for; `address` where an export listens by itself. */
export const XQsdExport = struct("XQsdExport", {
  id: str,
  type: str,
  "node-name": str,
  name: opt(str),
  address: opt(str),
  "in-use": bool,
  "shutting-down": bool,
  /** The IOThread that new clients are served in; absent: the main thread. */
  iothread: opt(str),
  counters: opt(XQsdCounters),
});

/** The NBD server. */
export const XQsdNbdServer = struct("XQsdNbdServer", {
  addresses: array(str),
  clients: array(XQsdClient),
});

/** A request that has not completed. Offset and length in bytes, age in seconds. */
export const XQsdRequest = struct("XQsdRequest", {
  op: str,
  "node-name": str,
  offset: int,
  length: int,
  age: number,
});

/**
 * An IOThread with its properties, as query-iothreads of a machine shows it; `thread-id` is the kernel's number of it,
 * for taskset and the like. `turns`, `parks` and `wakes` are those of its loop since it began: an idle one
 * makes none. An IOThread that has failed is not listed.
 */
export const XQsdIothread = struct("XQsdIothread", {
  id: str,
  "thread-id": int,
  "poll-max-ns": int,
  "poll-grow": int,
  "poll-shrink": int,
  "aio-max-batch": int,
  "thread-pool-min": int,
  "thread-pool-max": int,
  turns: int,
  parks: int,
  wakes: int,
});

/** Everything. `uptime` in seconds; nodes oldest first; requests oldest first. */
export const XQsdStatus = struct("XQsdStatus", {
  version: str,
  pid: int,
  uptime: number,
  nodes: array(XQsdNode),
  exports: array(XQsdExport),
  "nbd-server": opt(XQsdNbdServer),
  requests: array(XQsdRequest),
  iothreads: array(XQsdIothread),
});
/** As XQsdStatus's value. */
export type XQsdStatusValue = Infer<typeof XQsdStatus>;

/** Commands of our own that tell something. */
export const statusCommands = {
  "x-qsd-status": command(empty, XQsdStatus, {
    features: ["unstable"],
    doc:
      "What the daemon does now: nodes, exports with their clients, requests that have not completed.",
  }),
} as const;
