/** What a line (or the words of a command line) does: the request, and how its outcome is shown. */
import { CommandError } from "../base/mod.ts";
import {
  isJsonObject,
  type JsonObject,
  type JsonValue,
  parseJson,
  writeJson,
} from "../qmp/json/mod.ts";
import { parseArguments } from "./arguments.ts";
import type { QmpConnection, QmpEvent } from "./connection.ts";
import { ServerSchema } from "./server_schema.ts";
import { harmless, readableJson, table } from "./text.ts";
import { splitLine } from "./words.ts";

/** A connection with its schema, which is asked for when it is first needed. */
export class Session {
  #schema: Promise<ServerSchema> | undefined;

  constructor(readonly connection: QmpConnection) {}

  /** The daemon's schema. */
  schema(): Promise<ServerSchema> {
    return this.#schema ??= this.connection.execute("query-qmp-schema")
      .then((entries) => new ServerSchema(entries));
  }

  /** Runs a command with arguments as typed. Throws CommandError. */
  async run(command: string, words: readonly string[]): Promise<JsonValue> {
    // JSON needs no schema, and neither does nothing at all.
    const typed = words.some((word) => !word.startsWith("{"));
    const schema = typed ? await this.schema() : new ServerSchema([]);
    return await this.connection.execute(command, parseArguments(schema, command, words));
  }

  /** Runs a line: a command with arguments, or a whole request as JSON. Throws CommandError. */
  async runLine(line: string): Promise<JsonValue> {
    const trimmed = line.trim();
    if (trimmed.startsWith("{")) {
      const request = parseJson(trimmed);
      return await this.connection.request(request as JsonObject);
    }
    const { words, problem } = splitLine(line);
    if (problem !== undefined) throw new CommandError(problem);
    const [command, ...rest] = words.map((word) => word.text);
    if (command === ".help") return await this.help(rest[0]);
    return await this.run(command!, rest);
  }

  /** A text about a command, or about all. */
  async help(command: string | undefined): Promise<string> {
    const schema = await this.schema();
    if (command === undefined) {
      return [
        "COMMAND [JSON | member=value]...  runs a command; members of members are a.b=value",
        '{"execute": ...}                  sends a request as it is',
        ".help COMMAND                     the members of a command's arguments",
        ".quit, Ctrl-D                     leaves (the command quit stops the daemon!)",
        "",
        "Tab completes, Ctrl-R searches the history, Ctrl-C stops waiting for a reply.",
        `The daemon has ${schema.commands.length} commands: press Tab on an empty line.`,
      ].join("\n");
    }
    const type = schema.argumentsOf(command);
    if (type === undefined) throw new CommandError(`The command ${command} has not been found`);
    const members = schema.members(type);
    if (members.length === 0) return `${command} takes no arguments`;
    const tag = schema.tag(type);
    const rows = members.map(({ name, type: of, optional }) => [
      `  ${name}`,
      optional ? "optional" : "",
      schema.describe(of) + (name === tag ? "  (decides about further members)" : ""),
    ]);
    return `${command}\n${table(rows).join("\n")}`;
  }
}

/** A result as text: help as it is, JSON readable; nothing for `{}`, which most commands return. */
export function resultText(value: JsonValue, width: number): string {
  if (typeof value === "string") return value;
  return readableJson(value, width);
}

const two = (value: number) => String(value).padStart(2, "0");

/** Time of day, UTC, to the millisecond. */
function clock(timeUs: number): string {
  const ms = Math.floor(timeUs / 1000) % 86_400_000;
  const seconds = Math.floor(ms / 1000);
  return `${two(Math.floor(seconds / 3600))}:${two(Math.floor(seconds / 60) % 60)}:${
    two(seconds % 60)
  }.${String(ms % 1000).padStart(3, "0")}Z`;
}

/** An event on one line (its data may take more). */
export function eventText(event: QmpEvent, width: number): string {
  const head = `${clock(event.timeUs)}  ${harmless(event.name)}`;
  if (event.data === undefined) return head;
  const flat = Object.entries(event.data).map(([key, value]) =>
    `${key}=${typeof value === "string" ? harmless(value) : writeJson(value)}`
  ).join(" ");
  const simple = Object.values(event.data).every((value) => !isJsonObject(value));
  return simple && head.length + flat.length + 2 <= width
    ? `${head}  ${flat}`
    : `${head}\n${readableJson(event.data, width)}`;
}
