/**
 * The object tree that qom-list and its kin show: `/objects` with the user-creatable objects and branches such as
 * `/chardevs`. A path that begins with `/` starts at the root; another one is looked for below every object, and
 * must be found exactly once.
 */
import { CommandError } from "../base/mod.ts";
import { struct } from "../qmp/schema/core.ts";
import type { ObjectPropertyInfoValue } from "../qmp/schema/qom.ts";
import { visitJson } from "../qmp/schema/visit_json.ts";
import type { ClassTable } from "./classes.ts";
import type { QomObject } from "./types.ts";

/** An object in the tree. */
export interface TreeNode {
  readonly path: string;
  readonly type: string;
  /** What can be read and written beyond the type. */
  readonly object?: QomObject;
  readonly children: ReadonlyMap<string, TreeNode>;
}

const NO_CHILDREN: ReadonlyMap<string, TreeNode> = new Map();

/** An object without children. */
export function leaf(path: string, type: string, object?: QomObject): TreeNode {
  return { path, type, children: NO_CHILDREN, ...(object && { object }) };
}

/** A container. */
export function container(path: string, children: ReadonlyMap<string, TreeNode>): TreeNode {
  return { path, type: "container", children };
}

function walk(from: TreeNode, steps: readonly string[]): TreeNode | undefined {
  let at: TreeNode | undefined = from;
  for (const step of steps) at = at?.children.get(step);
  return at;
}

function* everything(from: TreeNode): Generator<TreeNode> {
  yield from;
  for (const child of from.children.values()) yield* everything(child);
}

/** The object at `path`. Throws CommandError (class DeviceNotFound when there is none). */
export function resolvePath(root: TreeNode, path: string): TreeNode {
  const steps = path.split("/").filter((step) => step !== "");
  const starts = path.startsWith("/") ? [root] : [...everything(root)];
  const found = starts.map((start) => walk(start, steps)).filter((one) => one !== undefined);
  if (found.length > 1) throw new CommandError(`Path '${path}' is ambiguous`);
  if (found.length === 0) throw new CommandError(`Device '${path}' not found`, "DeviceNotFound");
  return found[0]!;
}

/** Properties of an object, then its children by name. */
export function listProperties(classes: ClassTable, node: TreeNode): ObjectPropertyInfoValue[] {
  const own = classes.properties(node.type).map(({ name, type }) => ({ name, type }));
  const children = [...node.children].map(([name, child]) => ({
    name,
    type: `child<${child.type}>`,
  }));
  return [...own, ...children];
}

/** The value of a property. Throws CommandError when there is none of that name. */
export function getProperty(classes: ClassTable, node: TreeNode, name: string): unknown {
  const child = node.children.get(name);
  if (child !== undefined) return child.path;
  if (!classes.properties(node.type).some((one) => one.name === name)) throw unknown(node, name);
  return name === "type" ? node.type : node.object?.get(name);
}

/** Sets a property. Throws CommandError. */
export function setProperty(
  classes: ClassTable,
  node: TreeNode,
  name: string,
  value: unknown,
): void {
  const property = classes.properties(node.type).find((one) => one.name === name);
  if (property === undefined && !node.children.has(name)) throw unknown(node, name);
  if (property?.writable === undefined || node.object?.set === undefined) {
    throw new CommandError(`Property '${node.type}.${name}' is not writable`);
  }
  const checked = visitJson(struct("q_obj_property", { [name]: property.writable }), {
    [name]: value,
  }) as Record<string, unknown>;
  node.object.set(name, checked[name]);
}

function unknown(node: TreeNode, name: string): CommandError {
  return new CommandError(`Property '${node.type}.${name}' not found`);
}
