/**
 * The block graph of one context: names, ownership, references, and changes as transactions.
 *
 * Every change runs in one queue, so that a change may await and still rely on the graph standing still:
 * it prepares all that can fail, then commits, or puts back what it did. Lookups see only nodes that are
 * completely open. Requests do not wait for the queue; changes that requests could notice drain first.
 */
import { assert, CommandError, type MaybePromise } from "../base/mod.ts";
import type { EventSink } from "../qmp/schema/core.ts";
import type { BlockdevOptionsValue, BlockdevRefValue } from "../qmp/schema/blockdev.ts";
import type { Context } from "../sys/mod.ts";
import { activate, inactivate } from "./activation.ts";
import type { BitmapChange, DirtyBitmap } from "./bitmaps/mod.ts";
import { Backend } from "./backend.ts";
import type { BackendOptions, BlockBackend } from "./backend_types.ts";
import { closeNodes, disposeNode } from "./closing.ts";
import { withAncestors } from "./drain.ts";
import type {
  DrainedSection,
  DriverRegistry,
  GraphParts,
  NodeView,
  RequestInFlight,
} from "./graph_types.ts";
import { NameGenerator } from "./names.ts";
import { BlockNode, Edge } from "./node.ts";
import { Opening } from "./open.ts";
import { commonOptions, withoutEmptyBacking } from "./options.ts";
import { type PermissionPlan, preparePermissions } from "./permission_update.ts";
import { Places } from "./places.ts";
import { TaskQueue } from "./queue.ts";
import { reopenNodes } from "./reopen.ts";
import { Seam } from "./seam.ts";
import type { GraphThread } from "./thread_types.ts";
import { type BlockNodeInfo, Perm } from "./types.ts";
import { GraphUsers } from "./users.ts";

/** The graph. Other contexts have their own. */
export class BlockGraph {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly seam: Seam;
  readonly names: NameGenerator;
  /** All nodes, those being opened included; for the graph's own parts. */
  readonly all: Set<BlockNode> = new Set();
  /** Which IOThreads nodes run in. */
  readonly places: Places;
  readonly #events: EventSink;
  readonly #nodes = new Map<string, BlockNode>();
  readonly #queue = new TaskQueue();
  readonly #users: GraphUsers;

  constructor(parts: GraphParts) {
    this.context = parts.context;
    this.drivers = parts.drivers;
    this.#events = parts.events;
    this.names = new NameGenerator(parts.context.sys);
    this.seam = new Seam(parts.context, {
      thresholdExceeded: (node, exceeded) =>
        this.thresholdExceeded(node, exceeded, node.writeThreshold),
      resized: (node) => this.changed(node),
    });
    this.places = new Places(this);
    this.#users = new GraphUsers(this);
  }

  // --- looking up ---

  /** The node of that name, if any. */
  find(name: string): BlockNode | undefined {
    return this.#nodes.get(name);
  }

  /** The node of that name; throws `Cannot find device='D' nor node-name='N'`. No device has a name here. */
  lookup(device: string | undefined, nodeName: string | undefined): BlockNode {
    const found = nodeName === undefined ? undefined : this.#nodes.get(nodeName);
    if (found !== undefined) return found;
    throw new CommandError(
      `Cannot find device='${device ?? ""}' nor node-name='${nodeName ?? ""}'`,
    );
  }

  /** All nodes, newest first. */
  nodes(): readonly BlockNode[] {
    return [...this.#nodes.values()].reverse();
  }

  /** The graph's own record of a node that was handed out. */
  #own(node: BlockNodeInfo | string): BlockNode {
    const name = typeof node === "string" ? node : node.name;
    return this.lookup(name, name);
  }

  /** The users that are attached here, oldest first. */
  get backends(): ReadonlySet<Backend> {
    return this.#users.backends;
  }

  /** Requests that have not completed, oldest first. */
  requests(): readonly RequestInFlight[] {
    return this.#users.requests;
  }

  // --- changes; all but `drain` in the queue ---

  /** Opens a node (with its inline children) by validated options. CommandError refuses. */
  add(options: BlockdevOptionsValue, how: { monitorOwned: boolean }): Promise<NodeView> {
    return this.#queue.run(async () => {
      const opening = new Opening(this);
      const meant = withoutEmptyBacking(
        options,
        () =>
          this.context.log.warn(`Use of "backing": "" is deprecated; use "backing": null instead`),
      );
      const node = await opening.open(meant, undefined);
      node.monitorOwned = how.monitorOwned;
      this.adopt(opening);
      return node;
    });
  }

  /** Makes the nodes of a finished transaction visible. */
  adopt(opening: Opening): void {
    const left = new Set(opening.created);
    // As in QEMU a node is older than its children, but for the file that it is in.
    const show = (node: BlockNode) => {
      if (!left.delete(node)) return;
      const file = node.edge("file");
      if (file !== undefined) show(file.node);
      this.#nodes.set(node.name, node);
      for (const edge of node.children) show(edge.node);
    };
    for (const node of opening.created.toReversed()) show(node);
  }

  /** blockdev-del. */
  del(name: string): Promise<void> {
    return this.#queue.run(async () => {
      const node = this.#nodes.get(name);
      if (node === undefined) {
        throw new CommandError(`Failed to find node with node-name='${name}'`);
      }
      if (node.parents.some((parent) => parent instanceof Backend)) {
        throw new CommandError(`Node ${name} is in use`);
      }
      const overlay = overlayOf(node);
      if (overlay !== undefined) {
        const why = `node is used as backing hd of '${overlay.name}'`;
        throw new CommandError(`Node '${name}' is busy: ${why}`);
      }
      if (!node.monitorOwned) throw new CommandError(`Node ${name} is not owned by the monitor`);
      if (node.parents.length > 0) throw new CommandError(`Block device ${name} is in use`);
      node.monitorOwned = false;
      await this.dispose(node);
    });
  }

  /** Closes `node` if nobody holds it any more, and then what it held. Failures to close are logged. */
  dispose(node: BlockNode): Promise<void> {
    return disposeNode(this, node);
  }

  /** A node has closed: nobody finds it any more. */
  remove(node: BlockNode): void {
    this.all.delete(node);
    this.#nodes.delete(node.name);
    this.places.forget(node);
  }

  /** Runs a change of what hangs on nodes when no change of the graph runs. */
  alone<T>(task: () => Promise<T>): Promise<T> {
    return this.#queue.run(task);
  }

  /** Runs `act` with the driver of `node` open in the main context. In `alone` only. */
  atHome<T>(node: { readonly name: string }, act: () => Promise<T>): Promise<T> {
    return this.places.atHome([this.#own(node.name)], act);
  }

  /** Changes a bitmap of `node` where the node runs. In `alone` only. */
  changeBitmap(
    node: { readonly name: string },
    bitmap: DirtyBitmap,
    change: BitmapChange,
  ): MaybePromise<void> {
    return this.places.changeBitmap(this.#own(node.name), bitmap, change);
  }

  /** Asks threads for what only they know. In `alone` or `steady` only. */
  refresh(): Promise<void> {
    return this.places.refresh();
  }

  /** blockdev-reopen. */
  reopen(list: readonly BlockdevOptionsValue[]): Promise<void> {
    return this.#queue.run(() => {
      const nodes = list.flatMap((one) => this.#nodes.get(one["node-name"] ?? "") ?? []);
      return this.places.atHome(nodes, () => reopenNodes(this, list));
    });
  }

  /** blockdev-set-active: of all nodes, if none is given. */
  setActive(node: BlockNodeInfo | undefined, active: boolean): Promise<void> {
    return this.#queue.run(() => {
      const nodes = node === undefined ? this.nodes() : [this.#own(node)];
      return this.places.atHome(
        nodes,
        () => active ? activate(this, nodes) : inactivate(this, nodes),
      );
    });
  }

  /** Answers a question about nodes while none of them is between two threads. */
  steady<T>(question: () => Promise<T>): Promise<T> {
    return this.places.mayMove ? this.#queue.run(question) : question();
  }

  /** Whether a user is attached to the very node. */
  hasUser(node: BlockNodeInfo): boolean {
    return this.#own(node).parents.some((parent) => parent instanceof Backend);
  }

  /** block-set-write-threshold: wherever the node runs. */
  setWriteThreshold(node: BlockNodeInfo, threshold: number | bigint): Promise<void> {
    return this.#queue.run(() => this.places.setThreshold(this.#own(node), threshold));
  }

  /** Moves everything connected with `node` to an IOThread, or (undefined) to the main context. */
  move(node: BlockNodeInfo | string, to: GraphThread | undefined): Promise<void> {
    return this.#queue.run(() => this.places.moveComponent(this.#own(node), to));
  }

  /**
   * As `move`, where no user is left that keeps it where it is, and nobody asked for that (`place`). A node that
   * has been deleted meanwhile needs no place.
   */
  moveUnused(node: BlockNodeInfo, to: GraphThread | undefined): Promise<void> {
    return this.#queue.run(async () => {
      const own = this.#nodes.get(node.name);
      if (own === undefined || this.places.isUsed(own)) return;
      await this.places.moveComponent(own, to);
    });
  }

  /** x-blockdev-set-iothread: as `move`; the node then stays there until it is moved again. */
  place(node: BlockNodeInfo | string, to: GraphThread | undefined): Promise<void> {
    return this.#queue.run(() => this.places.put(this.#own(node), to));
  }

  /** A user of `node` in an IOThread; the permissions are those of a backend here. */
  use(node: BlockNodeInfo | string, thread: GraphThread): Promise<{ release(): void }> {
    return this.#queue.run(() => this.places.use(this.#own(node), thread));
  }

  /** Attaches a user. Throws CommandError with QEMU's conflict text. */
  backend(node: BlockNodeInfo | string, options: BackendOptions): Promise<BlockBackend> {
    return this.#queue.run(() => this.#users.attach(this.#own(node), options));
  }

  /** Resolves and applies permissions where `plan` says that something changes, or has. In the queue only. */
  async updatePermissions(plan: PermissionPlan): Promise<void> {
    const prepared = await preparePermissions(plan);
    await this.places.publish(prepared.commit());
  }

  /**
   * As `backend`, for the node that a command's option describes: by reference, or inline, in which case it is
   * closed when the user detaches. `role`: what it is to its user.
   */
  open(value: BlockdevRefValue, options: BackendOptions): Promise<BlockBackend> {
    return this.#queue.run(async () => {
      if (typeof value === "string") {
        return await this.#users.attach(this.lookup(value, value), options);
      }
      const opening = new Opening(this);
      const node = await opening.open(value, {
        parent: commonOptions({ driver: value.driver }, undefined),
        role: [],
      });
      this.adopt(opening);
      try {
        return await this.#users.attach(node, options);
      } catch (error) {
        await this.dispose(node);
        throw error;
      }
    });
  }

  /** Runs `task` in the queue, while `node` stays and requests of those above it wait. */
  drained<T>(node: BlockNodeInfo | string, task: () => Promise<T>): Promise<T> {
    return this.#queue.run(() => {
      const own = this.#own(node);
      return this.places.atHome([own], () => this.#users.drained(own, Perm.none, task));
    });
  }

  /** block_resize: `size` in bytes. */
  resize(node: BlockNodeInfo | string, size: number): Promise<void> {
    return this.#queue.run(() => {
      const own = this.#own(node);
      return this.#users.drained(
        own,
        Perm.resize,
        async () => await this.seam.truncate(own, size, { exact: false, preallocation: "off" }),
      );
    });
  }

  /** Holds back requests of the backends above `node` (all, if not given) and waits for those in flight. */
  async drain(node?: BlockNodeInfo | string): Promise<DrainedSection> {
    return await this.#users.drain(node === undefined ? undefined : withAncestors(this.#own(node)));
  }

  /** As `drain`, of several nodes and what is above them. */
  drainNodes(nodes: ReadonlySet<BlockNode>): Promise<DrainedSection> {
    return this.#users.drain(new Set([...nodes].flatMap((node) => [...withAncestors(node)])));
  }

  /** Flushes and closes every node. All backends must be detached. */
  closeAll(): Promise<void> {
    return this.#queue.run(async () => {
      assert(this.backends.size === 0, "closing a graph in use");
      await closeNodes(this, this.nodes());
      this.seam.close();
    });
  }

  // --- what drivers and the seam report ---

  /** Length or limits of `node` may have changed: everyone above learns of it. */
  changed(node: BlockNode): void {
    this.#users.changed(node);
  }

  /** Sends a QMP event on behalf of a driver. */
  emit(event: string, data: Record<string, unknown>): void {
    this.#events.emit(event, data);
  }

  /** A write went `exceeded` bytes beyond the threshold of `node`: told once. */
  thresholdExceeded(node: BlockNode, exceeded: number, threshold: number | bigint): void {
    node.writeThreshold = 0;
    node.shownThreshold = 0;
    this.#events.emit("BLOCK_WRITE_THRESHOLD", {
      "node-name": node.name,
      "amount-exceeded": exceeded,
      "write-threshold": threshold,
    });
  }
}

/** The node that has `node` as its backing image: the newest, where there are several. */
function overlayOf(node: BlockNode): BlockNode | undefined {
  for (const parent of node.parents.toReversed()) {
    if (parent instanceof Edge && parent.role.includes("cow")) return parent.parent;
  }
  return undefined;
}
