/** Tables of commands and events as data, as features bring them. */
import type { Command, Notes, Schema } from "./core.ts";

/** Commands by name. */
// deno-lint-ignore no-explicit-any
export type CommandTable = Readonly<Record<string, Command<any, any>>>;

/** An event as data. */
export interface EventDefinition {
  /** What `data` holds; undefined when the event has none. */
  readonly data: Schema<unknown> | undefined;
  readonly notes: Notes;
  /**
   * At most one a second for each key; later ones replace each other until the second is over. The key tells
   * apart what must not replace each other (QEMU: the QUORUM events, by node and so on).
   */
  readonly rateLimit?: (data: Record<string, unknown>) => string;
}

/** Events by name. */
export type EventTable = Readonly<Record<string, EventDefinition>>;

/** Describes an event. */
export function event(
  data: Schema<unknown> | undefined,
  notes: Notes = {},
  rateLimit?: EventDefinition["rateLimit"],
): EventDefinition {
  return rateLimit === undefined ? { data, notes } : { data, notes, rateLimit };
}
