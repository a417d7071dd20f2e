/** The users that are attached to nodes in one context: told of lengths, and held back while nodes are drained. */
import { Backend } from "./backend.ts";
import { Section, withAncestors } from "./drain.ts";
import type { RequestInFlight } from "./graph_types.ts";
import type { BlockNode } from "./node.ts";
import { addStatistics } from "./statistics.ts";

/** Those of one context. */
export class Attachments {
  readonly #backends = new Set<Backend>();
  readonly #sections = new Set<Section>();
  /** What each was last told of the size. */
  readonly #sizes = new WeakMap<Backend, number>();

  /** All of them, oldest first. */
  get backends(): ReadonlySet<Backend> {
    return this.#backends;
  }

  /** Their requests that have not completed. */
  get requests(): RequestInFlight[] {
    return [...this.#backends].flatMap((backend) => [...backend.requests]);
  }

  /** Links a user to its node; it is held back where a section is under way. */
  link(backend: Backend): void {
    this.#backends.add(backend);
    backend.node.parents.push(backend);
    this.#sizes.set(backend, backend.node.size);
    for (const section of this.#sections) section.consider(backend);
  }

  /** Undoes `link`. */
  unlink(backend: Backend): void {
    const { parents } = backend.node;
    parents.splice(parents.indexOf(backend), 1);
    addStatistics(backend.node.counted, backend.statistics);
    this.#backends.delete(backend);
    for (const section of this.#sections) section.forget(backend);
  }

  /**
   * Holds back the users of nodes that `covers` is true for, and those that come, until the section ends; of all nodes
   * if there is no `covers`.
   */
  hold(covers?: (node: BlockNode) => boolean, onEnd: () => void = () => {}): Section {
    const section = new Section(covers, (ended) => {
      this.#sections.delete(ended);
      onEnd();
    });
    this.#sections.add(section);
    for (const backend of this.#backends) section.consider(backend);
    return section;
  }

  /**
   * Length or limits of `node` may have changed: those of the nodes above it are looked at again, `each` is told of
   * each of these, and users of new sizes.
   */
  changed(node: BlockNode, each: (node: BlockNode) => void = () => {}): void {
    for (const above of withAncestors(node)) {
      if (!above.opened || above.closed) continue;
      above.refreshLimits();
      above.bitmaps?.resize(above.size);
      each(above);
      for (const parent of above.parents) {
        if (parent instanceof Backend) this.#tell(parent, above.size);
      }
    }
  }

  #tell(backend: Backend, size: number): void {
    if (this.#sizes.get(backend) === size) return;
    this.#sizes.set(backend, size);
    backend.options.onResize?.(size);
  }
}
