/** Takes out of a transcript what may rightly differ between two runs of the same program. */

/** Members whose values are clocks. */
const CLOCKS = /^(timestamp|idle_time_ns|.*_time_ns|interval_length|date-n?sec)$/;

/** Replaces clocks, versions, generated node names and the test's folder in a JSON value. */
export function normalise(value: unknown, folder: string): unknown {
  const names = new Map<string, string>();
  const text = (from: string): string =>
    normaliseText(from, folder).replace(/#block\d+/g, (name) => {
      if (!names.has(name)) names.set(name, `#block<${names.size}>`);
      return names.get(name)!;
    });
  const visit = (part: unknown): unknown => {
    if (typeof part === "string") return text(part);
    if (Array.isArray(part)) return part.map(visit);
    if (typeof part !== "object" || part === null) return part;
    return Object.fromEntries(
      Object.entries(part).filter(([key]) => !isNewer(key, part)).map(([key, inner]) => {
        if (CLOCKS.test(key)) return [key, "<time>"];
        if (key === "QMP") return [key, greeting(inner)];
        return [key, visit(inner)];
      }),
    );
  };
  return visit(value);
}

/** Members of nodes and images that newer QEMU has and 7.2 has not. */
function isNewer(key: string, of: object): boolean {
  return (key === "children" || key === "active") && "drv" in of ||
    key === "limits" && "virtual-size" in of;
}

/** The same for text. */
export function normaliseText(text: string, folder: string): string {
  return text.replaceAll(folder, "<folder>");
}

/** A greeting without its version, which qsd is free to choose. */
function greeting(inner: unknown): unknown {
  const { version, ...rest } = inner as { version: { qemu: Record<string, unknown> } };
  const shape = Object.keys(version.qemu).sort();
  return { ...rest, version: { members: Object.keys(version).sort(), qemu: shape } };
}
