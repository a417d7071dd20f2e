/** Commands by name, and what becomes of one request: QEMU's checks of the envelope, in its wording. */
import { BlockError, CommandError, type ErrorClass, type MaybePromise } from "../base/mod.ts";
import { commandEvents } from "../observe/mod.ts";
import type { TracePoint } from "../sys/mod.ts";
import { isJsonObject, type JsonObject, type JsonValue, writeJson } from "./json/mod.ts";
import type { Command, Handlers } from "./schema/core.ts";
import type { CommandTable } from "./schema/registry.ts";
import { visitJson } from "./schema/visit_json.ts";

/** A command that can be run. */
export interface CommandEntry {
  readonly name: string;
  readonly definition: Command<unknown, unknown>;
  readonly run: (args: unknown) => MaybePromise<unknown>;
}

/** All commands that the daemon does, in the order of registration. */
export class CommandRegistry {
  readonly #entries = new Map<string, CommandEntry>();

  /** Adds a feature's commands with their handlers; the types see to it that none is missing. */
  register<C extends CommandTable>(table: C, handlers: Handlers<C>): void {
    for (const [name, definition] of Object.entries(table)) {
      const run = handlers[name as keyof C] as (args: unknown) => MaybePromise<unknown>;
      this.#entries.set(name, { name, definition, run: (args) => run.call(handlers, args) });
    }
  }

  find(name: string): CommandEntry | undefined {
    return this.#entries.get(name);
  }

  /** Names and definitions, for query-commands and introspection. */
  list(): readonly CommandEntry[] {
    return [...this.#entries.values()];
  }
}

/** The state of a monitor that decides about a request. */
export interface SessionState {
  /** qmp_capabilities has succeeded. */
  negotiated: boolean;
  /** The client has enabled out-of-band execution. */
  oob: boolean;
}

/** What is sent back. */
export type Reply =
  | { readonly return: unknown; readonly id?: JsonValue }
  | {
    readonly error: { readonly class: ErrorClass; readonly desc: string };
    readonly id?: JsonValue;
  };

/** Tells of failures that are our own mistakes; their text alone goes to the client. */
export type ReportBug = (command: string, error: unknown) => void;

/** The reply for an error that a command threw. */
function errorReply(error: unknown, command: string, reportBug: ReportBug): Reply {
  if (error instanceof CommandError) {
    return { error: { class: error.errorClass, desc: error.message } };
  }
  if (error instanceof BlockError) {
    return { error: { class: "GenericError", desc: error.message } };
  }
  // A system call's failure says what and where; anything else is a bug of ours.
  const desc = error instanceof Error ? error.message : String(error);
  if (!(error instanceof Error && "errno" in error)) reportBug(command, error);
  return { error: { class: "GenericError", desc } };
}

/** The reply to something that is not even a request. */
export function protocolError(desc: string): Reply {
  return { error: { class: "GenericError", desc } };
}

/** A request whose envelope is in order. */
interface Envelope {
  readonly command: string;
  readonly arguments: JsonObject | undefined;
  readonly oob: boolean;
}

const refuse = (desc: string, errorClass?: ErrorClass) => new CommandError(desc, errorClass);

/** Checks members and their types; in the order in which they were sent, as far as QEMU does. */
function openEnvelope(request: JsonObject, oobEnabled: boolean): Envelope {
  let command: string | undefined;
  let args: JsonObject | undefined;
  let oob = false;
  for (const [member, value] of Object.entries(request)) {
    if (member === "execute" || (member === "exec-oob" && oobEnabled)) {
      if (typeof value !== "string") {
        throw refuse(`QMP input member '${member}' must be a string`);
      }
      if (command !== undefined) {
        throw refuse("QMP input member 'execute' clashes with 'exec-oob'");
      }
      command = value;
      oob = member === "exec-oob";
    } else if (member === "arguments") {
      if (!isJsonObject(value)) throw refuse("QMP input member 'arguments' must be an object");
      args = value;
    } else if (member !== "id") {
      throw refuse(`QMP input member '${member}' is unexpected`);
    }
  }
  if (command === undefined) throw refuse("QMP input lacks member 'execute'");
  return { command, arguments: args, oob };
}

/** Whether this is to be executed out of band, ahead of what is queued. */
export function isOutOfBand(request: JsonValue, session: SessionState): boolean {
  return session.oob && isJsonObject(request) && "exec-oob" in request && !("execute" in request);
}

/** Finds the trace point of a name. */
export type FindTracePoint = (name: string) => TracePoint;

/** Runs requests against a registry. */
export class Dispatcher {
  /** The points around each command's handler, as commands are met. */
  readonly #points = new Map<string, { enter: TracePoint; exit: TracePoint }>();

  constructor(
    private readonly commands: CommandRegistry,
    private readonly reportBug: ReportBug,
    private readonly findPoint: FindTracePoint,
  ) {}

  /**
   * Runs one request to its end; never rejects. `negotiate` does what qmp_capabilities is asked for, since that
   * changes the session that it came from.
   */
  async dispatch(
    request: JsonValue,
    session: SessionState,
    negotiate: (enable: readonly string[]) => void,
  ): Promise<Reply> {
    if (!isJsonObject(request)) return protocolError("QMP input must be a JSON object");
    const reply = await this.#run(request, session, negotiate);
    return "id" in request ? { ...reply, id: request["id"]! } : reply;
  }

  async #run(
    request: JsonObject,
    session: SessionState,
    negotiate: (enable: readonly string[]) => void,
  ): Promise<Reply> {
    let name = "";
    try {
      const envelope = openEnvelope(request, session.oob);
      name = envelope.command;
      const entry = this.#lookUp(envelope, session);
      const args = visitJson(entry.definition.arguments, envelope.arguments ?? {});
      if (name === "qmp_capabilities") {
        if (session.negotiated) {
          throw refuse(
            "Capabilities negotiation is already complete, command ignored",
            "CommandNotFound",
          );
        }
        negotiate((args as { enable?: string[] }).enable ?? []);
      }
      return { return: await this.#runEntry(entry, args, envelope.arguments ?? {}) };
    } catch (error) {
      return errorReply(error, name, this.reportBug);
    }
  }

  /** Runs the handler, between its two trace events. */
  async #runEntry(entry: CommandEntry, args: unknown, given: JsonObject): Promise<unknown> {
    const { enter, exit } = this.#pointsOf(entry.name);
    if (enter.enabled) enter.emit(writeJson(given));
    try {
      const result = (await entry.run(args)) ?? {};
      if (exit.enabled) exit.emit(`${writeJson(result)} 1`);
      return result;
    } catch (error) {
      if (exit.enabled) exit.emit(`${error instanceof Error ? error.message : String(error)} 0`);
      throw error;
    }
  }

  #pointsOf(command: string): { enter: TracePoint; exit: TracePoint } {
    let points = this.#points.get(command);
    if (points === undefined) {
      const { enter, exit } = commandEvents(command);
      points = { enter: this.findPoint(enter), exit: this.findPoint(exit) };
      this.#points.set(command, points);
    }
    return points;
  }

  #lookUp(envelope: Envelope, session: SessionState): CommandEntry {
    const name = envelope.command;
    if (!session.negotiated && name !== "qmp_capabilities") {
      throw refuse(
        "Expecting capabilities negotiation with 'qmp_capabilities'",
        "CommandNotFound",
      );
    }
    const entry = this.commands.find(name);
    if (entry === undefined) {
      throw refuse(`The command ${name} has not been found`, "CommandNotFound");
    }
    if (envelope.oob && entry.definition.notes.allowOob !== true) {
      throw refuse(`The command ${name} does not support OOB`);
    }
    return entry;
  }
}
