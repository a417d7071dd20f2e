/**
 * Moving nodes from one context to another. A move is a change of the graph: it runs in the graph's queue, with the
 * nodes drained in all contexts. Drivers are closed parents first and opened children first; descriptors and their
 * locks are handed over. If a driver cannot be opened in the new place all go back to the old one.
 */
import { CommandError } from "../base/mod.ts";
import { closeForNow, openAgain } from "./again.ts";
import { bitmapStates } from "./bitmaps/mod.ts";
import { LostInstance } from "./forward.ts";
import type { DrainedSection } from "./graph_types.ts";
import { MovedInstance } from "./moved.ts";
import { type BlockNode, childrenFirst } from "./node.ts";
import type { OpenGraph } from "./open.ts";
import { factsOf, flatOptions } from "./replica.ts";
import type { ServedNodes } from "./serve_node.ts";
import { addStatistics } from "./statistics.ts";
import type { ThreadNodes } from "./thread_nodes.ts";
import type { GraphThread, NodeRecord, NodeSpec, Place } from "./thread_types.ts";

/** What moving needs of the graph. */
export interface MovedGraph extends OpenGraph {
  drainNodes(nodes: ReadonlySet<BlockNode>): Promise<DrainedSection>;
}

/** What moving needs of the record of places. */
export interface MoverHost {
  readonly served: ServedNodes;
  /** What the thread knows of nodes; undefined: it has failed. */
  nodesOf(thread: GraphThread): ThreadNodes | undefined;
  /** Tells all threads where the nodes that they use are now. */
  settle(): Promise<void>;
}

/** Throws the CommandError for a thread that is used after it has failed. */
export function threadFailed(thread: GraphThread): never {
  throw new CommandError(`IOThread '${thread.name}' has failed`);
}

/** Moves the nodes of one graph. */
export class Mover {
  readonly #graph: MovedGraph;
  readonly #host: MoverHost;

  constructor(graph: MovedGraph, host: MoverHost) {
    this.#graph = graph;
    this.#host = host;
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

  /** As `relocate`, with the nodes drained and flushed. */
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
      await this.#host.settle();
      throw error;
    }
    await this.#host.settle();
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
    this.#host.nodesOf(place)?.released(node);
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
      const there = this.#host.nodesOf(place) ?? threadFailed(place);
      await there.inform(node.children.map((edge) => edge.node));
      const facts = await place.call("open", this.#specOf(node, record, quiesced));
      there.opened(node, record.handedOver?.fds ?? []);
      node.place = place;
      node.instance = new MovedInstance(node.name, place, this.#host.served.handle(node), facts);
      node.writeThreshold = 0; // watched over there
      node.shownThreshold = record.writeThreshold;
      if (node.bitmaps !== undefined) node.bitmaps.away = true;
    }
    node.drained = drained;
  }

  #specOf(node: BlockNode, record: NodeRecord, quiesced: boolean): NodeSpec {
    return {
      name: node.name,
      handle: this.#host.served.handle(node),
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
}
