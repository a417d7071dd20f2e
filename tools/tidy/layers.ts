/** Which folder may import which: the one way that imports point (docs/architecture.md). */

/** Folders by name, lowest first, each with those it may import. A folder may always import itself. */
export const layers: Readonly<Record<string, readonly string[]>> = {
  base: [],
  sys: ["base"],
  "qmp/json": ["base"],
  "qmp/schema": ["base", "qmp/json"],
  observe: ["base", "sys", "qmp/schema"],
  block: ["base", "sys", "qmp/schema", "observe"],
  "block/drivers": ["base", "sys", "qmp/schema", "observe", "block"],
  thread: ["base", "sys", "qmp/schema", "observe", "block", "qom"],
  export: ["base", "sys", "qmp/schema", "observe", "block", "thread"],
  nbd: ["base", "sys", "qmp/schema", "observe", "block", "thread", "export"],
  vhost: ["base", "sys", "qmp/schema", "observe", "block", "thread", "export"],
  qom: ["base", "sys", "qmp/schema", "observe", "block"],
  chardev: ["base", "sys", "qmp/json", "qmp/schema", "observe", "qom"],
  qmp: [
    "base",
    "sys",
    "qmp/json",
    "qmp/schema",
    "observe",
    "block",
    "export",
    "nbd",
    "qom",
    "chardev",
  ],
  cli: ["base", "sys", "qmp/json", "qmp/schema", "observe", "qom", "chardev", "qmp"],
  image: [
    "base",
    "sys",
    "qmp/json",
    "qmp/schema",
    "observe",
    "block",
    "block/drivers",
    "qom",
    "cli",
  ],
  client: ["base", "sys", "qmp/json", "qmp/schema"],
  daemon: [
    "base",
    "sys",
    "qmp/json",
    "qmp/schema",
    "observe",
    "block",
    "block/drivers",
    "thread",
    "export",
    "nbd",
    "vhost",
    "qom",
    "chardev",
    "qmp",
    "cli",
  ],
};

const byLength = Object.keys(layers).sort((a, b) => b.length - a.length);

/** The folder that a path (relative to the project) belongs to; undefined outside lib. */
export function layerOf(path: string): string | undefined {
  return byLength.find((name) => path.startsWith(`lib/${name}/`));
}

/** Whether a path is a pure wire codec: it imports nothing but base and other codecs. */
export function isCodec(path: string): boolean {
  return /^lib\/[^/]+\/(wire|codec)(_[a-z_]+)?\.ts$/.test(path) ||
    /^lib\/[^/]+\/(wire|codec)\//.test(path);
}

/** The driver that a path belongs to (its folder, or its file); undefined for the registry and outside. */
export function driverOf(path: string): string | undefined {
  const name = /^lib\/block\/drivers\/([^/]+)/.exec(path)?.[1];
  return name === undefined || name === "mod.ts" ? undefined : name.replace(/(_test)?\.ts$/, "");
}
