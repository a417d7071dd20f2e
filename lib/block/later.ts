/**
 * Drivers whose code is loaded when it is first needed: a daemon that opens no such node neither waits for it at its
 * start nor keeps it in memory. See "What is loaded later" in docs/architecture.md.
 */
import { assert } from "../base/mod.ts";
import type { DriverDefinition } from "./driver_types.ts";

/** What has to be known of a driver before its code is there. */
export interface KnownDriver<O> extends Pick<DriverDefinition<O>, "name" | "kind" | "options"> {
  /** Whether it makes images (`create`). */
  readonly creates: boolean;
}

/**
 * A driver that `load` brings. It must be what is `known`, and have no childPermissions of its own, which are asked
 * for at once.
 */
export function laterDriver<O>(
  { creates, ...known }: KnownDriver<O>,
  load: () => Promise<DriverDefinition<O>>,
): DriverDefinition<O> {
  const loaded = async () => {
    const definition = await load();
    assert(definition.name === known.name && definition.kind === known.kind);
    assert((definition.create !== undefined) === creates);
    assert(definition.childPermissions === undefined);
    return definition;
  };
  return {
    ...known,
    open: async (open, options) => await (await loaded()).open(open, options),
    ...(creates && {
      create: async (create, options) => await (await loaded()).create!(create, options),
    }),
  };
}
