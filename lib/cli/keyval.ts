/**
 * The keyval language of --blockdev, --export, --monitor, --nbd-server and --object:
 * `key=value,key=value`, dotted keys, doubled commas; texts are QEMU's.
 */
import { CommandError } from "../base/mod.ts";
import type { KeyvalValue } from "../qmp/schema/visit_keyval.ts";

/** What an argument says. */
export interface Keyval {
  readonly value: { [key: string]: KeyvalValue };
  /** `help` or `?` was among the elements. */
  readonly help: boolean;
}

type Tree = { [key: string]: string | Tree };

/** Longest fragment of a key. */
const MAX_FRAGMENT = 127;
const fragmentText = /^(?:__[A-Za-z0-9.-]+_)?[A-Za-z][A-Za-z0-9_-]*$|^[0-9]+$/;
const indexText = /^[0-9]+$/;

/** Parses `text`; `impliedKey` is the key of a first element without one. Throws CommandError. */
export function parseKeyval(text: string, impliedKey?: string): Keyval {
  const root: Tree = Object.create(null);
  let help = false;
  let at = 0;
  let first = true;
  while (at < text.length) {
    const end = endOfKey(text, at);
    const key = text.slice(at, end);
    if (text[end] === "=") {
      const { value, next } = readValue(text, end + 1);
      insert(root, key, value);
      at = next;
    } else if (key === "help" || key === "?") {
      help = true;
      at = end + 1;
    } else if (first && impliedKey !== undefined && key !== "") {
      insert(root, impliedKey, key);
      at = end + 1;
    } else if (key === "") {
      throw new CommandError("Invalid parameter ''");
    } else {
      splitKey(key); // a bad key is worse than a missing `=`
      throw new CommandError(`Expected '=' after parameter '${key}'`);
    }
    first = false;
  }
  return { value: listify(root), help };
}

function endOfKey(text: string, from: number): number {
  let end = from;
  while (end < text.length && text[end] !== "=" && text[end] !== ",") end++;
  return end;
}

/** The value from `from` on, up to a comma that is not doubled; `next` is where the next element begins. */
function readValue(text: string, from: number): { value: string; next: number } {
  const parts: string[] = [];
  let start = from;
  for (;;) {
    const comma = text.indexOf(",", start);
    if (comma < 0) {
      parts.push(text.slice(start));
      return { value: parts.join(""), next: text.length };
    }
    if (text[comma + 1] !== ",") {
      parts.push(text.slice(start, comma));
      return { value: parts.join(""), next: comma + 1 };
    }
    parts.push(text.slice(start, comma + 1));
    start = comma + 2;
  }
}

/** The fragments of a key, checked. */
function splitKey(key: string): string[] {
  const fragments = fragmentsOf(key);
  fragments.forEach((fragment, i) => {
    if (fragment.length > MAX_FRAGMENT) {
      const which = fragments.length === 1 ? "Parameter" : "Parameter fragment";
      throw new CommandError(`${which} '${fragment}' is too long`);
    }
    if (!fragmentText.test(fragment) || (i === 0 && indexText.test(fragment))) {
      throw new CommandError(`Invalid parameter '${key}'`);
    }
  });
  return fragments;
}

/** Splits at dots, but not at those inside a downstream prefix (`__com.example_name`). */
function fragmentsOf(key: string): string[] {
  const fragments: string[] = [];
  let at = 0;
  for (;;) {
    const prefix = /^__[A-Za-z0-9.-]+_/.exec(key.slice(at, at + 256))?.[0] ?? "";
    const dot = key.indexOf(".", at + prefix.length);
    fragments.push(key.slice(at, dot < 0 ? undefined : dot));
    if (dot < 0) return fragments;
    at = dot + 1;
  }
}

function insert(root: Tree, key: string, value: string): void {
  const fragments = splitKey(key);
  let tree = root;
  for (let i = 0; i < fragments.length - 1; i++) {
    const fragment = fragments[i]!;
    const inner = tree[fragment] ??= Object.create(null) as Tree;
    if (typeof inner === "string") throw inconsistent(fragments.slice(0, i + 1));
    tree = inner;
  }
  const last = fragments[fragments.length - 1]!;
  if (typeof tree[last] === "object") throw inconsistent(fragments);
  tree[last] = value;
}

function inconsistent(fragments: readonly string[]): CommandError {
  return new CommandError(`Parameters '${fragments.join(".")}.*' used inconsistently`);
}

interface Step {
  readonly tree: Tree;
  readonly path: string;
  /** Where the finished value goes. */
  readonly into: { [key: string]: KeyvalValue };
  readonly key: string;
}

/** Makes lists of the objects whose keys are all indices. Innermost first, without recursion. */
function listify(root: Tree): { [key: string]: KeyvalValue } {
  const holder: { [key: string]: KeyvalValue } = {};
  const steps: Step[] = [{ tree: root, path: "", into: holder, key: "root" }];
  for (let i = 0; i < steps.length; i++) {
    const { tree, path } = steps[i]!;
    for (const [key, inner] of Object.entries(tree)) {
      if (typeof inner === "string") continue;
      const into = tree as { [key: string]: KeyvalValue };
      steps.push({ tree: inner, path: path === "" ? key : `${path}.${key}`, into, key });
    }
  }
  for (const { tree, path, into, key } of steps.reverse()) into[key] = finish(tree, path);
  return holder["root"] as { [key: string]: KeyvalValue };
}

function finish(tree: Tree, path: string): KeyvalValue {
  const keys = Object.keys(tree);
  const indices = keys.filter((key) => indexText.test(key));
  const done = tree as { [key: string]: KeyvalValue };
  if (indices.length === 0) return done;
  if (indices.length < keys.length) {
    throw new CommandError(`Parameters '${path}.*' used inconsistently`);
  }
  const byIndex = new Map(indices.map((key) => [Number(key), done[key]!]));
  const list: KeyvalValue[] = [];
  for (let i = 0; i < byIndex.size; i++) {
    const element = byIndex.get(i);
    if (element === undefined) throw new CommandError(`Parameter '${path}.${i}' missing`);
    list.push(element);
  }
  return list;
}
