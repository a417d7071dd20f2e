/** Text on a terminal: columns, sizes and times in human units, tables. Pure. */
import { isJsonObject, type JsonValue, writeJson } from "../qmp/json/mod.ts";

/** What East Asian terminals show two columns wide, and emoji. */
const wide =
  /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}]/u;
const combining = /\p{Mn}|\p{Me}|\p{Cf}/u;

/** Columns that one character takes. */
export function charColumns(char: string): number {
  if (combining.test(char)) return 0;
  return wide.test(char) ? 2 : 1;
}

/** Columns that `text` takes; it has no control characters. */
export function columns(text: string): number {
  let sum = 0;
  for (const char of text) sum += charColumns(char);
  return sum;
}

/** `text` cut to at most `width` columns, with an ellipsis where something was cut. */
export function clip(text: string, width: number): string {
  if (columns(text) <= width) return text;
  let used = 0;
  let kept = "";
  for (const char of text) {
    used += charColumns(char);
    if (used > width - 1) break;
    kept += char;
  }
  return width > 0 ? `${kept}…` : "";
}

/** `text` filled up with blanks to `width` columns. */
export function pad(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - columns(text)));
}

/** Text from elsewhere made harmless: control characters, which could steer the terminal, are shown as such. */
export function harmless(text: string): string {
  return text.replace(
    /\p{Cc}/gu,
    (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, "0")}`,
  );
}

const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** A byte count as people read it: exact below 1024, else with three or four digits. */
export function humanSize(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const text = unit === 0 || Number.isInteger(value)
    ? String(value)
    : value.toFixed(value < 100 ? 2 : 1).replace(/\.?0+$/, "");
  return `${text} ${units[unit]}`;
}

/** Seconds as people read them: `850 ms`, `12.3 s`, `4 min 05 s`, `3 h 20 min`, `5 d 3 h`. */
export function humanTime(seconds: number): string {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
}

/** Rows with their columns aligned (the last one is not filled up); two blanks between. */
export function table(rows: readonly (readonly string[])[]): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, columns(cell)));
  }
  return rows.map((row) =>
    row.map((cell, i) => i === row.length - 1 ? cell : pad(cell, widths[i]!)).join("  ").trimEnd()
  );
}

/** Words in as many columns as fit, read downwards. */
export function inColumns(words: readonly string[], width: number): string[] {
  const cell = Math.max(...words.map(columns)) + 2;
  const across = Math.max(1, Math.floor((width + 2) / cell));
  const rows = Math.ceil(words.length / across);
  return Array.from(
    { length: rows },
    (_, row) =>
      words.filter((_, i) => i % rows === row).map((word) => pad(word, cell)).join("").trimEnd(),
  );
}

/**
 * JSON that people can read, and programs too: what fits stands on one line, members of an object that does not
 * fit are aligned.
 */
export function readableJson(value: JsonValue, width: number, indent = 0): string {
  const line = writeJson(value);
  if (indent + line.length <= width) return line;
  const inner = indent + 2;
  const margin = " ".repeat(inner);
  const close = " ".repeat(indent);
  if (Array.isArray(value)) {
    const elements = value.map((element) => margin + readableJson(element, width, inner));
    return `[\n${elements.join(",\n")}\n${close}]`;
  }
  if (!isJsonObject(value)) return line;
  const keys = Object.keys(value).map((key) => [key, writeJson(key)] as const);
  const longest = Math.max(...keys.map(([, text]) => text.length));
  const members = keys.map(([key, text]) => {
    const label = `${text}: ${" ".repeat(longest - text.length)}`;
    const member = value[key]!;
    const scalar = typeof member !== "object" || member === null;
    const fits = scalar || inner + label.length + writeJson(member).length <= width;
    return margin + (fits ? label : `${text}: `) +
      readableJson(member, fits ? Infinity : width, inner);
  });
  return `{\n${members.join(",\n")}\n${close}}`;
}
