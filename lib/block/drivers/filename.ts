/** File names that QEMU makes up for nodes whose options a plain name cannot express: `json:{...}`. */
import { CommandError } from "../../base/mod.ts";

/** Options as text, with QEMU's blanks; undefined members are left out. */
function text(value: unknown): string {
  if (typeof value === "bigint") return String(value);
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  return `{${members.map(([name, member]) => `"${name}": ${text(member)}`).join(", ")}}`;
}

/** The `json:` name of a node with these options, in this order. */
export function jsonFilename(options: Readonly<Record<string, unknown>>): string {
  return `json:${text(options)}`;
}

/** The options that a protocol node's name stands for, to nest it in a parent's name. */
export function optionsOfName(driver: string, filename: string): Record<string, unknown> {
  return filename === `${driver}://` ? { driver } : { driver, filename };
}

/** Refuses a negative size or offset; these are signed in the schema. `value` in bytes. */
export function refuseNegative(option: string, value: number | bigint | undefined): void {
  if (value === undefined || value >= 0) return;
  throw new CommandError(
    `Parameter '${option}' expects a non-negative number below 2^64`,
    "GenericError",
    [
      "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
      "and exabytes, respectively.",
    ],
  );
}
