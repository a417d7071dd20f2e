/**
 * The configuration file of --config: the definitions that the options make, in order, as YAML or JSON (which is
 * YAML too). Every message says `FILE:LINE`.
 */
import { CommandError } from "../base/mod.ts";
import {
  JsonDouble,
  type JsonObject,
  jsonObject,
  type JsonValue,
  writeJson,
} from "../qmp/json/mod.ts";
import { BlockdevOptions } from "../qmp/schema/blockdev.ts";
import type { Schema } from "../qmp/schema/core.ts";
import { BlockExportOptions, NbdServerOptions } from "../qmp/schema/export.ts";
import { MonitorOptions } from "../qmp/schema/monitor.ts";
import { ObjectOptions } from "../qmp/schema/qom.ts";
import { visitJson } from "../qmp/schema/visit_json.ts";
import { errnoText, O, type Sys } from "../sys/mod.ts";

/** What can be defined; named as the options. */
export type Kind = "object" | "chardev" | "blockdev" | "nbd-server" | "export" | "monitor";

/** One definition. */
export interface Definition {
  readonly kind: Kind;
  /** As the daemon's other parts take it: validated; of a chardev the members as text. */
  readonly value: Readonly<Record<string, unknown>>;
  /** `kind:name`: two definitions of one key are the same thing. */
  readonly key: string;
  /** `FILE:LINE`. */
  readonly where: string;
  /** Equal texts: equal definitions. */
  readonly text: string;
}

/** Schema of each kind, and the member that names a thing; a server has none. */
const kinds: Readonly<Record<Kind, { schema: Schema<unknown> | undefined; name: string[] }>> = {
  object: { schema: ObjectOptions, name: ["id"] },
  chardev: { schema: undefined, name: ["id"] },
  blockdev: { schema: BlockdevOptions, name: ["node-name"] },
  "nbd-server": { schema: NbdServerOptions, name: [] },
  export: { schema: BlockExportOptions, name: ["id"] },
  monitor: { schema: MonitorOptions, name: ["id", "chardev"] },
};

/** Most bytes of a file; most levels of nesting; most places where an alias may stand. */
const MAX_FILE = 4 << 20;
const MAX_DEPTH = 64;
const MAX_ALIASES = 1000;

/** The definitions of a file, in order. Throws CommandError; nothing is made. */
export async function readConfig(sys: Sys, path: string): Promise<Definition[]> {
  return await parseConfig(path, readText(sys, path));
}

function readText(sys: Sys, path: string): string {
  const fd = sys.open(path, O.RDONLY | O.CLOEXEC | O.NONBLOCK);
  if (fd < 0) throw new CommandError(`Could not open '${path}': ${errnoText(-fd)}`);
  const memory = sys.allocate(MAX_FILE + 1);
  try {
    let length = 0;
    for (;;) {
      const got = sys.read(fd, memory.address + length, MAX_FILE + 1 - length);
      if (got < 0) throw new CommandError(`Could not read '${path}': ${errnoText(-got)}`);
      if (got === 0) break;
      length += got;
      if (length > MAX_FILE) throw new CommandError(`'${path}' has more than ${MAX_FILE} bytes`);
    }
    return new TextDecoder().decode(memory.bytes.slice(0, length));
  } finally {
    memory.unmap();
    sys.close(fd);
  }
}

/** The definitions in `text`; `path` is for messages. */
export async function parseConfig(path: string, text: string): Promise<Definition[]> {
  // Only who has such a file pays for the parser.
  const yaml = await import("yaml");
  const counter = new yaml.LineCounter();
  const document = yaml.parseDocument(text, {
    intAsBigInt: true,
    lineCounter: counter,
    prettyErrors: false,
    logLevel: "silent",
  });
  const lineOf = (offset: number) => counter.linePos(offset).line;
  const [problem] = [...document.errors, ...document.warnings];
  if (problem !== undefined) {
    throw new CommandError(`${path}:${lineOf(problem.pos[0])}: ${problem.message}`);
  }
  const lines = new Map<string, number>();
  const reader = new Reader(yaml, document, lineOf, path, lines);
  const value = reader.value(document.contents, "", 0);
  if (value === null) return [];
  if (!Array.isArray(value)) throw new CommandError(`${path}:1: expected a list of definitions`);
  const found = value.map((item, i) => definition(path, item, `[${i}]`, lines));
  const first = new Map<string, Definition>();
  for (const one of found) {
    const earlier = first.get(one.key);
    if (earlier !== undefined) {
      throw new CommandError(`${one.where}: ${one.key} is defined at ${earlier.where} already`);
    }
    first.set(one.key, one);
  }
  return found;
}

type Yaml = typeof import("yaml");

/** Makes JSON of YAML's nodes, and notes on which line each stands. */
class Reader {
  #aliases = 0;

  constructor(
    private readonly yaml: Yaml,
    private readonly document: ReturnType<Yaml["parseDocument"]>,
    private readonly lineOf: (offset: number) => number,
    private readonly path: string,
    private readonly lines: Map<string, number>,
  ) {}

  value(node: unknown, at: string, depth: number): JsonValue {
    const { yaml } = this;
    if (node === null || node === undefined) return null;
    if (yaml.isNode(node) && node.range && !this.lines.has(at)) {
      this.lines.set(at, this.lineOf(node.range[0]));
    }
    if (depth > MAX_DEPTH) throw this.problem(at, `more than ${MAX_DEPTH} levels`);
    if (yaml.isAlias(node)) {
      if (++this.#aliases > MAX_ALIASES) throw this.problem(at, "too many aliases");
      return this.value(node.resolve(this.document), at, depth + 1);
    }
    if (yaml.isSeq(node)) {
      return node.items.map((item, i) => this.value(item, `${at}[${i}]`, depth + 1));
    }
    if (yaml.isMap(node)) return this.map(node, at, depth);
    return this.scalar(yaml.isScalar(node) ? node.value : undefined, at);
  }

  private map(node: InstanceType<Yaml["YAMLMap"]>, at: string, depth: number): JsonObject {
    const object = jsonObject();
    for (const { key, value } of node.items) {
      const name = this.yaml.isScalar(key) ? String(key.value) : "";
      const inner = at === "" ? name : `${at}.${name}`;
      if (this.yaml.isScalar(key) && key.range) this.lines.set(inner, this.lineOf(key.range[0]));
      object[name] = this.value(value, inner, depth + 1);
    }
    return object;
  }

  private scalar(value: unknown, at: string): JsonValue {
    switch (typeof value) {
      case "bigint": {
        const plain = Number(value);
        if (Number.isSafeInteger(plain)) return plain;
        if (value >= -(2n ** 63n) && value < 2n ** 64n) return value;
        throw this.problem(at, "the number is too large");
      }
      case "number":
        return new JsonDouble(value);
      case "string":
      case "boolean":
        return value;
      default:
        if (value === null) return null;
        throw this.problem(at, "neither text, number, true nor false");
    }
  }

  private problem(at: string, what: string): CommandError {
    return new CommandError(`${this.path}:${this.lines.get(at) ?? 1}: ${what}`);
  }
}

/** Text in quotes in the validator's messages: the path of a member. */
const quotedPath = /'([^']+)'/;

function definition(
  path: string,
  item: JsonValue,
  at: string,
  lines: ReadonlyMap<string, number>,
): Definition {
  const line = lines.get(at) ?? 1;
  const entries = plain(item) ? Object.entries(item) : [];
  const [kind, content] = entries[0] ?? [];
  if (entries.length !== 1 || kind === undefined || !Object.hasOwn(kinds, kind)) {
    const known = Object.keys(kinds).join(", ");
    throw new CommandError(`${path}:${line}: expected one of ${known}, with its members below`);
  }
  const prefix = `${at}.${kind}`;
  try {
    return checked(kind as Kind, content!, `${path}:${lines.get(prefix) ?? line}`);
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    // The line of the member that the message names, or of the nearest one around it.
    let member = quotedPath.exec(error.message)?.[1] ?? "";
    while (member !== "" && !lines.has(`${prefix}.${member}`)) {
      member = member.replace(/(^|\.|\[)[^.[]*$/, "");
    }
    const where = lines.get(member === "" ? prefix : `${prefix}.${member}`) ?? line;
    throw new CommandError(
      `${path}:${where}: ${kind}: ${error.message}`,
      "GenericError",
      error.hints,
    );
  }
}

function plain(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value) &&
    !(value instanceof JsonDouble);
}

function checked(kind: Kind, content: JsonValue, where: string): Definition {
  if (!plain(content)) throw new CommandError("expected members");
  const { schema, name } = kinds[kind];
  const value = schema === undefined
    ? flat(content)
    : visitJson(schema, content) as Record<string, unknown>;
  const own = name.map((member) => value[member]).find((one) => typeof one === "string");
  if (name.length > 0 && own === undefined) {
    throw new CommandError(`Parameter '${name[0]}' is missing`);
  }
  const key = own === undefined ? kind : `${kind}:${own}`;
  return { kind, value, key, where, text: writeJson(content) };
}

/** A character device's members as the text that --chardev takes. */
function flat(content: JsonObject): Record<string, string> {
  return Object.fromEntries(
    Object.entries(content).map(([key, value]) => {
      if (typeof value === "boolean") return [key, value ? "on" : "off"];
      if (typeof value === "string") return [key, value];
      if (typeof value === "number" || typeof value === "bigint") return [key, String(value)];
      throw new CommandError(`Parameter '${key}' expects text, a number, true or false`);
    }),
  );
}
