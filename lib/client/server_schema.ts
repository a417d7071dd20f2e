/** What the daemon at the other end understands: its query-qmp-schema, for completion and for typing arguments. */
import { isJsonObject, type JsonObject, type JsonValue } from "../qmp/json/mod.ts";

/** A member of an object type. */
export interface MemberInfo {
  readonly name: string;
  readonly type: string;
  readonly optional: boolean;
}

/** A type, command or event of query-qmp-schema. */
type Entry = JsonObject;

const list = (value: JsonValue | undefined): JsonObject[] =>
  Array.isArray(value) ? value.filter(isJsonObject) : [];

/** How a value of a type is written. */
export type Shape =
  | { readonly kind: "string" | "int" | "number" | "boolean" | "null" | "value" }
  | { readonly kind: "enum"; readonly values: readonly string[] }
  | { readonly kind: "array"; readonly element: string }
  | { readonly kind: "object" }
  | { readonly kind: "alternate"; readonly types: readonly string[] };

const scalars = new Set(["string", "int", "number", "boolean", "null", "value"]);

/** The schema of one daemon. */
export class ServerSchema {
  readonly #entries = new Map<string, Entry>();
  readonly #commands: string[] = [];

  /** `entries`: what query-qmp-schema returned. Anything that is no schema entry is left out. */
  constructor(entries: JsonValue) {
    for (const entry of list(entries)) {
      const name = String(entry["name"]);
      this.#entries.set(name, entry);
      if (entry["meta-type"] === "command") this.#commands.push(name);
    }
    this.#commands.sort();
  }

  /** Names of commands, sorted. */
  get commands(): readonly string[] {
    return this.#commands;
  }

  /** The type of a command's arguments; undefined when there is no such command. */
  argumentsOf(command: string): string | undefined {
    const entry = this.#entries.get(command);
    return entry?.["meta-type"] === "command" ? String(entry["arg-type"]) : undefined;
  }

  /** What a type's values look like. */
  shape(type: string): Shape {
    const entry = this.#entries.get(type);
    switch (entry?.["meta-type"]) {
      case "enum": {
        const members = list(entry["members"]).map((member) => String(member["name"]));
        const values = Array.isArray(entry["values"]) ? entry["values"].map(String) : [];
        return { kind: "enum", values: members.length > 0 ? members : values };
      }
      case "array":
        return { kind: "array", element: String(entry["element-type"]) };
      case "object":
        return { kind: "object" };
      case "alternate":
        return {
          kind: "alternate",
          types: list(entry["members"]).map((member) => String(member["type"])),
        };
      default: {
        const json = String(entry?.["json-type"] ?? "value");
        return { kind: scalars.has(json) ? json as "string" : "value" };
      }
    }
  }

  /** The member of a union that chooses its variant, if the type has one. */
  tag(type: string): string | undefined {
    const tag = this.#entries.get(type)?.["tag"];
    return typeof tag === "string" ? tag : undefined;
  }

  /** The members of an object type; of a union those of the variant too, where `tagValue` is known. */
  members(type: string, tagValue?: string): MemberInfo[] {
    const entry = this.#entries.get(type);
    const own = list(entry?.["members"]).map((member) => ({
      name: String(member["name"]),
      type: String(member["type"]),
      optional: "default" in member,
    }));
    const variant = list(entry?.["variants"]).find((one) => one["case"] === tagValue);
    if (variant === undefined || tagValue === undefined) return own;
    return [...own, ...this.members(String(variant["type"]))];
  }

  /** The object among what a member takes: itself, or an alternate's. */
  objectType(type: string): string | undefined {
    const shape = this.shape(type);
    if (shape.kind === "object") return type;
    if (shape.kind !== "alternate") return undefined;
    return shape.types.find((one) => this.shape(one).kind === "object");
  }

  /** A type in words. */
  describe(type: string): string {
    const shape = this.shape(type);
    switch (shape.kind) {
      case "enum":
        return shape.values.length > 8
          ? `${shape.values.slice(0, 8).join("|")}|…`
          : shape.values.join("|");
      case "array":
        return `list of ${this.describe(shape.element)}`;
      case "alternate":
        return shape.types.map((one) => this.describe(one)).join(" or ");
      default:
        return shape.kind;
    }
  }
}
