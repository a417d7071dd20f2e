/**
 * Events are handled for this long in a turn of a loop, and then deferred tasks for this long: what is left waits for
 * the next turn, behind urgent watches and the rest of the thread. Nanoseconds.
 */
export const BUDGET_NS = 500_000;

/** The loop's own clock, in nanoseconds: half the cost of clock_gettime through FFI. */
export function now(): number {
  return performance.now() * 1e6;
}
