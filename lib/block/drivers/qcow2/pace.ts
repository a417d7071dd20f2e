/** Turns for others, in the middle of long work on tables that are all in memory. */
import type { Context } from "../../../sys/mod.ts";

/** Work goes on for this long before others get their turn: as long as the loop gives to whatever is ready. */
const TURN_NS = 500_000;

/** The pace of one long task. */
export class Pace {
  readonly #context: Context;
  #began: number;

  constructor(context: Context) {
    this.#context = context;
    this.#began = context.sys.monotonicNs();
  }

  /** Whether it is time for `rest`; to be asked every few microseconds. */
  get tired(): boolean {
    return this.#context.sys.monotonicNs() - this.#began > TURN_NS;
  }

  /** Goes on in another turn of the loop. */
  async rest(): Promise<void> {
    const { loop, sys } = this.#context;
    await new Promise<void>((resolve) => loop.defer(resolve));
    this.#began = sys.monotonicNs();
  }
}
