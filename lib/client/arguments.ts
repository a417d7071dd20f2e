/** Arguments of a command as people type them (JSON, key=value) as the JSON that the daemon's schema asks for. */
import { CommandError } from "../base/mod.ts";
import {
  isJsonObject,
  JsonDouble,
  type JsonObject,
  jsonObject,
  type JsonValue,
  parseJson,
} from "../qmp/json/mod.ts";
import { parseBool, parseInteger, parseSize } from "../qmp/schema/visit_keyval.ts";
import type { ServerSchema } from "./server_schema.ts";

/** Members as typed: a text, JSON, or dotted keys below. */
type Tree = { [key: string]: string | Tree };

const inconsistent = (key: string) =>
  new CommandError(`'${key}' is given both as a value and with members below it`);

function insert(root: Tree, key: string, value: string): void {
  const parts = key.split(".");
  if (parts.includes("")) throw new CommandError(`'${key}' is not a member's name`);
  let tree = root;
  parts.forEach((part, i) => {
    const there = Object.hasOwn(tree, part) ? tree[part] : undefined;
    if (i === parts.length - 1) {
      if (there !== undefined) {
        throw typeof there === "string"
          ? new CommandError(`'${key}' is given twice`)
          : inconsistent(key);
      }
      tree[part] = value;
    } else {
      if (typeof there === "string") throw inconsistent(parts.slice(0, i + 1).join("."));
      tree = tree[part] = there ?? Object.create(null) as Tree;
    }
  });
}

/**
 * The arguments of `command` from `words`: JSON objects, and `member=value` with dots for members of members, in
 * any mixture. Undefined when there are none. Throws CommandError.
 */
export function parseArguments(
  schema: ServerSchema,
  command: string,
  words: readonly string[],
): JsonObject | undefined {
  if (words.length === 0) return undefined;
  const whole = jsonObject();
  const tree: Tree = Object.create(null);
  for (const word of words) {
    if (word.startsWith("{")) {
      const value = parseJson(word);
      if (isJsonObject(value)) Object.assign(whole, value);
      continue;
    }
    const equals = word.indexOf("=");
    if (equals < 1) throw new CommandError(`'${word}' is neither member=value nor JSON`);
    insert(tree, word.slice(0, equals), word.slice(equals + 1));
  }
  if (Object.keys(tree).length === 0) return whole;
  const type = schema.argumentsOf(command);
  if (type === undefined) throw new CommandError(`The command ${command} has not been found`);
  return Object.assign(whole, objectFrom(schema, type, tree, "", whole));
}

/** The variant that the tag chooses, as far as it is given. */
function tagValue(schema: ServerSchema, type: string, tree: Tree, given?: JsonObject) {
  const tag = schema.tag(type);
  if (tag === undefined) return undefined;
  const value = tree[tag] ?? given?.[tag];
  return typeof value === "string" ? value : undefined;
}

function objectFrom(
  schema: ServerSchema,
  type: string,
  tree: Tree,
  path: string,
  given?: JsonObject,
): JsonObject {
  const members = schema.members(type, tagValue(schema, type, tree, given));
  const object = jsonObject();
  for (const [name, value] of Object.entries(tree)) {
    const member = members.find((one) => one.name === name);
    if (member === undefined) {
      const known = members.map((one) => one.name).join(", ");
      throw new CommandError(
        `There is no member '${path}${name}'` + (known === "" ? "" : `; there are: ${known}`),
      );
    }
    object[name] = valueFrom(schema, member.type, value, `${path}${name}`);
  }
  return object;
}

function valueFrom(schema: ServerSchema, type: string, value: string | Tree, path: string) {
  if (typeof value === "string") return leaf(schema, type, value, path);
  const shape = schema.shape(type);
  if (shape.kind === "array") return listFrom(schema, shape.element, value, path);
  const object = schema.objectType(type);
  if (object !== undefined) return objectFrom(schema, object, value, `${path}.`);
  throw new CommandError(`'${path}' is a ${schema.describe(type)}: it has no members`);
}

function listFrom(schema: ServerSchema, element: string, tree: Tree, path: string): JsonValue[] {
  const keys = Object.keys(tree).sort((a, b) => Number(a) - Number(b));
  return keys.map((key, i) => {
    if (key !== String(i)) throw new CommandError(`'${path}' is a list: '${path}.${i}' is missing`);
    return valueFrom(schema, element, tree[key]!, `${path}.${key}`);
  });
}

/** A text as a value of `type`. */
function leaf(schema: ServerSchema, type: string, text: string, path: string): JsonValue {
  const shape = schema.shape(type);
  const expects = (what: string) => new CommandError(`'${path}' expects ${what}, not '${text}'`);
  switch (shape.kind) {
    case "string":
      return text;
    case "int": {
      const exact = parseInteger(text) ?? parseSize(text);
      if (exact === undefined) throw expects("an integer (suffixes K, M, G... are powers of 1024)");
      const plain = Number(exact);
      return Number.isSafeInteger(plain) ? plain : exact;
    }
    case "number":
      if (text.trim() === "" || !Number.isFinite(Number(text))) throw expects("a number");
      return new JsonDouble(Number(text));
    case "boolean":
      return parseBool(text) ?? fail(expects("on or off"));
    case "null":
      return text === "null" || text === "" ? null : fail(expects("null"));
    case "enum":
      if (!shape.values.includes(text)) throw expects(`one of ${shape.values.join(", ")}`);
      return text;
    case "array":
      if (text.startsWith("[")) return parseJson(text);
      return text === ""
        ? []
        : text.split(",").map((one, i) => leaf(schema, shape.element, one, `${path}.${i}`));
    case "object":
      if (!text.startsWith("{")) throw expects("members (as 'a.b=value') or JSON");
      return parseJson(text);
    case "alternate":
      return alternative(schema, shape.types, text, path) ?? fail(expects(schema.describe(type)));
    default:
      return anything(text);
  }
}

function fail(error: Error): never {
  throw error;
}

/** The first alternative, strings last, that the text can be. */
function alternative(
  schema: ServerSchema,
  types: readonly string[],
  text: string,
  path: string,
): JsonValue | undefined {
  const isText = (type: string) => schema.shape(type).kind === "string";
  const hasText = types.some(isText);
  const json = /^[{[]/.test(text);
  // A text that could be null is a string where strings are taken.
  const candidates = types.filter((type) => !isText(type) && !(hasText && !json));
  for (const type of [...candidates, ...types.filter(isText)]) {
    try {
      return leaf(schema, type, text, path);
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
    }
  }
  return undefined;
}

/** JSON where the text is JSON, else the text. */
function anything(text: string): JsonValue {
  try {
    return parseJson(text);
  } catch (error) {
    if (error instanceof CommandError) return text;
    throw error;
  }
}
