/** What the main context, which owns the graph, knows of one IOThread: which nodes it has, and has been told of. */
import { factsOf, flatOptions } from "./replica.ts";
import { Backend } from "./backend.ts";
import type { BlockNode } from "./node.ts";
import type { ServedNodes } from "./serve_node.ts";
import type { ForwardSpec, GraphThread, Place } from "./thread_types.ts";

/** The nodes of one thread. */
export class ThreadNodes {
  /** Nodes that it has besides its own: where it was told that they live. */
  readonly #forwards = new Map<BlockNode, Place>();
  /** How many users nodes have there. */
  readonly #users = new Map<BlockNode, number>();
  /** Descriptors that were handed to it. */
  readonly #fds = new Map<BlockNode, readonly number[]>();

  /** `served` knows the nodes' numbers. */
  constructor(private readonly thread: GraphThread, private readonly served: ServedNodes) {}

  /** Whether any node has users there. */
  get hasUsers(): boolean {
    return this.#users.size > 0;
  }

  /** The descriptors that it has. */
  get fds(): number[] {
    return [...this.#fds.values()].flat();
  }

  /** Whether it was told where `node` lives. */
  forwards(node: BlockNode): boolean {
    return this.#forwards.has(node);
  }

  /** `node` was opened there, with the descriptors that came along. */
  opened(node: BlockNode, fds: readonly number[]): void {
    this.#forwards.delete(node);
    this.#fds.set(node, fds);
  }

  /** `node` was closed there. Its users in the thread wait for news of where it is: `settle` tells. */
  released(node: BlockNode): void {
    this.#fds.delete(node);
    if (this.#isNeeded(node)) this.#forwards.set(node, this.thread);
  }

  /** `node` was lost with the thread `place`: it must be told where it is now. */
  outdate(node: BlockNode, place: GraphThread): void {
    if (this.#forwards.has(node)) this.#forwards.set(node, place);
  }

  /** `node` is gone. */
  forget(node: BlockNode): void {
    this.#fds.delete(node);
  }

  /** A user of `node`; `release` (once) when it has gone. */
  async use(node: BlockNode): Promise<{ release(): void }> {
    await this.inform([node]);
    this.#users.set(node, (this.#users.get(node) ?? 0) + 1);
    return {
      release: () => {
        const left = (this.#users.get(node) ?? 0) - 1;
        if (left > 0) this.#users.set(node, left);
        else this.#users.delete(node);
        if (!this.#isNeeded(node) && this.#forwards.delete(node)) {
          this.thread.post("forget", [node.name]);
        }
      },
    };
  }

  /** Tells it where the nodes that it uses are now, and lets it forget others. */
  async settle(): Promise<void> {
    const unused = [...this.#forwards.keys()].filter((node) => !this.#isNeeded(node));
    for (const node of unused) this.#forwards.delete(node);
    if (unused.length > 0) this.thread.post("forget", unused.map((node) => node.name));
    await this.inform([...this.#forwards.keys()]);
  }

  #isNeeded(node: BlockNode): boolean {
    if (node.place === this.thread || this.#users.has(node)) return true;
    return node.parents.some((parent) =>
      !(parent instanceof Backend) && parent.parent.place === this.thread
    );
  }

  /** Makes sure that it knows where `nodes` are. */
  async inform(nodes: readonly BlockNode[]): Promise<void> {
    const news: ForwardSpec[] = [];
    for (const node of nodes) {
      const { place } = node;
      if (place === this.thread) continue;
      if (this.#forwards.has(node) && this.#forwards.get(node) === place) continue;
      if (place !== undefined) await this.thread.connect(place);
      this.#forwards.set(node, place);
      news.push({
        name: node.name,
        handle: this.served.handle(node),
        options: flatOptions(node),
        common: { ...node.common, detectZeroes: "off" },
        facts: factsOf(node),
        place: place?.name ?? "",
      });
    }
    if (news.length > 0) await this.thread.call("forward", news);
  }
}
