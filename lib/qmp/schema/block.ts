/** Commands and events of the block graph (QAPI block-core). BlockdevOptions are in blockdev.ts. */
import {
  array,
  bool,
  command,
  empty,
  enumeration,
  exactInt,
  exactUint64,
  type Infer,
  int,
  member,
  number,
  opt,
  type Schema,
  str,
  struct,
  uint64,
  union,
} from "./core.ts";
import { BlockdevDetectZeroesOptions, BlockdevDriver, BlockdevOptions } from "./blockdev.ts";
import { ImageInfoSpecific, type ImageInfoSpecificValue } from "./qcow2.ts";
import { event } from "./registry.ts";

/** How a node treats the host's cache. */
export const BlockdevCacheInfo = struct("BlockdevCacheInfo", {
  writeback: bool,
  direct: bool,
  "no-flush": bool,
});

/** An internal snapshot. */
export const SnapshotInfo = struct("SnapshotInfo", {
  id: str,
  name: str,
  "vm-state-size": int,
  "date-sec": int,
  "date-nsec": int,
  "vm-clock-sec": int,
  "vm-clock-nsec": int,
  icount: opt(int),
});
export type SnapshotInfoValue = Infer<typeof SnapshotInfo>;

/** What one request to a node can be (QEMU 10.2). Bytes; what is absent has no limit or preference. */
export const BlockLimitsInfo = struct("BlockLimitsInfo", {
  "request-alignment": int,
  "max-discard": opt(int),
  "discard-alignment": opt(int),
  "max-write-zeroes": opt(int),
  "write-zeroes-alignment": opt(int),
  "opt-transfer": opt(int),
  "max-transfer": opt(int),
  "max-iov": int,
  "min-mem-alignment": int,
  "opt-mem-alignment": int,
});
export type BlockLimitsInfoValue = Infer<typeof BlockLimitsInfo>;

/** What ImageInfo holds. Sizes in bytes. */
export interface ImageInfoValue {
  filename: string;
  format: string;
  "dirty-flag"?: boolean;
  "actual-size"?: number;
  "virtual-size": number;
  "cluster-size"?: number;
  encrypted?: boolean;
  compressed?: boolean;
  "backing-filename"?: string;
  "full-backing-filename"?: string;
  "backing-filename-format"?: string;
  "backing-image"?: ImageInfoValue;
  snapshots?: Infer<typeof SnapshotInfo>[];
  "format-specific"?: ImageInfoSpecificValue;
  limits?: BlockLimitsInfoValue;
}

/** An image, as qemu-img info tells. */
export const ImageInfo: Schema<ImageInfoValue> = struct("ImageInfo", {
  filename: str,
  format: str,
  "dirty-flag": opt(bool),
  "actual-size": opt(int),
  "virtual-size": int,
  "cluster-size": opt(int),
  encrypted: opt(bool),
  compressed: opt(bool),
  "backing-filename": opt(str),
  "full-backing-filename": opt(str),
  "backing-filename-format": opt(str),
  snapshots: opt(array(SnapshotInfo)),
  "backing-image": opt((): Schema<ImageInfoValue> => ImageInfo),
  "format-specific": opt(ImageInfoSpecific),
  limits: opt(BlockLimitsInfo),
});

/** A dirty bitmap. */
export const BlockDirtyInfo = struct("BlockDirtyInfo", {
  name: opt(str),
  count: int,
  granularity: uint64,
  recording: bool,
  busy: bool,
  persistent: bool,
  inconsistent: opt(bool),
});

/** As BlockDirtyInfo's value. */
export type BlockDirtyInfoValue = Infer<typeof BlockDirtyInfo>;

/** A child of a node (QEMU 10.1). */
export const BlockdevChild = struct("BlockdevChild", { child: str, "node-name": str });

/** A node, as query-named-block-nodes shows it. Limits are zero: throttling is a node of its own. */
export const BlockDeviceInfo = struct("BlockDeviceInfo", {
  file: str,
  "node-name": opt(str),
  children: opt(array(BlockdevChild)),
  ro: bool,
  drv: str,
  backing_file: opt(str),
  backing_file_depth: int,
  active: bool,
  encrypted: bool,
  detect_zeroes: BlockdevDetectZeroesOptions,
  bps: int,
  bps_rd: int,
  bps_wr: int,
  iops: int,
  iops_rd: int,
  iops_wr: int,
  image: ImageInfo,
  bps_max: opt(int),
  bps_rd_max: opt(int),
  bps_wr_max: opt(int),
  iops_max: opt(int),
  iops_rd_max: opt(int),
  iops_wr_max: opt(int),
  bps_max_length: opt(int),
  bps_rd_max_length: opt(int),
  bps_wr_max_length: opt(int),
  iops_max_length: opt(int),
  iops_rd_max_length: opt(int),
  iops_wr_max_length: opt(int),
  iops_size: opt(int),
  group: opt(str),
  cache: BlockdevCacheInfo,
  write_threshold: exactInt,
  "dirty-bitmaps": opt(array(BlockDirtyInfo)),
});

/** Status of a guest device's I/O. */
export const BlockDeviceIoStatus = enumeration("BlockDeviceIoStatus", ["ok", "failed", "nospace"]);

/** A guest device: the daemon has none. */
export const BlockInfo = struct("BlockInfo", {
  device: str,
  qdev: opt(str),
  type: str,
  removable: bool,
  locked: bool,
  inserted: opt(BlockDeviceInfo),
  tray_open: opt(bool),
  "io-status": opt(BlockDeviceIoStatus),
});

/** Statistics over an interval. */
export const BlockDeviceTimedStats = struct("BlockDeviceTimedStats", {
  interval_length: int,
  min_rd_latency_ns: int,
  max_rd_latency_ns: int,
  avg_rd_latency_ns: int,
  min_wr_latency_ns: int,
  max_wr_latency_ns: int,
  avg_wr_latency_ns: int,
  min_flush_latency_ns: int,
  max_flush_latency_ns: int,
  avg_flush_latency_ns: int,
  avg_rd_queue_depth: number,
  avg_wr_queue_depth: number,
});

/** A latency histogram. */
export const BlockLatencyHistogramInfo = struct("BlockLatencyHistogramInfo", {
  boundaries: array(uint64),
  bins: array(uint64),
});

/** Counters of a device or node. */
export const BlockDeviceStats = struct("BlockDeviceStats", {
  rd_bytes: int,
  wr_bytes: int,
  unmap_bytes: int,
  rd_operations: int,
  wr_operations: int,
  flush_operations: int,
  unmap_operations: int,
  rd_total_time_ns: int,
  wr_total_time_ns: int,
  flush_total_time_ns: int,
  unmap_total_time_ns: int,
  wr_highest_offset: int,
  rd_merged: int,
  wr_merged: int,
  unmap_merged: int,
  idle_time_ns: opt(int),
  failed_rd_operations: int,
  failed_wr_operations: int,
  failed_flush_operations: int,
  failed_unmap_operations: int,
  invalid_rd_operations: int,
  invalid_wr_operations: int,
  invalid_flush_operations: int,
  invalid_unmap_operations: int,
  account_invalid: bool,
  account_failed: bool,
  timed_stats: array(BlockDeviceTimedStats),
  rd_latency_histogram: opt(BlockLatencyHistogramInfo),
  wr_latency_histogram: opt(BlockLatencyHistogramInfo),
  flush_latency_histogram: opt(BlockLatencyHistogramInfo),
});

/** Discards of the file family. */
export const BlockStatsSpecificFile = struct("BlockStatsSpecificFile", {
  "discard-nb-ok": uint64,
  "discard-nb-failed": uint64,
  "discard-bytes-ok": uint64,
});

/** Counters of a driver. */
export const BlockStatsSpecific = union(
  "BlockStatsSpecific",
  { driver: BlockdevDriver },
  "driver",
  {
    file: BlockStatsSpecificFile,
    host_device: BlockStatsSpecificFile,
  },
);

/** What BlockStats holds: `parent` is the node's file, as in QEMU. */
export interface BlockStatsValue {
  device?: string;
  qdev?: string;
  "node-name"?: string;
  stats: NonNullable<(typeof BlockDeviceStats)["_value"]>;
  "driver-specific"?: NonNullable<(typeof BlockStatsSpecific)["_value"]>;
  parent?: BlockStatsValue;
  backing?: BlockStatsValue;
}

/** Counters of a node and of what it stands on. */
export const BlockStats: Schema<BlockStatsValue> = struct("BlockStats", {
  device: opt(str),
  qdev: opt(str),
  "node-name": opt(str),
  stats: BlockDeviceStats,
  "driver-specific": opt(BlockStatsSpecific),
  parent: opt((): Schema<BlockStatsValue> => BlockStats),
  backing: opt((): Schema<BlockStatsValue> => BlockStats),
}) as Schema<BlockStatsValue>;

/** Permissions on an edge. */
export const BlockPermission = enumeration("BlockPermission", [
  "consistent-read",
  "write",
  "write-unchanged",
  "resize",
]);
/** What a vertex of the graph is. */
export const XDbgBlockGraphNodeType = enumeration("XDbgBlockGraphNodeType", [
  "block-backend",
  "block-job",
  "block-driver",
]);
/** A vertex. */
export const XDbgBlockGraphNode = struct("XDbgBlockGraphNode", {
  id: uint64,
  type: XDbgBlockGraphNodeType,
  name: str,
});
/** An edge. */
export const XDbgBlockGraphEdge = struct("XDbgBlockGraphEdge", {
  parent: uint64,
  child: uint64,
  name: str,
  perm: array(BlockPermission),
  "shared-perm": array(BlockPermission),
});
/** The whole graph. */
export const XDbgBlockGraph = struct("XDbgBlockGraph", {
  nodes: array(XDbgBlockGraphNode),
  edges: array(XDbgBlockGraphEdge),
});

/** Commands on nodes. */
export const blockCommandTable = {
  "blockdev-add": command(BlockdevOptions, empty, {
    doc: "Opens a node, with the children that are defined inline.",
    errors: [
      "`Duplicate nodes with node-name='N'`",
      "`Invalid node-name: 'N'`, `Node name too long`",
      "`'node-name' must be specified for the root node`",
      "`Cannot find device='D' nor node-name='N'`: a child that is not there",
      "`Permission conflict on node 'N': permissions 'LIST' are both required by ... and unshared by ...`",
      "what the driver cannot do or open, as `Could not open 'FILE': No such file or directory`, `Failed to get \"write\" lock`",
    ],
  }),
  "blockdev-del": command(struct("q_obj_blockdev-del-arg", { "node-name": str }), empty, {
    doc: "Closes a node that nothing uses, with its inline children.",
    errors: [
      "`Failed to find node with node-name='N'`",
      "`Node N is in use`: by an export",
      "`Node 'N' is busy: node is used as backing hd of 'M'`",
      "`Node N is not owned by the monitor`",
      "`Block device N is in use`: by another node",
    ],
  }),
  "blockdev-reopen": command(
    struct("q_obj_blockdev-reopen-arg", { options: array(BlockdevOptions) }),
    empty,
    {
      doc:
        "Gives nodes new options, all of them or none; options that are left out go back to their defaults.",
      errors: [
        "`node-name not specified`",
        "`Failed to find node with node-name='N'`",
        "`Cannot change the option 'X'`",
        "what the drivers and permissions refuse",
      ],
    },
  ),
  "blockdev-set-active": command(
    struct("q_obj_blockdev-set-active-arg", { "node-name": opt(str), active: bool }),
    empty,
    {
      doc:
        "Hands images over between processes (QEMU 10.0). An inactive node takes no writes and holds no locks. Activating a node activates its children first; inactivating it takes along those of its children that nothing active uses. Of all nodes without `node-name`.",
      errors: [
        "`Cannot find device='' nor node-name='N'`",
        "`Node 'N' is in use by P, which needs it active`: by a parent node, or an export without `allow-inactive`",
        'what is refused when the locks are taken, as `Failed to get "write" lock`',
      ],
    },
  ),
  block_resize: command(
    struct("q_obj_block_resize-arg", { device: opt(str), "node-name": opt(str), size: int }),
    empty,
    {
      doc: "Changes the length of a node. Bytes.",
      errors: [
        "`Cannot find device='D' nor node-name='N'`",
        "`Parameter 'size' expects a >0 size`: it is negative",
        "`Permission conflict on node 'N': ...`: an NBD export keeps its node's length",
        "what the driver refuses, as `Cannot grow device files`",
      ],
    },
  ),
  "blockdev-snapshot-internal-sync": command(
    struct("BlockdevSnapshotInternal", { device: str, name: str }),
    empty,
    {
      doc:
        "Takes a snapshot inside the image of a node that is no child of another. Its time is the host's.",
      errors: [
        "`Cannot find device='D' nor node-name='D'`",
        "`Need a root block node`",
        "`Device 'D' is read only`",
        "`Block format 'F' used by device 'D' does not support internal snapshots`",
        "`Failed to get a snapshot list: Operation not supported`: with an external data file",
        "`Name is empty`",
        "`Snapshot with name 'N' already exists on device 'D'`",
        "`Failed to create snapshot 'N' on device 'D': REASON`: as too narrow reference counts",
      ],
    },
  ),
  "blockdev-snapshot-delete-internal-sync": command(
    struct("q_obj_blockdev-snapshot-delete-internal-sync-arg", {
      device: str,
      id: opt(str),
      name: opt(str),
    }),
    SnapshotInfo,
    {
      doc:
        "Removes a snapshot inside an image, by its identifier, its name, or both. Returns what it was.",
      errors: [
        "`Cannot find device='D' nor node-name='D'`",
        "`Need a root block node`",
        "`Name or id must be provided`",
        "`Failed to get a snapshot list: Operation not supported`",
        "`Snapshot with id 'I' and name 'N' does not exist on device 'D'`",
        "`Device 'D' is read only`",
      ],
    },
  ),
  "change-backing-file": command(
    struct("q_obj_change-backing-file-arg", {
      device: str,
      "image-node-name": str,
      "backing-file": str,
    }),
    empty,
    {
      doc:
        "Changes the name of the backing file in an image; what is open stays open. The name is not checked.",
      errors: [
        "`Cannot find device='D' nor node-name='D'`",
        "`image file not found`",
        "`not allowing backing file change on an image without a backing file`",
        "`'N' and image file are not in the same chain`",
      ],
    },
  ),
  "query-named-block-nodes": command(
    struct("q_obj_query-named-block-nodes-arg", { flat: opt(bool) }),
    array(BlockDeviceInfo),
    {
      doc: "All nodes, newest first. `flat` leaves out the backing images' own information.",
    },
  ),
  "query-block": command(
    struct("q_obj_query-block-arg", { flat: opt(bool) }),
    array(BlockInfo),
    {
      doc: "The guest devices: a storage daemon has none, so the list is empty.",
    },
  ),
  "query-blockstats": command(
    struct("q_obj_query-blockstats-arg", { "query-nodes": opt(bool) }),
    array(BlockStats),
    {
      doc:
        "Counters: of all nodes with `query-nodes`, else of guest devices, of which there are none.",
    },
  ),
  "block-set-write-threshold": command(
    struct("q_obj_block-set-write-threshold-arg", {
      "node-name": str,
      "write-threshold": member(exactUint64),
    }),
    empty,
    {
      doc:
        "Sends BLOCK_WRITE_THRESHOLD, once, when a write ends beyond that offset. 0 takes it back.",
      errors: ["`Device 'N' not found`"],
    },
  ),
  "x-debug-query-block-graph": command(empty, XDbgBlockGraph, {
    features: ["unstable"],
    doc: "Nodes, users and edges with their permissions.",
  }),
} as const;

/** Events of nodes. */
export const blockEventTable = {
  BLOCK_IMAGE_CORRUPTED: event(
    struct("q_obj_BLOCK_IMAGE_CORRUPTED-arg", {
      device: str,
      "node-name": opt(str),
      msg: str,
      offset: opt(int),
      size: opt(int),
      fatal: bool,
    }),
  ),
  BLOCK_WRITE_THRESHOLD: event(
    struct("q_obj_BLOCK_WRITE_THRESHOLD-arg", {
      "node-name": str,
      "amount-exceeded": uint64,
      "write-threshold": uint64,
    }),
  ),
} as const;
