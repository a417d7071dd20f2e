/** QMP commands on nodes. */
import { BlockError, CommandError, MAX_OFFSET } from "../base/mod.ts";
import type {
  blockCommandTable,
  BlockDeviceInfo,
  BlockDeviceStats,
  BlockLimitsInfoValue,
  BlockPermission,
  BlockStatsValue,
  ImageInfoValue,
  XDbgBlockGraph,
} from "../qmp/schema/block.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Handlers, Infer } from "../qmp/schema/core.ts";
import { bitmapInfo } from "./bitmaps/mod.ts";
import { FactsRound } from "./facts.ts";
import type { BlockGraph } from "./graph.ts";
import type { BlockNode } from "./node.ts";
import type { Places } from "./places.ts";
import { createInternalSnapshot, deleteInternalSnapshot, snapshotInfos } from "./snapshots.ts";
import { type ImageFacts, type Limits, Perm } from "./types.ts";

/** Runs `act`; what the outside world refused (a BlockError) becomes the command's error. */
async function refusing(act: () => Promise<unknown>): Promise<Record<never, never>> {
  try {
    await act();
    return {};
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new CommandError(error.message, "GenericError", [], { cause: error });
  }
}

/** The handlers of blockCommandTable for one graph. */
export function blockCommands(graph: BlockGraph): Handlers<typeof blockCommandTable> {
  return {
    "blockdev-add": (options) =>
      refusing(() => graph.add(options as BlockdevOptionsValue, { monitorOwned: true })),
    "blockdev-del": (args) => refusing(() => graph.del(args["node-name"])),
    "blockdev-reopen": ({ options }) =>
      refusing(() => graph.reopen(options as BlockdevOptionsValue[])),
    block_resize({ device, "node-name": name, size }) {
      const node = graph.lookup(device, name);
      if (size < 0) throw new CommandError("Parameter 'size' expects a >0 size");
      return refusing(() => graph.resize(node, size));
    },
    "blockdev-set-active"({ "node-name": name, active }) {
      const node = name === undefined ? undefined : graph.lookup(undefined, name);
      return refusing(() => graph.setActive(node, active));
    },
    "query-named-block-nodes": ({ flat }) =>
      graph.steady(async () => {
        await graph.places.refresh();
        const query = new NodesQuery(flat === true);
        return await Promise.all(graph.nodes().map((node) => query.deviceInfo(node)));
      }),
    "blockdev-snapshot-internal-sync": (args) =>
      refusing(() => createInternalSnapshot(graph, args)),
    "blockdev-snapshot-delete-internal-sync": (args) => deleteInternalSnapshot(graph, args),
    "change-backing-file": (args) => refusing(() => changeBackingFile(graph, args)),
    // Only guest devices are listed, and the daemon has none.
    "query-block": () => [],
    "query-blockstats": async ({ "query-nodes": nodes }) => {
      if (nodes !== true) return [];
      return await graph.steady(async () => {
        await graph.places.refresh();
        return [...graph.nodes()].reverse().map((node) => nodeStats(graph, node));
      });
    },
    "block-set-write-threshold"({ "node-name": name, "write-threshold": threshold }) {
      const node = graph.find(name);
      if (node === undefined) throw new CommandError(`Device '${name}' not found`);
      return refusing(() => graph.setWriteThreshold(node, threshold));
    },
    "x-debug-query-block-graph": () => debugGraph(graph),
  };
}

/** Every node on the way down `node`'s backing chain, itself included; filters are passed through. */
function chainOf(node: BlockNode): BlockNode[] {
  const found: BlockNode[] = [];
  for (let at: BlockNode | undefined = node; at !== undefined;) {
    found.push(at);
    at = (at.children.find((edge) => edge.role.includes("cow")) ??
      at.children.find((edge) => edge.role.includes("filtered")))?.node;
  }
  return found;
}

async function changeBackingFile(
  graph: BlockGraph,
  args: { device: string; "image-node-name": string; "backing-file": string },
): Promise<void> {
  const device = graph.lookup(args.device, args.device);
  const image = graph.lookup(undefined, args["image-node-name"]);
  const backing = backingOf(image);
  if (backing === undefined) {
    throw new CommandError(
      "not allowing backing file change on an image without a backing file",
    );
  }
  if (!chainOf(device).includes(image)) {
    throw new CommandError(`'${device.name}' and image file are not in the same chain`);
  }
  await graph.drained(image, async () => {
    const filename = args["backing-file"];
    const { instance } = image;
    if (instance.changeBackingFile === undefined) {
      throw new CommandError(
        `Could not change backing file to '${filename}': Operation not supported`,
      );
    }
    await instance.changeBackingFile(filename, undefined);
  });
}

/** The file that a node is known by; options as JSON where it has none. */
function fileName(node: BlockNode, facts: Partial<ImageFacts>): string {
  return facts.filename ?? `json:${qemuJson(node.options)}`;
}

/** JSON with blanks as QEMU writes it. */
function qemuJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(qemuJson).join(", ")}]`;
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const members = Object.entries(value).filter(([key]) => key !== "node-name");
  return `{${members.map(([key, one]) => `${JSON.stringify(key)}: ${qemuJson(one)}`).join(", ")}}`;
}

function backingOf(node: BlockNode): BlockNode | undefined {
  return node.children.find((edge) => edge.role.includes("cow"))?.node;
}

/** Buffers are whole pages. */
const PAGE = 4096;

/** Limits that bind, for people and programs that configure guests. */
function limitsInfo(limits: Readonly<Limits>): BlockLimitsInfoValue {
  const { requestAlignment, memoryAlignment } = limits;
  const info: BlockLimitsInfoValue = {
    "request-alignment": requestAlignment,
    "max-transfer": limits.maxTransfer,
    "max-iov": limits.maxSegments,
    "min-mem-alignment": memoryAlignment,
    "opt-mem-alignment": Math.max(memoryAlignment, PAGE),
  };
  if (limits.optimalTransfer > 0) info["opt-transfer"] = limits.optimalTransfer;
  if (limits.maxDiscard < MAX_OFFSET) info["max-discard"] = limits.maxDiscard;
  if (limits.maxWriteZeroes < MAX_OFFSET) info["max-write-zeroes"] = limits.maxWriteZeroes;
  if (limits.discardAlignment > requestAlignment) {
    info["discard-alignment"] = limits.discardAlignment;
  }
  if (limits.writeZeroesAlignment > requestAlignment) {
    info["write-zeroes-alignment"] = limits.writeZeroesAlignment;
  }
  return info;
}

/** One query-named-block-nodes: what each node tells is asked once, though it is shown for all nodes above it. */
class NodesQuery {
  readonly #round = new FactsRound();
  readonly #images = new Map<BlockNode, Promise<ImageInfoValue>>();

  /** `flat`: without the images below. */
  constructor(private readonly flat: boolean) {}

  #imageInfo(node: BlockNode): Promise<ImageInfoValue> {
    let info = this.#images.get(node);
    if (info === undefined) {
      info = this.#makeImageInfo(node);
      this.#images.set(node, info);
    }
    return info;
  }

  async #makeImageInfo(node: BlockNode): Promise<ImageInfoValue> {
    const facts = await this.#round.of(node);
    const info: ImageInfoValue = {
      filename: fileName(node, facts),
      format: facts.format ?? node.driver,
      "virtual-size": node.size,
    };
    if (facts.dirtyFlag !== undefined) info["dirty-flag"] = facts.dirtyFlag;
    if (facts.actualSize !== undefined) info["actual-size"] = facts.actualSize;
    if (facts.clusterSize !== undefined) info["cluster-size"] = facts.clusterSize;
    if (facts.encrypted === true) info.encrypted = true;
    if (facts.backingFilename !== undefined) info["backing-filename"] = facts.backingFilename;
    if (facts.fullBackingFilename !== undefined) {
      info["full-backing-filename"] = facts.fullBackingFilename;
    }
    if (facts.backingFormat !== undefined) info["backing-filename-format"] = facts.backingFormat;
    const snapshots = await snapshotInfos(node);
    if (snapshots !== undefined) info.snapshots = snapshots;
    if (facts.formatSpecific !== undefined) {
      info["format-specific"] = facts.formatSpecific as NonNullable<
        ImageInfoValue["format-specific"]
      >;
    }
    info.limits = limitsInfo(node.limits);
    const below = imageBelow(node);
    if (below !== undefined && !this.flat) {
      info["backing-image"] = await this.#imageInfo(below);
    }
    return Object.freeze(info); // so that its text is made once, too
  }

  async deviceInfo(node: BlockNode): Promise<Infer<typeof BlockDeviceInfo>> {
    const facts = await this.#round.of(node);
    const backing = backingOf(node);
    const info: Infer<typeof BlockDeviceInfo> = {
      file: fileName(node, facts),
      "node-name": node.name,
      children: node.children.map((edge) => ({ child: edge.name, "node-name": edge.node.name })),
      ro: node.readOnly,
      drv: node.driver,
      // As in QEMU: whoever asks for the nodes alone is told nothing of the chain.
      backing_file_depth: this.flat ? 0 : backingDepth(node),
      active: node.active,
      encrypted: facts.encrypted === true,
      detect_zeroes: node.common.detectZeroes,
      bps: 0,
      bps_rd: 0,
      bps_wr: 0,
      iops: 0,
      iops_rd: 0,
      iops_wr: 0,
      image: await this.#imageInfo(node),
      cache: {
        writeback: true,
        direct: node.common.direct,
        "no-flush": node.common.noFlush,
      },
      // The schema has it signed, unlike the command.
      write_threshold: typeof node.threshold === "bigint"
        ? BigInt.asIntN(64, node.threshold)
        : node.threshold,
    };
    if (node.bitmaps !== undefined) info["dirty-bitmaps"] = bitmapInfo(node.bitmaps);
    if (backing !== undefined) info.backing_file = fileName(backing, await this.#round.of(backing));
    return info;
  }
}

/** What is shown as the image below: of a filter what it filters. (raw passes through, but is a format.) */
function imageBelow(node: BlockNode): BlockNode | undefined {
  if (node.definition.kind !== "filter") return backingOf(node);
  return node.children.find((edge) => edge.role.includes("filtered"))?.node;
}

/** How many images are below `node`. */
function backingDepth(node: BlockNode): number {
  let depth = 0;
  for (let at = imageBelow(node); at !== undefined; at = imageBelow(at)) depth++;
  return depth;
}

/**
 * What users of a node, exports above all, have asked of it, wherever they run. (In QEMU that stays with the users,
 * which nothing shows.) Requests of the node's parents are those of their own users.
 */
function counters(places: Places, node: BlockNode): Infer<typeof BlockDeviceStats> {
  const { read, write, flush, discard } = places.statistics(node);
  return {
    rd_bytes: read.bytes,
    wr_bytes: write.bytes,
    unmap_bytes: discard.bytes,
    rd_operations: read.operations,
    wr_operations: write.operations,
    flush_operations: flush.operations,
    unmap_operations: discard.operations,
    rd_total_time_ns: 0,
    wr_total_time_ns: 0,
    flush_total_time_ns: 0,
    unmap_total_time_ns: 0,
    wr_highest_offset: node.writeHighest,
    rd_merged: 0,
    wr_merged: 0,
    unmap_merged: 0,
    failed_rd_operations: read.failed,
    failed_wr_operations: write.failed,
    failed_flush_operations: flush.failed,
    failed_unmap_operations: discard.failed,
    invalid_rd_operations: 0,
    invalid_wr_operations: 0,
    invalid_flush_operations: 0,
    invalid_unmap_operations: 0,
    account_invalid: false,
    account_failed: false,
    timed_stats: [],
  };
}

function nodeStats(graph: BlockGraph, node: BlockNode): BlockStatsValue {
  const stats: BlockStatsValue = { "node-name": node.name, stats: counters(graph.places, node) };
  const own = node.instance.statistics?.();
  if (own !== undefined) {
    stats["driver-specific"] = { driver: node.driver, ...own } as NonNullable<
      BlockStatsValue["driver-specific"]
    >;
  }
  const primary = node.edge("file") ?? node.children.find((edge) => edge.role.includes("primary"));
  if (primary !== undefined) stats.parent = nodeStats(graph, primary.node);
  const backing = backingOf(node);
  if (backing !== undefined) stats.backing = nodeStats(graph, backing);
  return stats;
}

const PERMISSIONS: readonly (readonly [number, Infer<typeof BlockPermission>])[] = [
  [Perm.resize, "resize"],
  [Perm.writeUnchanged, "write-unchanged"],
  [Perm.write, "write"],
  [Perm.consistentRead, "consistent-read"],
];

function permissionList(bits: number): Infer<typeof BlockPermission>[] {
  return PERMISSIONS.filter(([bit]) => (bits & bit) !== 0).map(([, name]) => name);
}

function debugGraph(graph: BlockGraph): Infer<typeof XDbgBlockGraph> {
  const ids = new Map<object, number>();
  const id = (what: object) => {
    if (!ids.has(what)) ids.set(what, ids.size + 1);
    return ids.get(what)!;
  };
  const result: Infer<typeof XDbgBlockGraph> = { nodes: [], edges: [] };
  const edge = (
    parent: object,
    { node, name, needed, shared }: {
      node: object;
      name: string;
      needed: number;
      shared: number;
    },
  ) =>
    void result.edges.push({
      parent: id(parent),
      child: id(node),
      name,
      perm: permissionList(needed),
      "shared-perm": permissionList(shared),
    });
  // Users, then nodes, oldest first; the lists are shown the other way round, as QEMU does.
  for (const backend of graph.backends) {
    result.nodes.push({ id: id(backend), type: "block-backend", name: "" });
    edge(backend, backend);
  }
  for (const node of [...graph.nodes()].reverse()) {
    result.nodes.push({ id: id(node), type: "block-driver", name: node.name });
    for (const child of node.children) edge(node, child);
  }
  result.nodes.reverse();
  result.edges.reverse();
  return result;
}
