/** What Tab offers: commands, members and values, from the daemon's own schema. Pure. */
import type { ServerSchema } from "./server_schema.ts";
import { splitLine } from "./words.ts";

/** The client's own commands: a QMP command never begins with a dot. */
const ownCommands = [".help", ".quit"];

/** What may stand in the place of `line[from..cursor)`. */
export interface Completion {
  readonly from: number;
  readonly candidates: readonly string[];
}

/** Candidates for the text before `cursor`. */
export function complete(schema: ServerSchema, line: string, cursor: number): Completion {
  const before = line.slice(0, cursor);
  const { words } = splitLine(before);
  const last = words[words.length - 1];
  const fresh = last === undefined || last.end < before.length;
  const word = fresh ? "" : before.slice(last.start);
  const from = cursor - word.length;
  const done = fresh ? words : words.slice(0, -1);
  const [command] = done;
  const offer = (candidates: readonly string[]) => ({
    from,
    candidates: candidates.filter((one) => one.startsWith(word)),
  });
  if (command === undefined) {
    const names = word.startsWith(".") ? ownCommands : schema.commands;
    return offer(names.map((name) => `${name} `));
  }
  if (command.text === ".help") return offer(schema.commands.map((name) => `${name} `));
  const type = schema.argumentsOf(command.text);
  if (type === undefined || /^[{['"]/.test(word)) return { from, candidates: [] };
  const given = new Map<string, string>();
  for (const { text } of done.slice(1)) {
    const equals = text.indexOf("=");
    if (equals > 0) given.set(text.slice(0, equals), text.slice(equals + 1));
  }
  return offer(argumentCandidates(schema, type, word, given));
}

/** Members (`name=`, `name.` where it has members), or values after `=`. */
function argumentCandidates(
  schema: ServerSchema,
  type: string,
  word: string,
  given: ReadonlyMap<string, string>,
): string[] {
  const equals = word.indexOf("=");
  const key = equals < 0 ? word : word.slice(0, equals);
  const parts = key.split(".");
  const leafName = parts.pop()!;
  let prefix = "";
  let within: string | undefined = type;
  for (const part of parts) {
    within = step(schema, within, prefix, part, given);
    if (within === undefined) return [];
    prefix += `${part}.`;
  }
  const found = membersAt(schema, within, prefix, given);
  if (equals >= 0) {
    const member = found.find((one) => one.name === leafName);
    return member === undefined
      ? []
      : valuesOf(schema, member.type).map((value) => `${key}=${value} `);
  }
  return found.flatMap(({ name, type: memberType }) => {
    const path = `${prefix}${name}`;
    if (given.has(path)) return [];
    const object = schema.objectType(memberType);
    if (object === undefined) return [`${path}=`];
    return schema.shape(memberType).kind === "object" ? [`${path}.`] : [`${path}=`, `${path}.`];
  });
}

function membersAt(
  schema: ServerSchema,
  type: string,
  prefix: string,
  given: ReadonlyMap<string, string>,
) {
  const object = schema.objectType(type);
  if (object === undefined) return [];
  const tag = schema.tag(object);
  return schema.members(object, tag === undefined ? undefined : given.get(`${prefix}${tag}`));
}

function step(
  schema: ServerSchema,
  type: string,
  prefix: string,
  part: string,
  given: ReadonlyMap<string, string>,
): string | undefined {
  const shape = schema.shape(type);
  if (shape.kind === "array") return shape.element;
  return membersAt(schema, type, prefix, given).find((one) => one.name === part)?.type;
}

function valuesOf(schema: ServerSchema, type: string): readonly string[] {
  const shape = schema.shape(type);
  if (shape.kind === "enum") return shape.values;
  if (shape.kind === "boolean") return ["on", "off"];
  if (shape.kind === "array") return valuesOf(schema, shape.element);
  return shape.kind === "alternate" ? shape.types.flatMap((one) => valuesOf(schema, one)) : [];
}

/** The longest text that all candidates begin with. */
export function commonPrefix(texts: readonly string[]): string {
  let prefix = texts[0] ?? "";
  for (const text of texts) {
    let same = 0;
    while (same < prefix.length && prefix[same] === text[same]) same++;
    prefix = prefix.slice(0, same);
  }
  return prefix;
}
