/**
 * query-qmp-schema: all commands and events with the types that they reach, as SchemaInfo. Type names are
 * masked numbers, as in QEMU: only the built-in types' names mean something to clients.
 */
import {
  type Command,
  type Member,
  type Meta,
  type Notes,
  type Schema,
  shownValues,
} from "./core.ts";
import type { EventTable } from "./registry.ts";
import type { SchemaEntry } from "./control.ts";

/** A command as introspection wants it. */
export interface NamedCommand {
  readonly name: string;
  readonly definition: Command<unknown, unknown>;
}

/** QEMU shows every integer type as "int". */
const builtinJsonTypes: Readonly<Record<string, string>> = {
  str: "string",
  int: "int",
  number: "number",
  bool: "boolean",
  null: "null",
  any: "value",
};

const features = (notes: Notes) =>
  notes.features === undefined || notes.features.length === 0
    ? {}
    : { features: [...notes.features] };

/** Everything that the commands and events reach. */
export function introspect(
  commands: readonly NamedCommand[],
  events: EventTable,
): SchemaEntry[] {
  const types = new Types();
  const entries: SchemaEntry[] = [];
  for (const { name, definition } of commands) {
    entries.push({
      name,
      "meta-type": "command",
      "arg-type": types.nameOf(definition.arguments),
      "ret-type": types.nameOf(definition.returns),
      ...(definition.notes.allowOob ? { "allow-oob": true } : {}),
      ...features(definition.notes),
    });
  }
  for (const [name, event] of Object.entries(events)) {
    entries.push({
      name,
      "meta-type": "event",
      "arg-type": event.data === undefined ? types.emptyObject() : types.nameOf(event.data),
      ...features(event.notes),
    });
  }
  return [...entries, ...types.drain()];
}

/** Gives names to types as they are met, and describes each once. */
class Types {
  readonly #names = new Map<Meta, string>();
  readonly #arrays = new Map<string, string>();
  readonly #pending: Meta[] = [];
  readonly #entries: SchemaEntry[] = [];
  readonly #builtins = new Set<string>();
  #counter = 0;
  #empty: string | undefined;

  nameOf(schema: Schema<unknown>): string {
    const meta = schema.meta;
    if (meta.kind === "builtin" || meta.kind === "int") {
      const name = meta.kind === "int" ? "int" : meta.name;
      if (!this.#builtins.has(name)) {
        this.#builtins.add(name);
        const json = builtinJsonTypes[name];
        this.#entries.push({ name, "meta-type": "builtin", "json-type": json });
      }
      return name;
    }
    if (meta.kind === "array") return this.#arrayOf(meta.element());
    if (meta.kind === "struct" && Object.keys(meta.members).length === 0) {
      return this.emptyObject();
    }
    const known = this.#names.get(meta);
    if (known !== undefined) return known;
    const name = String(this.#counter++);
    this.#names.set(meta, name);
    this.#pending.push(meta);
    return name;
  }

  /** The type without members, which commands without arguments take. */
  emptyObject(): string {
    if (this.#empty === undefined) {
      this.#empty = String(this.#counter++);
      this.#entries.push({ name: this.#empty, "meta-type": "object", members: [] });
    }
    return this.#empty;
  }

  /** The descriptions of all types met, and of those that they reach. */
  drain(): SchemaEntry[] {
    for (let meta = this.#pending.shift(); meta !== undefined; meta = this.#pending.shift()) {
      this.#entries.push(this.#describe(meta, this.#names.get(meta)!));
    }
    return this.#entries;
  }

  #arrayOf(element: Schema<unknown>): string {
    const elementType = this.nameOf(element);
    const known = this.#arrays.get(elementType);
    if (known !== undefined) return known;
    const name = `[${elementType}]`;
    this.#arrays.set(elementType, name);
    this.#entries.push({ name, "meta-type": "array", "element-type": elementType });
    return name;
  }

  #describe(meta: Meta, name: string): SchemaEntry {
    switch (meta.kind) {
      case "enum": {
        const values = shownValues({ meta });
        return {
          name,
          "meta-type": "enum",
          members: values.map((value) => ({ name: value, ...features(meta.notes[value] ?? {}) })),
          values,
        };
      }
      case "alternate":
        return {
          name,
          "meta-type": "alternate",
          members: Object.values(meta.alternatives).map((type) => ({ type: this.nameOf(type()) })),
        };
      case "struct":
        return {
          name,
          "meta-type": "object",
          members: this.#members(meta.members),
          ...features(meta.notes),
        };
      case "union":
        return {
          name,
          "meta-type": "object",
          members: this.#members(meta.members),
          tag: meta.tag,
          variants: this.#variants(meta),
          ...features(meta.notes),
        };
      default:
        throw new TypeError(`${meta.kind} is not described by itself`);
    }
  }

  #members(members: Readonly<Record<string, Member<unknown, boolean>>>): SchemaEntry[] {
    const listed = Object.entries(members).filter(([, { notes }]) => notes.hidden !== true);
    return listed.map(([name, member]) => ({
      name,
      type: this.nameOf(member.type()),
      ...(member.optional ? { default: null } : {}),
      ...features(member.notes),
    }));
  }

  /** Every value of the tag has a variant; those without members of their own share the empty object. */
  #variants(meta: Extract<Meta, { kind: "union" }>): SchemaEntry[] {
    const values = shownValues(meta.members[meta.tag]!.type());
    return values.map((value) => ({
      case: value,
      type: Object.hasOwn(meta.branches, value)
        ? this.nameOf(meta.branches[value]!)
        : this.emptyObject(),
    }));
  }
}
