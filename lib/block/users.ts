/**
 * The users of a graph's nodes (backends) in the main context: attached with the permissions that they need, told of
 * what changes, and held back while nodes are drained. A thread's users are in its replica.
 */
import { CommandError } from "../base/mod.ts";
import type { Context, TracePoint } from "../sys/mod.ts";
import { Attachments } from "./attachments.ts";
import { Backend } from "./backend.ts";
import type { BackendOptions } from "./backend_types.ts";
import { withAncestors } from "./drain.ts";
import type { DrainedSection, RequestInFlight } from "./graph_types.ts";
import type { BlockNode } from "./node.ts";
import type { PermissionPlan } from "./permission_update.ts";
import type { Places } from "./places.ts";
import type { Seam } from "./seam.ts";
import { Perm } from "./types.ts";

/** What users need of the graph. */
export interface UsedGraph {
  readonly context: Context;
  readonly seam: Seam;
  readonly places: Places;
  /** All nodes that are completely open, newest first. */
  nodes(): readonly BlockNode[];
  /** Runs a change when no change of the graph runs. */
  alone<T>(task: () => Promise<T>): Promise<T>;
  updatePermissions(plan: PermissionPlan): Promise<void>;
  /** Closes `node` if nobody holds it any more. */
  dispose(node: BlockNode): Promise<void>;
}

/** Those of one graph. What attaches runs in the graph's queue; a drain does not wait for that. */
export class GraphUsers {
  readonly #graph: UsedGraph;
  readonly #attachments = new Attachments();
  readonly #traceAttach: TracePoint;
  readonly #traceDetach: TracePoint;

  constructor(graph: UsedGraph) {
    this.#graph = graph;
    this.#traceAttach = graph.context.trace("blk_root_attach");
    this.#traceDetach = graph.context.trace("blk_root_detach");
  }

  /** All of them, oldest first. */
  get backends(): ReadonlySet<Backend> {
    return this.#attachments.backends;
  }

  /** Their requests that have not completed, oldest first. */
  get requests(): RequestInFlight[] {
    return this.#attachments.requests.sort((a, b) => a.startedNs - b.startedNs);
  }

  /** Attaches a user. Throws CommandError with QEMU's conflict text. In the queue only. */
  async attach(node: BlockNode, options: BackendOptions): Promise<Backend> {
    if (!node.active && options.allowInactive !== true) {
      throw new CommandError(`Node '${node.name}' is inactive`);
    }
    const graph = this.#graph;
    const backend = new Backend(
      {
        setPermissions: (which, needed, shared) =>
          graph.alone(() =>
            graph.updatePermissions({ backends: new Map([[which, { needed, shared }]]) })
          ),
        detach: (which) => graph.alone(() => this.#detach(which)),
      },
      graph.seam,
      node,
      options,
    );
    this.#attachments.link(backend);
    try {
      await graph.updatePermissions({ linked: [backend] });
    } catch (error) {
      this.#attachments.unlink(backend);
      throw error;
    }
    if (this.#traceAttach.enabled) {
      this.#traceAttach.emit(`blk ${backend.describe} bs ${node.name}`);
    }
    return backend;
  }

  async #detach(backend: Backend): Promise<void> {
    const graph = this.#graph;
    if (this.#traceDetach.enabled) {
      this.#traceDetach.emit(`blk ${backend.describe} bs ${backend.node.name}`);
    }
    this.#attachments.unlink(backend);
    try {
      await graph.updatePermissions({ released: [backend.node] });
    } catch (error) {
      graph.context.log.warn(`giving up permissions: ${String(error)}`);
    }
    await graph.dispose(backend.node);
  }

  /**
   * Runs `task` while `node` stays and requests of those above it wait, wherever its driver is open. `needed`: the
   * permissions that the task takes. In the queue only.
   */
  async drained<T>(node: BlockNode, needed: number, task: () => Promise<T>): Promise<T> {
    const describe = "an unnamed block device";
    const backend = await this.attach(node, { describe, needed, shared: Perm.all });
    try {
      const section = await this.drain(withAncestors(node));
      try {
        return await task();
      } finally {
        section.end();
      }
    } finally {
      await this.#detach(backend);
    }
  }

  /** Holds users of `nodes` (all, if not given) back, and waits until nothing is in flight and drivers are quiet. */
  async drain(nodes: ReadonlySet<BlockNode> | undefined): Promise<DrainedSection> {
    const graph = this.#graph;
    let release = () => {};
    const covers = nodes === undefined ? undefined : (node: BlockNode) => nodes.has(node);
    const section = this.#attachments.hold(covers, () => release());
    try {
      [release] = await Promise.all([graph.places.hold(nodes), section.quiet()]);
      await section.settle([...nodes ?? graph.nodes().toReversed()]);
    } catch (error) {
      section.end();
      throw error;
    }
    return section;
  }

  /** Length or limits of `node` may have changed: everyone above learns of it. */
  changed(node: BlockNode): void {
    this.#attachments.changed(node);
  }
}
