/** Internal snapshots: what formats that have them offer, and which node of a chain is asked. */
import { BlockError, CommandError, type MaybePromise } from "../base/mod.ts";
import type { BlockGraph } from "./graph.ts";
import type { BlockNode } from "./node.ts";
import type { SnapshotInfoValue } from "../qmp/schema/block.ts";

/** A snapshot inside an image. Sizes in bytes. */
export interface InternalSnapshot {
  readonly id: string;
  readonly name: string;
  readonly vmStateSize: number;
  /** When it was taken: seconds since the epoch, and nanoseconds. */
  readonly dateSec: number;
  readonly dateNsec: number;
  /** How long the guest had run, in nanoseconds. */
  readonly vmClockNsec: bigint;
  /** Instructions that the guest had run, where they were counted. */
  readonly icount: bigint | undefined;
}

/** What a new snapshot is made with. */
export type NewSnapshot =
  & Pick<InternalSnapshot, "name" | "dateSec" | "dateNsec" | "vmClockNsec">
  & Partial<Pick<InternalSnapshot, "icount">>;

/** The internal snapshots of an opened image. All but `list` change the image and may throw BlockError. */
export interface InternalSnapshots {
  /** Oldest first; undefined where the driver has no such thing. Throws BlockError ENOTSUP where the image has none. */
  list(): MaybePromise<readonly InternalSnapshot[] | undefined>;
  /** Takes one of the image as it is now. */
  create(what: NewSnapshot): Promise<void>;
  /** Removes the one with this identifier. */
  delete(id: string): Promise<void>;
  /** The disk becomes what it was, its length included. Nobody uses it meanwhile, nor relies on its length. */
  apply(id: string): Promise<void>;
}

/** What is told of a snapshot. */
function snapshotInfo(snapshot: InternalSnapshot): SnapshotInfoValue {
  const { vmClockNsec, icount } = snapshot;
  const info: SnapshotInfoValue = {
    id: snapshot.id,
    name: snapshot.name,
    "vm-state-size": snapshot.vmStateSize,
    "date-sec": snapshot.dateSec,
    "date-nsec": snapshot.dateNsec,
    "vm-clock-sec": Number(vmClockNsec / 1_000_000_000n),
    "vm-clock-nsec": Number(vmClockNsec % 1_000_000_000n),
  };
  if (icount !== undefined) info.icount = Number(icount);
  return info;
}

/** A request of snapshots to a node that lives in another context. */
export type SnapshotRequest =
  | { readonly op: "list" }
  | { readonly op: "create"; readonly what: NewSnapshot }
  | { readonly op: "delete" | "apply"; readonly id: string };

/** Carries it out where the node lives. */
export async function serveSnapshots(
  snapshots: InternalSnapshots | undefined,
  request: SnapshotRequest,
): Promise<readonly InternalSnapshot[] | undefined> {
  if (request.op === "list") return await snapshots?.list();
  if (snapshots === undefined) throw new BlockError("ENOTSUP", "Operation not supported");
  if (request.op === "create") await snapshots.create(request.what);
  else await snapshots[request.op](request.id);
  return undefined;
}

// --- commands ---

/** The node whose image holds the snapshots of `node`: itself, or below nodes that only pass requests on. */
function holder(node: BlockNode): BlockNode {
  let at = node;
  for (;;) {
    const below = at.children.filter(({ role }) => !role.includes("cow"));
    const only = at.children.length === 1 ? below[0] : undefined;
    if (at.instance.snapshots !== undefined || only === undefined) return at;
    at = only.node;
  }
}

/** A node without parents, which may be written to. */
function rootNode(graph: BlockGraph, device: string): BlockNode {
  const node = graph.lookup(device, device);
  if (node.parents.some((parent) => "parent" in parent)) {
    throw new CommandError("Need a root block node");
  }
  return node;
}

async function listOf(node: BlockNode): Promise<readonly InternalSnapshot[] | undefined> {
  try {
    return await holder(node).instance.snapshots?.list();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new CommandError(`Failed to get a snapshot list: ${error.message}`);
  }
}

/** blockdev-snapshot-internal-sync. Times are those of the host. */
export async function createInternalSnapshot(
  graph: BlockGraph,
  { device, name }: { readonly device: string; readonly name: string },
): Promise<void> {
  const node = rootNode(graph, device);
  if (node.readOnly) throw new CommandError(`Device '${device}' is read only`);
  const list = await listOf(node);
  if (list === undefined) {
    throw new CommandError(
      `Block format '${node.driver}' used by device '${device}' does not support internal snapshots`,
    );
  }
  if (name === "") throw new CommandError("Name is empty");
  if (list.some((one) => one.name === name)) {
    throw new CommandError(`Snapshot with name '${name}' already exists on device '${device}'`);
  }
  const now = graph.context.sys.realtimeUs();
  const what: NewSnapshot = {
    name,
    dateSec: Math.floor(now / 1e6),
    dateNsec: (now % 1e6) * 1000,
    vmClockNsec: BigInt(now) * 1000n,
  };
  await graph.drained(node, async () => {
    try {
      await holder(node).instance.snapshots!.create(what);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      throw new CommandError(
        `Failed to create snapshot '${name}' on device '${device}': ${error.message}`,
      );
    }
  });
}

/** blockdev-snapshot-delete-internal-sync; the snapshot that is gone. */
export async function deleteInternalSnapshot(
  graph: BlockGraph,
  { device, id, name }: {
    readonly device: string;
    readonly id?: string | undefined;
    readonly name?: string | undefined;
  },
): Promise<SnapshotInfoValue> {
  const node = rootNode(graph, device);
  if (id === undefined && name === undefined) {
    throw new CommandError("Name or id must be provided");
  }
  const list = await listOf(node);
  if (list === undefined) {
    throw new CommandError("Failed to get a snapshot list: Operation not supported");
  }
  const found = list.find((one) =>
    (id === undefined || one.id === id) && (name === undefined || one.name === name)
  );
  if (found === undefined) {
    throw new CommandError(
      `Snapshot with id '${id ?? "null"}' and name '${name ?? "null"}' does not exist on device ` +
        `'${device}'`,
    );
  }
  if (node.readOnly) throw new CommandError(`Device '${device}' is read only`);
  await graph.drained(node, async () => {
    try {
      await holder(node).instance.snapshots!.delete(found.id);
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      throw new CommandError(
        `Failed to delete snapshot '${found.name}' on device '${device}': ${error.message}`,
      );
    }
  });
  return snapshotInfo(found);
}

/** What ImageInfo shows of a node's snapshots; undefined where there are none. */
export async function snapshotInfos(node: BlockNode): Promise<SnapshotInfoValue[] | undefined> {
  try {
    const list = await holder(node).instance.snapshots?.list();
    return list === undefined || list.length === 0 ? undefined : list.map(snapshotInfo);
  } catch (error) {
    if (error instanceof BlockError) return undefined;
    throw error;
  }
}
