/**
 * Where nodes run. Names, ownership, permissions and structure of all nodes live in the main context's graph; the
 * driver of a node is open in exactly one context, its place. Here is what moves nodes from one to another, and what
 * keeps each thread's knowledge of nodes (replica.ts) as it has to be.
 *
 * A move is a change of the graph: it runs in the graph's queue, with the nodes drained in all contexts. Drivers are
 * closed parents first and opened children first; descriptors and their locks are handed over. If a driver cannot be
 * opened in the new place all go back to the old one.
 */
import { assert, CommandError } from "../base/mod.ts";
import { closeForNow, openAgain } from "./again.ts";
import { Backend } from "./backend.ts";
import type { BackendStatistics } from "./backend_types.ts";
import { type BitmapChange, bitmapStates, changeBitmap, type DirtyBitmap } from "./bitmaps/mod.ts";
import { LostInstance } from "./forward.ts";
import type { DrainedSection, RequestInFlight } from "./graph_types.ts";
import { MovedInstance } from "./moved.ts";
import { type BlockNode, childrenFirst } from "./node.ts";
import type { OpenGraph } from "./open.ts";
import { factsOf, flatOptions } from "./replica.ts";
import { ServedNodes } from "./serve_node.ts";
import { addStatistics, noStatistics, usersStatistics } from "./statistics.ts";
import { ThreadNodes } from "./thread_nodes.ts";
import type {
  GraphThread,
  NodeRecord,
  NodeSpec,
  PermissionNews,
  Place,
  ReplicaNews,
} from "./thread_types.ts";

/** What places need of the graph. */
export interface PlacedGraph extends OpenGraph {
  drainNodes(nodes: ReadonlySet<BlockNode>): Promise<DrainedSection>;
  thresholdExceeded(node: BlockNode, exceeded: number, threshold: number | bigint): void;
}

/** Where the nodes of a graph run. */
export class Places {
  /** The nodes of the main context, for requests of threads; and the numbers of all. */
  readonly served: ServedNodes;
  readonly #graph: PlacedGraph;
  readonly #threads = new Map<GraphThread, ThreadNodes>();
  #lastHold = 0;
  /** Requests in threads, as of the last `refresh`. */
  #requests: readonly RequestInFlight[] = [];
  /** What users in threads have asked of nodes, as of the last `refresh`. */
  #statistics: ReadonlyMap<BlockNode, BackendStatistics> = new Map();

  constructor(graph: PlacedGraph) {
    this.#graph = graph;
    this.served = new ServedNodes(graph.seam, (name) => graph.find(name));
  }

  /** Makes a thread known; news from it are for the result. */
  add(thread: GraphThread): ReplicaNews {
    this.#threads.set(thread, new ThreadNodes(thread, this.served));
    return {
      resized: (name, facts, bitmaps) => {
        const node = this.#graph.find(name);
        if (node?.place !== thread || !(node.instance instanceof MovedInstance)) return;
        node.instance.update(facts);
        for (const { name, bits } of bitmaps) node.bitmaps?.find(name)?.bits.adopt(bits);
        this.#graph.changed(node);
        for (const [other, nodes] of this.#threads) {
          if (nodes.forwards(node)) other.post("update", name, facts);
        }
      },
      thresholdExceeded: (name, exceeded, threshold) => {
        const node = this.#graph.find(name);
        if (node !== undefined) this.#graph.thresholdExceeded(node, exceeded, threshold);
      },
      emit: (event, data) => this.#graph.emit(event, data),
    };
  }

  /** A thread that is not used any more. */
  remove(thread: GraphThread): void {
    assert(!this.inUse(thread), "an IOThread in use is removed");
    this.#threads.delete(thread);
  }

  /** Whether there is any thread that nodes could be moved to, or back from. */
  get mayMove(): boolean {
    return this.#threads.size > 0;
  }

  /** Whether nodes run in the thread, or have users in it. */
  inUse(thread: GraphThread): boolean {
    if (this.#threads.get(thread)?.hasUsers === true) return true;
    for (const node of this.#graph.all) if (node.place === thread) return true;
    return false;
  }

  /** A thread has failed: its nodes are lost. Returns the descriptors that it had. */
  lost(thread: GraphThread): number[] {
    const fds = this.#threads.get(thread)?.fds ?? [];
    this.#threads.delete(thread);
    for (const node of this.#graph.all) {
      if (node.place !== thread) continue;
      node.place = undefined;
      node.instance = new LostInstance(node.name, thread.name, factsOf(node));
      if (node.bitmaps !== undefined) node.bitmaps.away = false;
      for (const { bits } of node.bitmaps?.all() ?? []) bits.keep();
      for (const nodes of this.#threads.values()) nodes.outdate(node, thread);
    }
    return fds;
  }

  /** A node is gone. */
  forget(node: BlockNode): void {
    this.served.delete(node);
    for (const nodes of this.#threads.values()) nodes.forget(node);
  }

  // --- drain, permissions, status ---

  /** Holds users in threads back, as the graph does with its own; the result ends it. */
  async hold(nodes: ReadonlySet<BlockNode> | undefined): Promise<() => void> {
    const id = ++this.#lastHold;
    const names = nodes === undefined ? undefined : [...nodes].map((node) => node.name);
    const held = [...this.#threads.keys()];
    await this.#all(held, (thread) => thread.call("hold", id, names));
    return () => {
      for (const thread of held) thread.post("unhold", id);
    };
  }

  /** Tells threads the permissions of those of `changed` that are theirs; before anybody relies on them. */
  async publish(changed: ReadonlySet<BlockNode>): Promise<void> {
    if (!this.mayMove) return;
    await this.#all(this.#threads.keys(), (thread) => {
      const nodes: PermissionNews["nodes"][number][] = [];
      const edges: PermissionNews["edges"][number][] = [];
      for (const node of changed) {
        if (node.place !== thread) continue;
        nodes.push([node.name, node.permissions.needed, node.permissions.shared]);
        for (const { name, needed, shared } of node.children) {
          edges.push([node.name, name, needed, shared]);
        }
      }
      return nodes.length === 0 ? Promise.resolve() : thread.call("permissions", { nodes, edges });
    });
  }

  /** Asks threads for what only they know: counters, thresholds, requests in flight. */
  async refresh(): Promise<void> {
    const requests: RequestInFlight[] = [];
    const away = new Map<BlockNode, BackendStatistics>();
    await this.#all(this.#threads.keys(), async (thread) => {
      const report = await thread.call("report");
      requests.push(...report.requests);
      for (const one of report.nodes) {
        const node = this.#graph.find(one.name);
        if (node?.place !== thread || !(node.instance instanceof MovedInstance)) continue;
        node.instance.report = one;
        node.writeHighest = one.writeHighest;
        node.shownThreshold = one.writeThreshold;
      }
      for (const { node: name, statistics } of report.users) {
        const node = this.#graph.find(name);
        if (node === undefined) continue;
        const total = away.get(node) ?? noStatistics();
        addStatistics(total, statistics);
        away.set(node, total);
      }
    });
    this.#requests = requests;
    this.#statistics = away;
  }

  /** Sets a node's write threshold where it runs. */
  async setThreshold(node: BlockNode, threshold: number | bigint): Promise<void> {
    if (node.place === undefined) {
      node.writeThreshold = threshold;
    } else {
      await node.place.call("setThreshold", node.name, threshold);
      node.shownThreshold = threshold;
    }
  }

  /** Changes a bitmap where its node runs. In the queue only. Throws CommandError with nothing changed. */
  async changeBitmap(
    node: BlockNode,
    bitmap: DirtyBitmap,
    change: BitmapChange,
  ): Promise<void> {
    const list = node.bitmaps!;
    if (node.place === undefined) return changeBitmap(list, bitmap, change);
    await node.place.call("changeBitmap", node.name, bitmap.name, change);
    if (change.op === "record") list.setRecording(bitmap, change.recording);
  }

  /** What users of `node` have asked of it, those in threads as of the last `refresh`. */
  statistics(node: BlockNode): BackendStatistics {
    const total = usersStatistics(node);
    const away = this.#statistics.get(node);
    if (away !== undefined) addStatistics(total, away);
    return total;
  }

  /** Requests of users in threads, as of the last `refresh`. */
  get requests(): readonly RequestInFlight[] {
    return this.#requests;
  }

  /** Does something in each thread; one that fails meanwhile does not matter. */
  async #all(
    threads: Iterable<GraphThread>,
    act: (thread: GraphThread) => Promise<unknown>,
  ): Promise<void> {
    await Promise.all([...threads].map(async (thread) => {
      try {
        await act(thread);
      } catch (error) {
        if (!thread.failed) throw error;
      }
    }));
  }

  // --- moving ---

  /** All nodes that are connected with `node`. */
  component(node: BlockNode): Set<BlockNode> {
    const found = new Set<BlockNode>([node]);
    for (const at of found) {
      for (const edge of at.children) found.add(edge.node);
      for (const parent of at.parents) if (!(parent instanceof Backend)) found.add(parent.parent);
    }
    return found;
  }

  /** Whether a user of one of `nodes` insists on where they are. */
  isPinned(nodes: ReadonlySet<BlockNode>, to: Place): boolean {
    for (const node of nodes) {
      if (node.place === to) continue;
      for (const parent of node.parents) {
        if (parent instanceof Backend && parent.options.fixedPlace === true) return true;
      }
    }
    return false;
  }

  /** Moves everything connected with `node`. Throws CommandError with all as it was. In the queue only. */
  async moveComponent(node: BlockNode, to: Place): Promise<void> {
    const nodes = this.component(node);
    if (this.isPinned(nodes, to)) {
      throw new CommandError("Cannot change iothread of active block backend");
    }
    await this.relocate(new Map([...nodes].map((one) => [one, to])));
  }

  /** As moveComponent; the nodes stay there when their last user goes. In the queue only. */
  async put(node: BlockNode, to: Place): Promise<void> {
    await this.moveComponent(node, to);
    for (const one of this.component(node)) one.placed = to !== undefined;
  }

  /** Whether something keeps everything connected with `node` where it is: users, or `put`. */
  isUsed(node: BlockNode): boolean {
    return [...this.component(node)].some((one) =>
      one.placed || one.parents.some((parent) => parent instanceof Backend)
    );
  }

  /** Runs `act` with everything connected with `nodes` in the main context, and moves it back. In the queue only. */
  async atHome<T>(nodes: Iterable<BlockNode>, act: () => Promise<T>): Promise<T> {
    const away = new Map<BlockNode, Place>();
    for (const node of nodes) {
      for (const one of this.component(node)) {
        if (one.place !== undefined) away.set(one, one.place);
      }
    }
    if (away.size === 0) return await act();
    await this.relocate(new Map([...away.keys()].map((node) => [node, undefined])));
    try {
      return await act();
    } finally {
      const left = [...away].filter(([node, place]) => !node.closed && place?.failed !== true);
      try {
        await this.relocate(new Map(left));
      } catch (error) {
        this.#graph.context.log.warn(`nodes stay in the main thread: ${String(error)}`);
      }
    }
  }

  /** Moves nodes, each to its place. Throws with all as it was. In the queue only. */
  async relocate(plan: ReadonlyMap<BlockNode, Place>): Promise<void> {
    const order = childrenFirst([...plan.keys()]).filter((node) =>
      plan.has(node) && node.place !== plan.get(node)
    );
    if (order.length === 0) return;
    const section = await this.#graph.drainNodes(new Set(order));
    try {
      for (const node of order) await this.#graph.seam.flush(node);
      await this.#move(order, plan);
    } finally {
      section.end();
    }
  }

  async #move(order: readonly BlockNode[], plan: ReadonlyMap<BlockNode, Place>): Promise<void> {
    const old = new Map(order.map((node) => [node, node.place]));
    const records = new Map<BlockNode, NodeRecord>();
    const opened: BlockNode[] = [];
    try {
      for (const node of [...order].reverse()) records.set(node, await this.#release(node));
      for (const node of order) {
        await this.#open(node, plan.get(node), records.get(node)!);
        opened.push(node);
      }
    } catch (error) {
      for (const node of opened.reverse()) records.set(node, await this.#release(node));
      for (const node of order) {
        // One that was not closed yet is where it was.
        const record = records.get(node);
        if (record !== undefined) await this.#openOrLose(node, old.get(node), record);
      }
      await this.settle();
      throw error;
    }
    await this.settle();
  }

  async #openOrLose(node: BlockNode, place: Place, record: NodeRecord): Promise<void> {
    try {
      await this.#open(node, place, record);
    } catch (error) {
      const { context } = this.#graph;
      context.log.error(`node '${node.name}' is lost: it cannot be opened again: ${String(error)}`);
      node.place = undefined;
      node.instance = new LostInstance(node.name, place?.name ?? "main", factsOf(node));
      for (const fd of record.handedOver?.fds ?? []) context.sys.close(fd);
    }
  }

  async #release(node: BlockNode): Promise<NodeRecord> {
    const { place } = node;
    if (place === undefined) return await closeForNow(this.#graph, node);
    const record = await place.call("release", node.name);
    if (record.counted !== undefined) addStatistics(node.counted, record.counted);
    this.#threads.get(place)?.released(node);
    return record;
  }

  async #open(node: BlockNode, place: Place, record: NodeRecord): Promise<void> {
    const quiesced = node.drained > 0;
    const { drained } = node;
    if (place === undefined) {
      await openAgain(this.#graph, node, record, quiesced);
      node.place = undefined;
      if (node.bitmaps !== undefined) node.bitmaps.away = false;
    } else {
      const there = this.#nodesOf(place);
      await there.inform(node.children.map((edge) => edge.node));
      const facts = await place.call("open", this.#specOf(node, record, quiesced));
      there.opened(node, record.handedOver?.fds ?? []);
      node.place = place;
      node.instance = new MovedInstance(node.name, place, this.served.handle(node), facts);
      node.writeThreshold = 0; // watched over there
      node.shownThreshold = record.writeThreshold;
      if (node.bitmaps !== undefined) node.bitmaps.away = true;
    }
    node.drained = drained;
  }

  #specOf(node: BlockNode, record: NodeRecord, quiesced: boolean): NodeSpec {
    return {
      name: node.name,
      handle: this.served.handle(node),
      options: flatOptions(node),
      common: { ...node.common },
      permissions: { ...node.permissions },
      children: node.children.map(({ name, role, node: child, owned, needed, shared }) => ({
        name,
        role,
        node: child.name,
        owned,
        needed,
        shared,
      })),
      record,
      quiesced,
      bitmaps: bitmapStates(node.bitmaps),
    };
  }

  // --- what threads know ---

  /** A user of `node` in `thread`; `release` (once) when it has gone. In the queue only. */
  use(node: BlockNode, thread: GraphThread): Promise<{ release(): void }> {
    return this.#nodesOf(thread).use(node);
  }

  /** Tells all threads where the nodes that they use are now, and lets them forget others. */
  async settle(): Promise<void> {
    for (const [thread, nodes] of this.#threads) await this.#all([thread], () => nodes.settle());
  }

  #nodesOf(thread: GraphThread): ThreadNodes {
    const nodes = this.#threads.get(thread);
    if (nodes === undefined) throw new CommandError(`IOThread '${thread.name}' has failed`);
    return nodes;
  }
}
