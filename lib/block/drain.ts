/** Drained sections: the backends above a node hold new requests back, and none is with a driver. */
import type { Backend } from "./backend.ts";
import type { DrainedSection } from "./graph_types.ts";
import { BlockNode } from "./node.ts";

/** `node` and every node above it. */
export function withAncestors(node: BlockNode): Set<BlockNode> {
  const found = new Set<BlockNode>([node]);
  for (const at of found) {
    for (const parent of at.parents) {
      if ("parent" in parent) found.add(parent.parent);
    }
  }
  return found;
}

/** One section. */
export class Section implements DrainedSection {
  readonly #backends: Backend[] = [];
  #quiesced: BlockNode[] = [];
  #ended = false;

  constructor(
    /** Which nodes are drained; undefined: all, whichever there will be. */
    private readonly covers: ((node: BlockNode) => boolean) | undefined,
    /** Called when it has ended. */
    private readonly onEnd: (section: Section) => void,
  ) {}

  /** Holds `backend` if its node is drained; also one that attaches during the section. */
  consider(backend: Backend): void {
    if (this.covers !== undefined && !this.covers(backend.node)) return;
    backend.hold();
    this.#backends.push(backend);
  }

  /** Waits for what is in flight. */
  async quiet(): Promise<void> {
    await Promise.all(this.#backends.map((backend) => backend.quiet()));
  }

  /** After `quiet`: lets the drivers of `nodes` quiesce. If one cannot, the section is to be ended. */
  async settle(nodes: readonly BlockNode[]): Promise<void> {
    for (const node of nodes) {
      if (!node.opened || node.closed) continue;
      try {
        if (node.drained++ === 0) node.quiescing = node.instance.quiesce?.();
        await node.quiescing; // another section may have begun it, and not have seen its end
      } catch (error) {
        node.drained--;
        throw error;
      }
      this.#quiesced.push(node);
    }
  }

  /** A backend is gone: it will not be released. */
  forget(backend: Backend): void {
    const index = this.#backends.indexOf(backend);
    if (index >= 0) this.#backends.splice(index, 1);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    for (const node of this.#quiesced) {
      if (--node.drained === 0 && !node.closed) node.instance.resume?.();
    }
    this.#quiesced = [];
    for (const backend of this.#backends) backend.release();
    this.onEnd(this);
  }
}
