/**
 * Validation of input against a schema, in QEMU's visiting order and with its texts: base
 * members, members, the union's branch, in the order written; then what is left over is unexpected. Two
 * kinds of input share it: JSON (types must match) and keyval (leaves are strings, converted by the schema).
 */
import { CommandError } from "../../base/mod.ts";
import type { Infer, Member, Meta, Schema } from "./core.ts";

/** How one kind of input is read: what differs between JSON and keyval. */
export interface Input {
  /** The members of an object, or undefined when it is none. Without a prototype, or with own members only. */
  object(value: unknown): Readonly<Record<string, unknown>> | undefined;
  /** The elements of a list, or undefined when it is none. */
  list(value: unknown): readonly unknown[] | undefined;
  /** Converts a leaf or throws. */
  scalar(meta: ScalarMeta, value: unknown, path: Path): unknown;
  /** Which alternative takes the value: by the names of `alternativeKind`. */
  kind(value: unknown): AlternativeKind;
  /** How an element of a list is written in a path. */
  index(index: number): string;
}

/** Types without parts. */
export type ScalarMeta = Extract<Meta, { kind: "builtin" | "int" | "enum" }>;
/** JSON types, as alternates tell them apart. */
export type AlternativeKind =
  | "object"
  | "array"
  | "string"
  | "integer"
  | "double"
  | "boolean"
  | "null";

/** Where a value lies; made into text only for a message. */
export interface Path {
  readonly parent: Path | undefined;
  /** A member's name or a list element's index; undefined for the root. */
  readonly step: string | number | undefined;
}

/** The whole path, as messages show it. */
export function pathText(path: Path, input: Input): string {
  let text = "";
  for (let at: Path | undefined = path; at !== undefined; at = at.parent) {
    if (at.step === undefined) continue;
    const step = typeof at.step === "number" ? input.index(at.step) : `.${at.step}`;
    text = step + text;
  }
  return text === "" ? "<anonymous>" : text.replace(/^\./, "");
}

/** The bare name of a member, as some messages show it; list elements are called null. */
function bareName(path: Path): string {
  return typeof path.step === "string" ? path.step : "null";
}

/** The error of a value of the wrong type. */
export function wrongType(name: string, expected: string): CommandError {
  return new CommandError(`Invalid parameter type for '${name}', expected: ${expected}`);
}

/** Checks `value` and converts it to the schema's static type. Throws CommandError. */
export function visit<S extends Schema<unknown>>(
  schema: S,
  value: unknown,
  input: Input,
): Infer<S> {
  return visitType(schema, value, { parent: undefined, step: undefined }, input) as Infer<S>;
}

function visitType(
  schema: Schema<unknown>,
  value: unknown,
  path: Path,
  input: Input,
): unknown {
  const meta = schema.meta;
  switch (meta.kind) {
    case "array": {
      const list = input.list(value);
      if (list === undefined) throw wrongType(pathText(path, input), "array");
      const element = meta.element();
      return list.map((each, i) => visitType(element, each, { parent: path, step: i }, input));
    }
    case "struct":
    case "union":
      return visitObject(meta, value, path, input);
    case "alternate":
      return visitAlternate(meta, value, path, input);
    default:
      return input.scalar(meta, value, path);
  }
}

type ObjectMeta = Extract<Meta, { kind: "struct" | "union" }>;

function visitObject(meta: ObjectMeta, value: unknown, path: Path, input: Input): unknown {
  const given = input.object(value);
  if (given === undefined) throw wrongType(pathText(path, input), "object");
  const result: Record<string, unknown> = {};
  const seen = new Set<string>();
  visitMembers(meta, given, result, seen, path, input);
  for (const name of Object.keys(given)) {
    if (seen.has(name)) continue;
    const where = pathText({ parent: path, step: name }, input);
    throw new CommandError(`Parameter '${where}' is unexpected`);
  }
  return result;
}

/** Visits members into `result`; a union's branch (itself perhaps a union) lies flat beside them. */
function visitMembers(
  meta: ObjectMeta,
  given: Readonly<Record<string, unknown>>,
  result: Record<string, unknown>,
  seen: Set<string>,
  path: Path,
  input: Input,
): void {
  for (const name of Object.keys(meta.members)) {
    const member = meta.members[name] as Member<unknown, boolean>;
    const here: Path = { parent: path, step: name };
    seen.add(name);
    if (!Object.hasOwn(given, name)) {
      if (member.optional) continue;
      throw new CommandError(`Parameter '${pathText(here, input)}' is missing`);
    }
    result[name] = visitType(member.type(), given[name], here, input);
  }
  if (meta.kind !== "union") return;
  const branch = branchOf(meta, result[meta.tag]);
  if (branch !== undefined) visitMembers(branch, given, result, seen, path, input);
}

/** The members that a tag's value adds. */
function branchOf(
  meta: Extract<Meta, { kind: "union" }>,
  tag: unknown,
): ObjectMeta | undefined {
  if (typeof tag !== "string" || !Object.hasOwn(meta.branches, tag)) return undefined;
  const branch = meta.branches[tag]!.meta;
  return branch.kind === "struct" || branch.kind === "union" ? branch : undefined;
}

/** The JSON type by which an alternate knows one of its alternatives. */
function alternativeKind(schema: Schema<unknown>): AlternativeKind {
  const meta = schema.meta;
  switch (meta.kind) {
    case "struct":
    case "union":
      return "object";
    case "array":
      return "array";
    case "enum":
      return "string";
    case "int":
      return "integer";
    case "builtin":
      if (meta.name === "bool") return "boolean";
      if (meta.name === "number") return "double";
      return meta.name === "null" ? "null" : "string";
    default:
      return "object";
  }
}

function visitAlternate(
  meta: Extract<Meta, { kind: "alternate" }>,
  value: unknown,
  path: Path,
  input: Input,
): unknown {
  const kind = input.kind(value);
  for (const alternative of Object.values(meta.alternatives)) {
    const schema = alternative();
    const takes = alternativeKind(schema);
    if (takes === kind || (takes === "double" && kind === "integer")) {
      return visitType(schema, value, path, input);
    }
  }
  throw wrongType(bareName(path), meta.name);
}

/**
 * Checks an integer that has been read exactly against the type's range and, unless the type is an exact one,
 * against what a number holds. Negative numbers wrap around in 64-bit unsigned types, as in QEMU. `path` names
 * it in messages.
 */
export function checkInteger(
  meta: Extract<Meta, { kind: "int" }>,
  value: bigint | number,
  path: Path,
  input: Input,
): number | bigint {
  const { min, max, expects } = meta.range;
  if (expects === "integer" || expects === "uint64" || expects === "size") {
    const safe = Number(value);
    if (Number.isSafeInteger(safe) && (min < 0n || safe >= 0)) return safe;
    if (meta.exact) return min < 0n ? BigInt(value) : BigInt.asUintN(64, BigInt(value));
    const limit = Number.MAX_SAFE_INTEGER;
    const range = min < 0n ? `between -${limit} and ${limit}` : `between 0 and ${limit}`;
    throw new CommandError(`Parameter '${pathText(path, input)}' expects a value ${range}`);
  }
  if (value < min || value > max) {
    throw new CommandError(`Parameter '${bareName(path)}' expects ${expects}`);
  }
  return Number(value);
}

/** Checks a word against an enumeration. */
export function checkEnum(
  meta: Extract<Meta, { kind: "enum" }>,
  value: string,
  path: Path,
): string {
  if (meta.values.includes(value)) return value;
  if (meta.absent?.values.includes(value)) throw new CommandError(meta.absent.message(value));
  throw new CommandError(`Parameter '${bareName(path)}' does not accept value '${value}'`);
}
