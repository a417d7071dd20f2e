/** Tasks for the next turn of a loop. */
import { BUDGET_NS, now } from "./now.ts";

/** Those of one loop. */
export class DeferredTasks {
  /** To be run in the next turn. */
  #later: (() => void)[] = [];
  /** Being run: those from #next on are left. */
  #due: (() => void)[] = [];
  #next = 0;

  /** `onError`: a task has thrown. */
  constructor(private readonly onError: (error: unknown) => void) {}

  /** Whether some were added since the last `run` began. */
  get any(): boolean {
    return this.#later.length > 0;
  }

  add(task: () => void): void {
    this.#later.push(task);
  }

  /** Runs what was added before, until the budget is spent; what these tasks add comes in a later turn. */
  run(): boolean {
    let due = this.#due;
    if (due.length === 0) {
      if (this.#later.length === 0) return false;
      this.#due = this.#later;
      this.#later = due;
      due = this.#due;
    }
    const began = due.length > 1 ? now() : 0;
    do {
      const task = due[this.#next++]!;
      try {
        task();
      } catch (error) {
        this.onError(error);
      }
    } while (this.#next < due.length && now() - began <= BUDGET_NS);
    if (this.#next === due.length) {
      due.length = 0;
      this.#next = 0;
    }
    return true;
  }
}
