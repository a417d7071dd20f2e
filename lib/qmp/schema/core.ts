/**
 * QAPI types as values. One definition gives the static type (`Infer`), validation, the command line's
 * grammar, introspection (query-qmp-schema) and the reference page. Nothing here does I/O or keeps state.
 */

import { assert } from "../../base/mod.ts";

/** A QAPI type whose values, once validated, have the static type T. */
export interface Schema<T> {
  readonly meta: Meta;
  /** Only for inference; never set. */
  readonly _value?: T;
}

/** The static type of a schema's values. */
export type Infer<S> = S extends Schema<infer T> ? T : never;

/** Features and conditions shown in introspection. */
export interface Notes {
  /** As "deprecated", "unstable". */
  readonly features?: readonly string[];
  /** A member or an enum's value that is taken only to be refused in words: introspection does not show it. */
  readonly hidden?: true;
  /** One sentence for the reference page. */
  readonly doc?: string;
}

/** Words that QEMU's enumeration has and this daemon's lacks: refused with a message of their own. */
export interface AbsentValues {
  readonly values: readonly string[];
  readonly message: (value: string) => string;
}

/** Integer widths with QEMU's names in messages; the bounds are inclusive. */
export interface IntRange {
  readonly min: bigint;
  readonly max: bigint;
  /** How QEMU's messages call it: "integer", "uint64", "uint16_t"... */
  readonly expects: string;
}

/** What a type is made of. */
export type Meta =
  | { readonly kind: "builtin"; readonly name: "str" | "bool" | "number" | "null" | "any" }
  | {
    readonly kind: "int";
    readonly name: string;
    readonly range: IntRange;
    readonly size: boolean;
    /** Values beyond what a number holds are bigints; else they are refused. */
    readonly exact: boolean;
  }
  | {
    readonly kind: "enum";
    readonly name: string;
    readonly values: readonly string[];
    readonly notes: Readonly<Record<string, Notes>>;
    readonly absent?: AbsentValues;
  }
  | { readonly kind: "array"; readonly element: () => Schema<unknown> }
  | {
    readonly kind: "struct";
    readonly name: string;
    readonly members: Readonly<Record<string, Member<unknown, boolean>>>;
    readonly notes: Notes;
  }
  | {
    readonly kind: "union";
    readonly name: string;
    readonly members: Readonly<Record<string, Member<unknown, boolean>>>;
    readonly tag: string;
    /** Tag values without an entry have no members of their own. */
    readonly branches: Readonly<Record<string, Schema<unknown>>>;
    readonly notes: Notes;
  }
  | {
    readonly kind: "alternate";
    readonly name: string;
    readonly alternatives: Readonly<Record<string, () => Schema<unknown>>>;
  };

/** A member of a struct: its type, and whether it may be left out. */
export interface Member<T, Optional extends boolean> {
  readonly type: () => Schema<T>;
  readonly optional: Optional;
  readonly notes: Notes;
}

/** Members as written: a schema (mandatory) or what `opt` and `member` return. */
export type Members = Readonly<Record<string, Schema<unknown> | Member<unknown, boolean>>>;

type MemberValue<M> = M extends Member<infer T, boolean> ? T
  : M extends Schema<infer T> ? T
  : never;
type OptionalKeys<M> = {
  [K in keyof M]: M[K] extends Member<unknown, true> ? K : never;
}[keyof M];
/** The object type of a table of members. */
export type InferMembers<M> =
  & { -readonly [K in Exclude<keyof M, OptionalKeys<M>>]: MemberValue<M[K]> }
  & { -readonly [K in OptionalKeys<M>]?: MemberValue<M[K]> };
type Flat<T> = { [K in keyof T]: T[K] };

const builtin = <T>(name: "str" | "bool" | "number" | "null" | "any"): Schema<T> => ({
  meta: { kind: "builtin", name },
});

/** A string. */
export const str: Schema<string> = builtin("str");
/** true or false. */
export const bool: Schema<boolean> = builtin("bool");
/** A floating point number. */
export const number: Schema<number> = builtin("number");
/** null. */
export const nullType: Schema<null> = builtin("null");
/** Any JSON value. */
export const any: Schema<unknown> = builtin("any");

const integer = (
  name: string,
  min: bigint,
  max: bigint,
  expects: string,
  size = false,
): Schema<number> => ({
  meta: { kind: "int", name, range: { min, max, expects }, size, exact: false },
});

/**
 * Integers that are computed with: numbers. Values that a number cannot hold exactly (beyond 2^53-1; no file,
 * device or time reaches that far) are refused by the validator with a clear message.
 */
export const int: Schema<number> = integer("int", -(2n ** 63n), 2n ** 63n - 1n, "integer");
export const uint16: Schema<number> = integer("uint16", 0n, 2n ** 16n - 1n, "uint16_t");
export const uint32: Schema<number> = integer("uint32", 0n, 2n ** 32n - 1n, "uint32_t");
export const uint64: Schema<number> = integer("uint64", 0n, 2n ** 64n - 1n, "uint64");
/** A byte count; on the command line it takes suffixes (b K M G T P E). */
export const size: Schema<number> = integer("size", 0n, 2n ** 64n - 1n, "size", true);

const exact = ({ meta }: Schema<number>): Schema<number | bigint> => ({
  meta: meta.kind === "int" ? { ...meta, exact: true } : meta,
});
/**
 * All 64 bits, exactly: what is kept, compared and shown, but not computed with. A bigint where a number would
 * not be exact.
 */
export const exactInt: Schema<number | bigint> = exact(int);
export const exactUint64: Schema<number | bigint> = exact(uint64);
export const exactSize: Schema<number | bigint> = exact(size);

/** One of a fixed list of words. */
export function enumeration<const V extends readonly string[]>(
  name: string,
  values: V,
  notes: Readonly<Record<string, Notes>> = {},
  absent?: AbsentValues,
): Schema<V[number]> {
  return { meta: { kind: "enum", name, values, notes, ...(absent && { absent }) } };
}

/** The words of an enumeration that do something: not those that are taken only to be refused. */
export function shownValues({ meta }: Schema<unknown>): readonly string[] {
  assert(meta.kind === "enum", "not an enumeration");
  return meta.values.filter((value) => meta.notes[value]?.hidden !== true);
}

/** A list. The element may be given lazily, for recursive types. */
export function array<T>(element: Schema<T> | (() => Schema<T>)): Schema<T[]> {
  return {
    meta: { kind: "array", element: typeof element === "function" ? element : () => element },
  };
}

/** A member that may be left out. */
export function opt<T>(type: Schema<T> | (() => Schema<T>), notes: Notes = {}): Member<T, true> {
  return { type: typeof type === "function" ? type : () => type, optional: true, notes };
}

/** A mandatory member with notes, or with a lazily given type. */
export function member<T>(
  type: Schema<T> | (() => Schema<T>),
  notes: Notes = {},
): Member<T, false> {
  return { type: typeof type === "function" ? type : () => type, optional: false, notes };
}

function normalise(members: Members): Record<string, Member<unknown, boolean>> {
  return Object.fromEntries(
    Object.entries(members).map(([key, value]) => [key, "meta" in value ? member(value) : value]),
  );
}

/** An object type. Members are visited in the order written (spread a base's `members` first). */
export function struct<M extends Members>(
  name: string,
  members: M,
  notes: Notes = {},
): Schema<Flat<InferMembers<M>>> & { readonly members: M } {
  return { meta: { kind: "struct", name, members: normalise(members), notes }, members };
}

/** A flat union: common members, one of which (`tag`, an enum) chooses the branch's further members. */
export function union<
  M extends Members,
  Tag extends keyof M & string,
  B extends Record<string, Schema<unknown>>,
>(
  name: string,
  members: M,
  tag: Tag,
  branches: B,
  notes: Notes = {},
): Schema<
  {
    [V in MemberValue<M[Tag]> & string]:
      & Flat<Omit<InferMembers<M>, Tag> & { [K in Tag]: V }>
      & (V extends keyof B ? Infer<B[V]> : unknown);
  }[MemberValue<M[Tag]> & string]
> {
  return { meta: { kind: "union", name, members: normalise(members), tag, branches, notes } };
}

/** A value of one of several JSON types, told apart by that type alone. */
export function alternate<T>(
  name: string,
  alternatives: Readonly<Record<string, Schema<unknown> | (() => Schema<unknown>)>>,
): Schema<T> {
  const lazy = Object.fromEntries(
    Object.entries(alternatives).map((
      [key, type],
    ) => [key, typeof type === "function" ? type : () => type]),
  );
  return { meta: { kind: "alternate", name, alternatives: lazy } };
}

/** The empty object: commands without arguments, or without a result. */
export const empty: Schema<Record<never, never>> = struct("q_empty", {});

/** Notes of a command. */
export interface CommandNotes extends Notes {
  readonly allowOob?: boolean;
  readonly allowPreconfig?: boolean;
  /** Errors beyond those of its arguments' types, as Markdown for the reference page. */
  readonly errors?: readonly string[];
}

/** A QMP command as data. */
export interface Command<A, R> {
  readonly arguments: Schema<A>;
  readonly returns: Schema<R>;
  readonly notes: CommandNotes;
}

/** Describes a command. */
export function command<A, R>(
  args: Schema<A>,
  returns: Schema<R>,
  notes: Command<A, R>["notes"] = {},
): Command<A, R> {
  return { arguments: args, returns, notes };
}

/** What handles the commands of a table: typed arguments in, typed result out. CommandError refuses. */
// deno-lint-ignore no-explicit-any
export type Handlers<C extends Record<string, Command<any, any>>> = {
  [K in keyof C]: C[K] extends Command<infer A, infer R> ? (args: A) => R | Promise<R> : never;
};

/** Sends events to every negotiated monitor. `name` and `data` are described in the event table. */
export interface EventSink {
  emit(name: string, data: Record<string, unknown>): void;
}
