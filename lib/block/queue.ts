/** One after the other: graph changes are serialised by this. */

/** Runs tasks in the order given, each after the one before has ended, however it ended. */
export class TaskQueue {
  #tail: Promise<unknown> = Promise.resolve();

  /** Runs `task` when its turn comes; the result is its. */
  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(task, task);
    this.#tail = result.catch(() => undefined);
    return result;
  }
}
