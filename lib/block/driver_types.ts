/** What a driver is, as a definition, and what it is given to open its nodes and to create images. */
import type { MaybePromise } from "../base/mod.ts";
import type { BlockdevRefValue } from "../qmp/schema/blockdev.ts";
import type { Schema } from "../qmp/schema/core.ts";
import type { Context } from "../sys/mod.ts";
import type { BlockBackend } from "./backend_types.ts";
import type { FactsRound } from "./facts.ts";
import type { Child, ChildRole, DriverInstance, HandedOver } from "./types.ts";

/** What a driver learns when it opens (or reopens) a node. */
export interface OpenContext {
  readonly context: Context;
  readonly nodeName: string;
  /** Whether the node is to be read-only. */
  readonly readOnly: boolean;
  /** Fall back to read-only where writing is impossible: call `degradeToReadOnly`. */
  readonly autoReadOnly: boolean;
  readonly cache: { readonly direct: boolean; readonly noFlush: boolean };
  readonly discard: "ignore" | "unmap";
  /** False: the node is only read until `activate` is called; nothing is written, not even by opening. */
  readonly active: boolean;
  /** For what children tell while nodes are opened. */
  readonly round?: FactsRound | undefined;
  /** From the instance that the node had before, in another thread (DriverInstance.handOver). */
  readonly handedOver?: HandedOver | undefined;
  /** The parent's options as given, without the common ones. */
  readonly options: Readonly<Record<string, unknown>>;
  /**
   * As `optionalChild`; where the option was not given (null is given: none), the child that the image's own header
   * names, if it does (see implied.ts). Errors about a backing file say so.
   */
  namedChild(
    name: string,
    edge: { role: readonly ChildRole[] },
    named: NamedChild | undefined,
  ): Promise<Child | undefined>;
  /** The name of `named` as seen from here; `round` as in Child.facts. */
  nameOf(named: NamedChild, round?: FactsRound): Promise<string>;
  /** Opens or looks up the child that option `name` describes; fails with QEMU's wording if it is missing. */
  child(name: string, edge: { role: readonly ChildRole[] }): Promise<Child>;
  /** As `child`, undefined where the option was not given. */
  optionalChild(name: string, edge: { role: readonly ChildRole[] }): Promise<Child | undefined>;
  /** The node becomes read-only if auto-read-only allows it, else throws CommandError(`message`). */
  degradeToReadOnly(message: string): void;
  /**
   * Makes the engine count the requests on this format node from now on. The result waits for all parts of
   * requests that are in flight when it is called (undefined: there are none); later ones do not matter.
   */
  trackRequests(): () => Promise<void> | undefined;
  /** Sends a QMP event. */
  emit(event: string, data: Record<string, unknown>): void;
}

/** A child that an image's header names. */
export interface NamedChild {
  readonly kind: "backing" | "data-file";
  readonly filename: string;
  /** QEMU's name of the format; absent or empty: a backing file is probed. */
  readonly format?: string | undefined;
}

/** What a driver is given to create an image. */
export interface CreateContext {
  readonly context: Context;
  /** A node (by reference, or opened here) that is written to and may grow, until its user detaches. */
  node(value: BlockdevRefValue): Promise<BlockBackend>;
  /** To be called between the pieces of what takes long: throws once the job is cancelled. */
  goOn(): void;
}

/** A block driver. `DriverInstance` carries all state: one definition serves all nodes and threads. */
export interface DriverDefinition<O = Record<string, unknown>> {
  /** QEMU's driver name. */
  readonly name: string;
  readonly kind: "protocol" | "format" | "filter";
  /** The schema of its own options (a branch of BlockdevOptions). */
  readonly options: Schema<O>;
  open(open: OpenContext, options: O): MaybePromise<DriverInstance>;
  /**
   * blockdev-create: makes a new image as the driver's branch of BlockdevCreateOptions says. Throws CommandError
   * or BlockError. Absent: the driver cannot.
   */
  create?(create: CreateContext, options: Readonly<Record<string, unknown>>): Promise<void>;
  /**
   * Permissions it needs on, and shares of, a child, given those of its own parents. Absent: by role and
   * kind, as in QEMU (permissions.ts).
   */
  childPermissions?(
    child: string,
    role: readonly ChildRole[],
    parents: { needed: number; shared: number; readOnly: boolean },
    options: O,
  ): { needed: number; shared: number };
}

/** Types a driver's definition without losing its options' type. */
export function defineDriver<O>(definition: DriverDefinition<O>): DriverDefinition<O> {
  return definition;
}
