/** Block exports and the NBD server (QAPI block-export). Members and their order are QEMU's. */
import {
  alternate,
  array,
  bool,
  command,
  empty,
  enumeration,
  type Infer,
  opt,
  type Schema,
  size,
  str,
  struct,
  uint16,
  uint32,
  union,
} from "./core.ts";
import { event } from "./registry.ts";
import { SocketAddress, SocketAddressLegacy } from "./sockets.ts";

/** Kinds of exports that work. */
export const BlockExportType = enumeration("BlockExportType", ["nbd", "vhost-user-blk"]);

/** Whether a removal spares clients. */
export const BlockExportRemoveMode = enumeration("BlockExportRemoveMode", ["safe", "hard"]);

/** A bitmap of a certain node. */
export const BlockDirtyBitmap = struct("BlockDirtyBitmap", { node: str, name: str });
/** A bitmap by name, looked for from the exported node on down, or of a certain node. */
export const BlockDirtyBitmapOrStr: Schema<string | Infer<typeof BlockDirtyBitmap>> = alternate(
  "BlockDirtyBitmapOrStr",
  { local: str, external: BlockDirtyBitmap },
);

/** What an NBD export takes beside the common members. */
export const BlockExportOptionsNbd = struct("BlockExportOptionsNbd", {
  name: opt(str),
  description: opt(str),
  bitmaps: opt(array(BlockDirtyBitmapOrStr)),
  "allocation-depth": opt(bool),
});

/** What a vhost-user-blk export takes; `logical-block-size` in bytes. */
export const BlockExportOptionsVhostUserBlk = struct("BlockExportOptionsVhostUserBlk", {
  addr: SocketAddress,
  "logical-block-size": opt(size),
  "num-queues": opt(uint16),
});

/** An IOThread, or several between which an export divides its work (QEMU 10.1). */
export const BlockExportIothreads: Schema<string | readonly string[]> = alternate(
  "BlockExportIothreads",
  { single: str, multi: array(str) },
);

/** An export of any type. */
export const BlockExportOptions = union(
  "BlockExportOptions",
  {
    type: BlockExportType,
    id: str,
    "fixed-iothread": opt(bool),
    iothread: opt(BlockExportIothreads),
    "node-name": str,
    writable: opt(bool),
    writethrough: opt(bool),
    "allow-inactive": opt(bool),
  },
  "type",
  { nbd: BlockExportOptionsNbd, "vhost-user-blk": BlockExportOptionsVhostUserBlk },
);
/** As BlockExportOptions's value. */
export type BlockExportOptionsValue = Infer<typeof BlockExportOptions>;

/** What query-block-exports tells of each. */
export const BlockExportInfo = struct("BlockExportInfo", {
  id: str,
  type: BlockExportType,
  "node-name": str,
  "shutting-down": bool,
});

const nbdServerMembers = {
  "handshake-max-seconds": opt(uint32),
  "tls-creds": opt(str),
  "tls-authz": opt(str),
  "max-connections": opt(uint32),
} as const;

/** `--nbd-server`. */
export const NbdServerOptions = struct("NbdServerOptions", {
  addr: SocketAddress,
  ...nbdServerMembers,
});
/** As NbdServerOptions's value. */
export type NbdServerOptionsValue = Infer<typeof NbdServerOptions>;

/** Commands on exports of all types. */
export const exportCommandTable = {
  "block-export-add": command(BlockExportOptions, empty, {
    doc: "Exports a node.",
    errors: [
      "`Invalid block export id`",
      "`Block export id 'E' is already in use`",
      "`Cannot find device='D' nor node-name='N'`",
      "`Cannot export read-only node as writable`",
      "`Export type does not support inactive exports`",
      '`iothread "I" not found`',
      "`The list of iothreads must not be empty`",
      "`fixed-iothread cannot be used with a list of iothreads`",
      "`Export type 'T' does not support several iothreads`",
      "`NBD server not running`; `NBD server already has export named 'NAME'`",
      "`Property E.logical-block-size doesn't take value N (minimum: 512, maximum: 2097152)`",
      "`Property E.logical-block-size doesn't take value 'N', it's not a power of 2`",
      "`num-queues must be greater than 0`",
      "`Only socket address types 'unix' and 'fd' are supported`",
      "`Permission conflict on node 'N': ...`",
    ],
  }),
  "block-export-del": command(
    struct("q_obj_block-export-del-arg", { id: str, mode: opt(BlockExportRemoveMode) }),
    empty,
    {
      doc: "Begins to remove an export; BLOCK_EXPORT_DELETED follows when it is gone.",
      errors: [
        "`Export 'E' is not found`",
        "`Export 'E' is already shutting down`",
        "`export 'E' still in use`: it has clients, and the mode is `safe`",
      ],
    },
  ),
  "query-block-exports": command(empty, array(BlockExportInfo), {
    doc: "All exports, newest first.",
  }),
} as const;

/** The NBD server's commands, with the older ones for its exports. */
export const nbdCommandTable = {
  "nbd-server-start": command(
    struct("q_obj_nbd-server-start-arg", { addr: SocketAddressLegacy, ...nbdServerMembers }),
    empty,
    {
      doc: "Starts the NBD server.",
      errors: [
        "`NBD server already running`",
        "`Failed to bind socket to P: ...`",
        "`No TLS credentials with id 'X'`",
      ],
    },
  ),
  "nbd-server-add": command(
    struct("NbdServerAddOptions", {
      name: opt(str),
      description: opt(str),
      device: str,
      writable: opt(bool),
      bitmap: opt(str),
    }),
    empty,
    {
      features: ["deprecated"],
      doc: "Exports a node by NBD; read-only if it cannot be written.",
      errors: ["as of `block-export-add`"],
    },
  ),
  "nbd-server-remove": command(
    struct("q_obj_nbd-server-remove-arg", { name: str, mode: opt(BlockExportRemoveMode) }),
    empty,
    {
      features: ["deprecated"],
      doc: "Removes an NBD export.",
      errors: ["`Export 'E' is not found`", "`export 'E' still in use`"],
    },
  ),
  "nbd-server-stop": command(empty, empty, {
    doc: "Removes all NBD exports, dropping their clients, and stops the server.",
    errors: ["`NBD server not running`"],
  }),
} as const;

/** Events of exports. */
export const exportEventTable = {
  BLOCK_EXPORT_DELETED: event(struct("q_obj_BLOCK_EXPORT_DELETED-arg", { id: str })),
} as const;
