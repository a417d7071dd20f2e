/** File names as images and people write them: protocol prefixes, relative names, `json:`. Pure. */

/** What starts a name that is options as JSON. */
export const JSON_PREFIX = "json:";

/** The protocol that `name` begins with ("nbd" of "nbd://..."), if it does: a colon before any slash. */
export function protocolOf(name: string): string | undefined {
  const end = name.search(/[:/]/);
  return end >= 0 && name[end] === ":" ? name.slice(0, end) : undefined;
}

/** `name` without the "file:" that stands for a plain file. */
export function withoutFilePrefix(name: string): string {
  return name.startsWith("file:") ? name.slice("file:".length) : name;
}

/** The directory part of `name` with its slash (or with its protocol's colon); empty for a bare name. */
export function directoryOf(name: string): string {
  const slash = name.lastIndexOf("/") + 1;
  const protocol = protocolOf(name);
  return name.slice(0, Math.max(slash, protocol === undefined ? 0 : protocol.length + 1));
}

/** A name that an image in `directory` gives, as seen from here. Absolute ones and protocols stay as they are. */
export function resolveName(directory: string, name: string): string {
  return name.startsWith("/") || protocolOf(name) !== undefined ? name : directory + name;
}

/**
 * Options whose names have dots, as in `{"file.filename": ...}`, as nested objects. undefined where a name is both
 * a value and an object.
 */
export function nested(
  flat: Readonly<Record<string, unknown>>,
): Record<string, unknown> | undefined {
  const result: Record<string, unknown> = Object.create(null);
  for (const [path, value] of Object.entries(flat)) {
    const steps = path.split(".");
    const last = steps.pop()!;
    let at = result;
    for (const step of steps) {
      const below = at[step] ??= Object.create(null);
      if (typeof below !== "object" || below === null || Array.isArray(below)) return undefined;
      at = below as Record<string, unknown>;
    }
    const inner = isObject(value) ? nested(value) : value;
    const there = at[last];
    if (there === undefined) at[last] = inner;
    else if (isObject(there) && isObject(inner)) Object.assign(there, inner);
    else return undefined;
  }
  return result;
}

/** Whether `value` is a JSON object. */
export function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
