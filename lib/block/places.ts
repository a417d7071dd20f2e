/**
 * Where nodes run. Names, ownership, permissions and structure of all nodes live in the main context's graph; the
 * driver of a node is open in exactly one context, its place. Here is what decides where that is (mover.ts takes them
 * there), and what keeps each thread's knowledge of nodes (replica.ts) as it has to be.
 */
import { assert, CommandError } from "../base/mod.ts";
import { Backend } from "./backend.ts";
import type { BackendStatistics } from "./backend_types.ts";
import { type BitmapChange, changeBitmap, type DirtyBitmap } from "./bitmaps/mod.ts";
import { LostInstance } from "./forward.ts";
import type { RequestInFlight } from "./graph_types.ts";
import { MovedInstance } from "./moved.ts";
import { type MovedGraph, Mover, threadFailed } from "./mover.ts";
import type { BlockNode } from "./node.ts";
import { factsOf } from "./replica.ts";
import { ServedNodes } from "./serve_node.ts";
import { addStatistics, noStatistics, usersStatistics } from "./statistics.ts";
import { ThreadNodes } from "./thread_nodes.ts";
import type { GraphThread, PermissionNews, Place, ReplicaNews } from "./thread_types.ts";

/** What places need of the graph. */
export interface PlacedGraph extends MovedGraph {
  thresholdExceeded(node: BlockNode, exceeded: number, threshold: number | bigint): void;
}

/** Where the nodes of a graph run. */
export class Places {
  /** The nodes of the main context, for requests of threads; and the numbers of all. */
  readonly served: ServedNodes;
  /** Moves nodes whatever keeps them where they are. */
  readonly mover: Mover;
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
    this.mover = new Mover(graph, {
      served: this.served,
      nodesOf: (thread) => this.#threads.get(thread),
      settle: () => this.settle(),
    });
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
  #component(node: BlockNode): Set<BlockNode> {
    const found = new Set<BlockNode>([node]);
    for (const at of found) {
      for (const edge of at.children) found.add(edge.node);
      for (const parent of at.parents) if (!(parent instanceof Backend)) found.add(parent.parent);
    }
    return found;
  }

  /** Whether a user of one of `nodes` insists on where they are. */
  #isPinned(nodes: ReadonlySet<BlockNode>, to: Place): boolean {
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
    const nodes = this.#component(node);
    if (this.#isPinned(nodes, to)) {
      throw new CommandError("Cannot change iothread of active block backend");
    }
    await this.mover.relocate(new Map([...nodes].map((one) => [one, to])));
  }

  /** As moveComponent; the nodes stay there when their last user goes. In the queue only. */
  async put(node: BlockNode, to: Place): Promise<void> {
    await this.moveComponent(node, to);
    for (const one of this.#component(node)) one.placed = to !== undefined;
  }

  /** Whether something keeps everything connected with `node` where it is: users, or `put`. */
  isUsed(node: BlockNode): boolean {
    return [...this.#component(node)].some((one) =>
      one.placed || one.parents.some((parent) => parent instanceof Backend)
    );
  }

  /** Runs `act` with everything connected with `nodes` in the main context, and moves it back. In the queue only. */
  async atHome<T>(nodes: Iterable<BlockNode>, act: () => Promise<T>): Promise<T> {
    const away = new Map<BlockNode, Place>();
    for (const node of nodes) {
      for (const one of this.#component(node)) {
        if (one.place !== undefined) away.set(one, one.place);
      }
    }
    if (away.size === 0) return await act();
    await this.mover.relocate(new Map([...away.keys()].map((node) => [node, undefined])));
    try {
      return await act();
    } finally {
      const left = [...away].filter(([node, place]) => !node.closed && place?.failed !== true);
      try {
        await this.mover.relocate(new Map(left));
      } catch (error) {
        this.#graph.context.log.warn(`nodes stay in the main thread: ${String(error)}`);
      }
    }
  }

  // --- what threads know ---

  /** A user of `node` in `thread`; `release` (once) when it has gone. In the queue only. */
  use(node: BlockNode, thread: GraphThread): Promise<{ release(): void }> {
    return (this.#threads.get(thread) ?? threadFailed(thread)).use(node);
  }

  /** Tells all threads where the nodes that they use are now, and lets them forget others. */
  async settle(): Promise<void> {
    for (const [thread, nodes] of this.#threads) await this.#all([thread], () => nodes.settle());
  }
}
