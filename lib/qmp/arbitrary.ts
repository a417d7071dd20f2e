/** For fuzzers: values made from a schema that mostly fit it, and in places do not. Seeded; no state. */
import type { Pick } from "../base/mod.ts";
import type { Meta, Schema } from "./schema/core.ts";

/** What to write where a word or a number is wanted; `member` is the innermost member's name. */
export interface Taste {
  text(member: string, pick: Pick): string;
  integer(member: string, pick: Pick): number | bigint;
  /** Which words of an enumeration may be used. */
  words(member: string, values: readonly string[]): readonly string[];
}

/** Any word, and integers at the limits. */
const plainTaste: Taste = {
  text: () => "text",
  integer: (_member, pick) => [0, 1, -1, 65536, 2n ** 63n, -(2n ** 63n), 2n ** 64n - 1n][pick(7)]!,
  words: (_member, values) => values,
};

/** Values of other types than any that is wanted, nested too. */
export function wild(pick: Pick, depth = 0): unknown {
  const leaves = [null, true, "x", "", 0, -1, 1.5, 2n ** 64n - 1n, "a\0b", [], {}];
  if (depth > 8) return leaves[pick(leaves.length)];
  if (pick(4) === 0) return [wild(pick, depth + 1), wild(pick, depth + 1)];
  return leaves[pick(leaves.length)];
}

/** A value for `schema`. */
export function almost(
  schema: Schema<unknown>,
  pick: Pick,
  taste: Taste = plainTaste,
  member = "",
  depth = 0,
): unknown {
  if (pick(12) === 0 || depth > 6) return wild(pick, depth);
  const { meta } = schema;
  switch (meta.kind) {
    case "builtin":
      if (meta.name === "str") return taste.text(member, pick);
      return { bool: pick(2) === 0, number: 1.5, null: null, any: {} }[meta.name];
    case "int":
      return taste.integer(member, pick);
    case "enum": {
      const words = taste.words(member, meta.values);
      return words[pick(words.length)];
    }
    case "array":
      return Array.from(
        { length: pick(4) },
        () => almost(meta.element(), pick, taste, member, depth + 1),
      );
    case "alternate": {
      const alternatives = Object.values(meta.alternatives);
      return almost(alternatives[pick(alternatives.length)]!(), pick, taste, member, depth + 1);
    }
    default:
      return almostObject(meta, pick, taste, depth);
  }
}

function almostObject(
  meta: Extract<Meta, { kind: "struct" | "union" }>,
  pick: Pick,
  taste: Taste,
  depth: number,
): unknown {
  const object = Object.create(null);
  for (const [name, member] of Object.entries(meta.members)) {
    if (pick(8) > (member.optional ? 3 : 0)) {
      object[name] = almost(member.type(), pick, taste, name, depth + 1);
    }
  }
  if (meta.kind === "union" && typeof object[meta.tag] === "string") {
    const branch = meta.branches[object[meta.tag]];
    if (branch !== undefined) {
      const more = almost(branch, pick, taste, "", depth + 1);
      if (typeof more === "object" && more !== null) Object.assign(object, more);
    }
  }
  if (pick(10) === 0) {
    object[["extra", "__proto__", "toString", "0"][pick(4)]!] = wild(pick, depth);
  }
  return object;
}
