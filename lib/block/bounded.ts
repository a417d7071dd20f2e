/** Running several steps at once, no more than a few, and never leaving one behind. */
import type { MaybePromise } from "../base/mod.ts";

/** How many pieces of one request are in flight together. */
export const MAX_PIECES = 16;

/**
 * Runs what it is given, at most MAX_PIECES at once. `finish` waits for all of them, also when one has
 * failed (their memory is in use until then), and then throws the first failure.
 */
export class Bounded {
  readonly #running: Set<Promise<void>> = new Set();
  #failure: { error: unknown } | undefined;

  get failed(): boolean {
    return this.#failure !== undefined;
  }

  /** Notes a failure: nothing new should be started. */
  fail(error: unknown): void {
    this.#failure ??= { error };
  }

  /** Starts `step`; a promise when there are so many running that the next should wait. */
  run(step: () => MaybePromise<void>): Promise<void> | undefined {
    let result: MaybePromise<void>;
    try {
      result = step();
    } catch (error) {
      this.fail(error);
      return undefined;
    }
    if (result === undefined) return undefined;
    const running: Promise<void> = result.then(
      () => void this.#running.delete(running),
      (error) => {
        this.fail(error);
        this.#running.delete(running);
      },
    );
    this.#running.add(running);
    return this.#running.size >= MAX_PIECES ? Promise.race(this.#running) : undefined;
  }

  /** Waits for everything that runs; undefined when nothing does. Throws the first failure. */
  finish(): MaybePromise<void> {
    if (this.#running.size === 0) {
      if (this.#failure !== undefined) throw this.#failure.error;
      return undefined;
    }
    return this.#drain();
  }
  async #drain(): Promise<void> {
    while (this.#running.size > 0) await Promise.all(this.#running);
    if (this.#failure !== undefined) throw this.#failure.error;
  }
}
