/** The options that every driver takes: defaults, and what children inherit. */
import { CommandError } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { isObject } from "./filenames.ts";
import type { BlockNode, CommonOptions } from "./node.ts";
import type { ChildRole } from "./types.ts";

/** Names of the options in CommonOptions, and the graph's own. */
const COMMON: ReadonlySet<string> = new Set([
  "driver",
  "node-name",
  "discard",
  "cache",
  "read-only",
  "auto-read-only",
  "force-share",
  "active",
  "detect-zeroes",
]);

/** The driver's own options. */
export function driverOptions(options: BlockdevOptionsValue): Record<string, unknown> {
  return Object.fromEntries(Object.entries(options).filter(([key]) => !COMMON.has(key)));
}

/**
 * The same options with `"backing": ""`, at any depth, as null: the old way to say it, and the only one that
 * "--blockdev driver=qcow2,backing=" has. `found` is called if there is one.
 */
export function withoutEmptyBacking(
  options: BlockdevOptionsValue,
  found: () => void,
): BlockdevOptionsValue {
  const change = ([key, value]: [string, unknown]): [string, unknown] => {
    if (isObject(value)) return [key, Object.fromEntries(Object.entries(value).map(change))];
    if (key !== "backing" || value !== "") return [key, value];
    found();
    return [key, null];
  };
  return Object.fromEntries(Object.entries(options).map(change)) as BlockdevOptionsValue;
}

/** What an inline child starts from; undefined for a root, which starts from QEMU's defaults. */
export interface Inheritance {
  readonly parent: CommonOptions;
  readonly role: readonly ChildRole[];
}

/** The inheritance of a child of `parent`. */
export function inheritFrom(parent: BlockNode, role: readonly ChildRole[]): Inheritance {
  return { parent: parent.common, role };
}

/**
 * Resolves the common options of a node. A reopen names those `before` it: `discard` stays what it was, as in QEMU,
 * where all others are given their defaults. Throws CommandError where they exclude each other.
 */
export function commonOptions(
  options: BlockdevOptionsValue,
  inheritance: Inheritance | undefined,
  before?: CommonOptions,
): CommonOptions {
  const parent = inheritance?.parent;
  const cow = inheritance?.role.includes("cow") === true;
  const cache = options["cache"] as { direct?: boolean; "no-flush"?: boolean } | undefined;
  const given = <T>(name: string) => options[name] as T | undefined;
  const resolved: CommonOptions = {
    readOnly: given<boolean>("read-only") ?? (cow ? true : parent?.readOnly ?? false),
    autoReadOnly: given<boolean>("auto-read-only") ??
      (cow ? false : parent?.autoReadOnly ?? false),
    direct: cache?.direct ?? parent?.direct ?? false,
    noFlush: cache?.["no-flush"] ?? parent?.noFlush ?? false,
    discard: given<"ignore" | "unmap">("discard") ??
      (parent === undefined ? before?.discard ?? "ignore" : "unmap"),
    detectZeroes: given<"off" | "on" | "unmap">("detect-zeroes") ?? "off",
    forceShare: given<boolean>("force-share") ?? parent?.forceShare ?? false,
    active: given<boolean>("active") ?? parent?.active ?? true,
  };
  if (resolved.forceShare && !resolved.readOnly) {
    throw new CommandError("force-share=on can only be used with read-only images");
  }
  if (resolved.detectZeroes === "unmap" && resolved.discard !== "unmap") {
    throw new CommandError(
      "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap",
    );
  }
  return resolved;
}
