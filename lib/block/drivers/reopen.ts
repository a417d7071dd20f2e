/** What blockdev-reopen may not change. */
import { CommandError } from "../../base/mod.ts";

/**
 * Throws CommandError unless `next` has the same value as `old` for every one of `fixed`, the options that a
 * driver cannot change while a node is open. Options are those that were given, without defaults.
 */
export function refuseChanges(
  old: Readonly<Record<string, unknown>>,
  next: Readonly<Record<string, unknown>>,
  fixed: readonly string[],
): void {
  for (const name of fixed) {
    if (old[name] === next[name]) continue;
    if (next[name] !== undefined) throw new CommandError(`Cannot change the option '${name}'`);
    throw new CommandError(`Option '${name}' cannot be reset to its default value`);
  }
}

/** As refuseChanges, for options that may take another value but not go back to their default. */
export function refuseResets(
  old: Readonly<Record<string, unknown>>,
  next: Readonly<Record<string, unknown>>,
  sticky: readonly string[],
): void {
  for (const name of sticky) {
    if (old[name] !== undefined && next[name] === undefined) {
      throw new CommandError(`Option '${name}' cannot be reset to its default value`);
    }
  }
}
