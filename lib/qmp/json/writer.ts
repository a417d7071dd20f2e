/**
 * Writes JSON as QEMU does: ASCII only, `\uXXXX` in upper-case hex, `", "` and `": "` between things, doubles
 * with 17 significant digits.
 */
import { JsonDouble } from "./value.ts";

/** What can be written. Members that are undefined are left out. */
export type Writable = unknown;

/**
 * `value` as one line, or with `pretty` over several with 4 blanks a level; without an end of line. Numbers
 * that are integers are written as such, bigints exactly. Throws TypeError for what JSON does not have.
 *
 * Frozen objects may be at many places of a value: on one line, their text is made once.
 */
export function writeJson(value: Writable, pretty = false): string {
  const out = new Output();
  write(value, pretty ? 0 : -1, out);
  return out.parts.join("");
}

/** Text so far, and that of frozen objects. */
class Output {
  parts: string[] = [];
  readonly #frozen = new Map<object, string>();

  /** The text of a frozen object, which `write` writes. */
  shared(object: object, write: () => void): void {
    let text = this.#frozen.get(object);
    if (text === undefined) {
      const { parts } = this;
      this.parts = [];
      write();
      text = this.parts.join("");
      this.parts = parts;
      this.#frozen.set(object, text);
    }
    this.parts.push(text);
  }
}

function write(value: unknown, level: number, out: Output): void {
  switch (typeof value) {
    case "string":
      out.parts.push(quote(value));
      return;
    case "number":
      out.parts.push(
        Number.isInteger(value) && !Object.is(value, -0) ? integer(value) : double(value),
      );
      return;
    case "boolean":
    case "bigint":
      out.parts.push(String(value));
      return;
    case "object":
      if (value === null) out.parts.push("null");
      else if (value instanceof JsonDouble) out.parts.push(double(value.value));
      else if (Array.isArray(value)) writeList(value, level, out);
      else if (level < 0 && Object.isFrozen(value)) {
        out.shared(value, () => writeObject(value as Record<string, unknown>, level, out));
      } else writeObject(value as Record<string, unknown>, level, out);
      return;
    default:
      throw new TypeError(`not a JSON value: ${typeof value}`);
  }
}

function writeList(list: readonly unknown[], level: number, out: Output): void {
  const inner = level < 0 ? level : level + 1;
  out.parts.push("[");
  list.forEach((element, i) => {
    if (i > 0) out.parts.push(level < 0 ? ", " : ",");
    newline(inner, out);
    write(element, inner, out);
  });
  newline(level, out);
  out.parts.push("]");
}

function writeObject(object: Record<string, unknown>, level: number, out: Output): void {
  const inner = level < 0 ? level : level + 1;
  let first = true;
  out.parts.push("{");
  for (const key of Object.keys(object)) {
    const value = object[key];
    if (value === undefined) continue;
    if (!first) out.parts.push(level < 0 ? ", " : ",");
    first = false;
    newline(inner, out);
    out.parts.push(quote(key), ": ");
    write(value, inner, out);
  }
  newline(level, out);
  out.parts.push("}");
}

function newline(level: number, out: Output): void {
  if (level >= 0) out.parts.push("\n", "    ".repeat(level));
}

/** All but printable ASCII, and the two that stand for something else in a string. */
const needsEscape = /[^ !#-[\]-~]/;
const escapes = /[^ !#-[\]-~]/g;
const named: Readonly<Record<string, string>> = {
  '"': '\\"',
  "\\": "\\\\",
  "\b": "\\b",
  "\f": "\\f",
  "\n": "\\n",
  "\r": "\\r",
  "\t": "\\t",
};

function quote(text: string): string {
  if (!needsEscape.test(text)) return `"${text}"`;
  const escaped = text.toWellFormed().replace(
    escapes,
    (char) => named[char] ?? `\\u${char.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`,
  );
  return `"${escaped}"`;
}

function integer(value: number): string {
  return Number.isSafeInteger(value) ? String(value) : double(value);
}

/** C's %.17g. Infinities, which JSON cannot write, are a number too large for a double. */
function double(value: number): string {
  if (!Number.isFinite(value)) return value < 0 ? "-1e+999" : "1e+999";
  if (value === 0) return Object.is(value, -0) ? "-0" : "0";
  const [mantissa, exponentText] = value.toExponential(16).split("e") as [string, string];
  const exponent = Number(exponentText);
  if (exponent < -4 || exponent >= 17) {
    const sign = exponent < 0 ? "-" : "+";
    return `${trim(mantissa)}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const digits = mantissa.replace(/[-.]/g, "");
  const minus = value < 0 ? "-" : "";
  if (exponent < 0) return minus + trim(`0.${"0".repeat(-exponent - 1)}${digits}`);
  return minus + trim(`${digits.slice(0, exponent + 1)}.${digits.slice(exponent + 1)}`);
}

function trim(text: string): string {
  return text.includes(".") ? text.replace(/\.?0*$/, "") : text;
}
