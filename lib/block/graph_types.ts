/** What the block graph offers its users (exports, jobs, the monitor): the types around BlockGraph. */
import type { DriverDefinition } from "./driver_types.ts";
import type { BlockNodeInfo, DriverInstance, Limits } from "./types.ts";
import type { Context } from "../sys/mod.ts";
import type { EventSink } from "../qmp/schema/core.ts";

/** Finds a driver by QEMU's name (drivers/mod.ts has the one with all drivers). */
export interface DriverRegistry {
  find(name: string): DriverDefinition<unknown> | undefined;
}

/** A registry of the given definitions. */
export function driverRegistry(definitions: readonly DriverDefinition<unknown>[]): DriverRegistry {
  const byName = new Map(definitions.map((definition) => [definition.name, definition]));
  return { find: (name) => byName.get(name) };
}

/** What a graph is made of. */
export interface GraphParts {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly events: EventSink;
}

/** An opened node as the rest of qsd sees it. */
export interface NodeView extends BlockNodeInfo {
  readonly name: string;
  /** QEMU's driver name. */
  readonly driver: string;
  /** Length in bytes, a multiple of 512 as in QEMU (a short tail reads as zeroes). */
  readonly size: number;
  readonly readOnly: boolean;
  /** Not handed over to another process (blockdev-set-active). */
  readonly active: boolean;
  readonly limits: Readonly<Limits>;
  /** Whether blockdev-add (or --blockdev) made it. */
  readonly monitorOwned: boolean;
  /** The driver's opened state; for facts and statistics, never for I/O. */
  readonly instance: DriverInstance;
}

/** A drained section: requests wait until `end` is called (once). */
export interface DrainedSection {
  end(): void;
}

/** A request that has not completed, for status. */
export interface RequestInFlight {
  readonly op: string;
  /** The node it was sent to. */
  readonly node: string;
  readonly offset: number;
  readonly length: number;
  /** CLOCK_MONOTONIC, nanoseconds. */
  readonly startedNs: number;
}
