/** The command line's validator: leaves are strings, converted to what the schema asks for. */
import { CommandError } from "../../base/mod.ts";
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
} from "./visitor.ts";

/** What keyval input is made of: strings, lists and objects of them (lib/cli/keyval.ts builds it). */
export type KeyvalValue = string | KeyvalValue[] | { [key: string]: KeyvalValue };

const keyvalInput: Input = {
  object: (value) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? value as Record<string, unknown>
      : undefined,
  list: (value) => Array.isArray(value) ? value : undefined,
  index: (index) => `.${index}`,
  scalar,
  kind: (value): AlternativeKind =>
    typeof value === "string" ? "string" : Array.isArray(value) ? "array" : "object",
};

function scalar(meta: ScalarMeta, value: unknown, path: Path): unknown {
  if (meta.kind === "builtin" && meta.name === "any") return value;
  const where = () => pathText(path, keyvalInput);
  if (typeof value !== "string") {
    throw new CommandError(`Parameters '${where()}.*' are unexpected`);
  }
  const expects = (what: string, hints: readonly string[] = []) =>
    new CommandError(`Parameter '${where()}' expects ${what}`, "GenericError", hints);
  if (meta.kind === "enum") return checkEnum(meta, value, path);
  if (meta.kind === "int") {
    const exact = meta.size ? parseSize(value) : parseInteger(value);
    const unsigned = meta.range.min === 0n;
    if (exact !== undefined && exact < (unsigned ? 2n ** 64n : 2n ** 63n)) {
      return checkInteger(meta, exact, path, keyvalInput);
    }
    throw expects(meta.size ? "size" : "integer", meta.size ? sizeHints : []);
  }
  switch (meta.name) {
    case "bool": {
      const bool = parseBool(value);
      if (bool === undefined) throw expects("'on' or 'off'");
      return bool;
    }
    case "number": {
      const number = value.trim() === "" ? NaN : Number(value);
      if (!Number.isFinite(number)) throw expects("number");
      return number;
    }
    case "null":
      if (value !== "") throw expects("null");
      return null;
    default:
      return value;
  }
}

const sizeHints = [
  "You may use k, M, G, T, P or E suffixes for kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.",
];

/** on, yes, true, y; off, no, false, n. */
export function parseBool(text: string): boolean | undefined {
  if (text === "on" || text === "yes" || text === "true" || text === "y") return true;
  if (text === "off" || text === "no" || text === "false" || text === "n") return false;
  return undefined;
}

const integerText = /^\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)$/;

/** An integer with C's base prefixes (0x, 0), exactly, at least -2^63; undefined when it is none. */
export function parseInteger(text: string): bigint | undefined {
  const match = integerText.exec(text);
  if (match === null || text.length > 100) return undefined;
  const digits = match[2]!;
  const octal = digits.length > 1 && digits[0] === "0" && !/[xX]/.test(digits);
  const magnitude = BigInt(octal ? `0o${digits.slice(1)}` : digits);
  const value = match[1] === "-" ? -magnitude : magnitude;
  return value >= -(2n ** 63n) ? value : undefined;
}

const sizeText = /^\s*(?:(0[xX][0-9a-fA-F]+)|(\d+)(\.\d*)?|(\.\d+))([bBkKmMgGtTpPeE]?)$/;
const unitShift: Readonly<Record<string, bigint>> = {
  "": 0n,
  b: 0n,
  k: 10n,
  m: 20n,
  g: 30n,
  t: 40n,
  p: 50n,
  e: 60n,
};

/** A byte count with an optional suffix (powers of 1024), fractions allowed; undefined when it is none. */
export function parseSize(text: string): bigint | undefined {
  const match = sizeText.exec(text);
  if (match === null || text.length > 100) return undefined;
  const shift = unitShift[match[5]!.toLowerCase()]!;
  const whole = BigInt(match[1] ?? match[2] ?? "0") << shift;
  const fraction = match[3] ?? match[4] ?? "";
  if (fraction.length <= 1) return whole;
  // A fraction of a byte is refused, as in the original; other fractions are cut off at whole bytes.
  const digits = fraction.slice(1);
  if (shift === 0n && /[1-9]/.test(digits)) return undefined;
  return whole + (BigInt(digits) << shift) / 10n ** BigInt(digits.length);
}

/** Checks keyval input against `schema`; throws CommandError with QEMU's text. */
export function visitKeyval<S extends Schema<unknown>>(schema: S, value: KeyvalValue): Infer<S> {
  return visit(schema, value, keyvalInput);
}
