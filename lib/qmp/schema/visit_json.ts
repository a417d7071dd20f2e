/** The strict validator: JSON values must have the schema's types. */
import { CommandError } from "../../base/mod.ts";
import { isJsonObject, JsonDouble } from "../json/mod.ts";
import type { Infer, Schema } from "./core.ts";
import {
  type AlternativeKind,
  checkEnum,
  checkInteger,
  type Input,
  type Path,
  pathText,
  type ScalarMeta,
  visit,
  wrongType,
} from "./visitor.ts";

const isInteger = (value: unknown): value is number | bigint =>
  typeof value === "bigint" || Number.isInteger(value);

const jsonInput: Input = {
  object: (value) => isJsonObject(value) ? value : undefined,
  list: (value) => Array.isArray(value) ? value : undefined,
  index: (index) => `[${index}]`,
  scalar,
  kind(value): AlternativeKind {
    if (value === null) return "null";
    if (Array.isArray(value)) return "array";
    if (isInteger(value)) return "integer";
    switch (typeof value) {
      case "boolean":
      case "string":
        return typeof value as "boolean" | "string";
      case "number":
        return "double";
      default:
        return value instanceof JsonDouble ? "double" : "object";
    }
  },
};

function scalar(meta: ScalarMeta, value: unknown, path: Path): unknown {
  const mismatch = (expected: string) => wrongType(pathText(path, jsonInput), expected);
  if (meta.kind === "enum") {
    if (typeof value !== "string") throw mismatch("string");
    return checkEnum(meta, value, path);
  }
  if (meta.kind === "int") {
    const unsigned = meta.range.min === 0n;
    const fits = isInteger(value) && (unsigned || value < 2n ** 63n);
    if (fits) return checkInteger(meta, value, path, jsonInput);
    if (!unsigned) throw mismatch("integer");
    throw new CommandError(`Parameter '${pathText(path, jsonInput)}' expects uint64`);
  }
  switch (meta.name) {
    case "str":
      if (typeof value !== "string") throw mismatch("string");
      return value;
    case "bool":
      if (typeof value !== "boolean") throw mismatch("boolean");
      return value;
    case "null":
      if (value !== null) throw mismatch("null");
      return value;
    case "number":
      if (value instanceof JsonDouble) return value.value;
      if (typeof value !== "number" && typeof value !== "bigint") throw mismatch("number");
      return Number(value);
    default:
      return value;
  }
}

/** Checks a JSON value (from JsonReader) against `schema`; throws CommandError with QEMU's text. */
export function visitJson<S extends Schema<unknown>>(schema: S, value: unknown): Infer<S> {
  return visit(schema, value, jsonInput);
}
