/** Turns for others in the middle of long work that hardly ever waits, as on tables that are all in memory. */
import { BUDGET_NS } from "./now.ts";
import type { Context } from "./types.ts";

/**
 * The pace of one task, or of several that share it: so long in a turn of the loop, and then others have theirs.
 * Whoever waits for something else meanwhile goes on in another turn anyway, and begins anew.
 */
export class Pace {
  #turn = -1;
  #began = 0;

  /** `budgetNs`: how long in a turn; as the loop handles events unless told otherwise. */
  constructor(
    private readonly context: Pick<Context, "loop" | "sys">,
    private readonly budgetNs: number = BUDGET_NS,
  ) {}

  /** Whether it is time for `rest`; to be asked every few microseconds. */
  get tired(): boolean {
    const { loop, sys } = this.context;
    const { turns } = loop.counters;
    if (turns === this.#turn) return sys.monotonicNs() - this.#began > this.budgetNs;
    this.#turn = turns;
    this.#began = sys.monotonicNs();
    return false;
  }

  /** Goes on in another turn of the loop. */
  rest(): Promise<void> {
    return new Promise((resolve) => this.context.loop.defer(resolve));
  }
}
