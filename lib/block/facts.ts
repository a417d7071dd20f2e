/** Asking nodes what they tell about themselves. */
import type { MaybePromise } from "../base/mod.ts";
import type { DriverInstance, ImageFacts } from "./types.ts";

/** A node, as far as asking goes. */
interface Asked {
  readonly instance: DriverInstance;
}

/**
 * The answers to one question. What a node tells depends on the nodes below it (its name, above all), so in a chain
 * each would be asked once for every node above it: here it is asked once.
 */
export class FactsRound {
  readonly #answers = new Map<Asked, MaybePromise<Partial<ImageFacts>>>();

  /** What the driver of `node` tells. Rejects as it does. */
  of(node: Asked): MaybePromise<Partial<ImageFacts>> {
    let answer = this.#answers.get(node);
    if (answer === undefined) {
      answer = node.instance.facts?.(this) ?? {};
      this.#answers.set(node, answer);
    }
    return answer;
  }
}
