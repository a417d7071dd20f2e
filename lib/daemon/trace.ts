/** The option --trace: which events, and where their lines go. */
import { CommandError } from "../base/mod.ts";
import { parseQemuOpts } from "../cli/mod.ts";
import { applyEvents, traceEvents, TraceRegistry } from "../observe/mod.ts";
import { errnoText, O, type Sys, writeStderr } from "../sys/mod.ts";
import type { LocatedLog } from "./located_log.ts";

const CHUNK = 65536;

/** The trace events of a daemon; lines go to stderr unless a file was named. */
export class Tracing {
  readonly registry: TraceRegistry;
  /** Whether --trace was given, and its lines go to stderr. */
  toStderr = false;
  #file = -1;
  readonly #sys: Sys;

  constructor(sys: Sys) {
    this.#sys = sys;
    this.registry = new TraceRegistry(traceEvents, {
      write: writeStderr,
      realtimeUs: () => sys.realtimeUs(),
    });
  }

  /** `[enable=]PATTERN[,events=FILE][,file=FILE]`. Returns a list to print, where help was asked for. */
  apply(argument: string, log: LocatedLog): string | undefined {
    const { options, help } = parseQemuOpts(argument, "enable");
    if (help) return this.registry.names.map((name) => `${name}\n`).join("");
    for (const { key } of options) {
      if (!["enable", "events", "file"].includes(key)) {
        throw new CommandError(`Invalid parameter '${key}'`);
      }
    }
    const last = (key: string) => options.findLast((option) => option.key === key)?.value;
    const [enable, events, file] = [last("enable"), last("events"), last("file")];
    if (enable !== undefined && !this.registry.enable(enable)) {
      log.warn(`trace event '${enable.replace(/^-/, "")}' does not exist`);
    }
    if (events !== undefined) {
      for (const { line, message } of applyEvents(this.registry, this.#read(events))) {
        log.warnOfLine(events, line, message);
      }
    }
    if (file !== undefined) this.#writeTo(file);
    else this.toStderr ||= this.#file < 0;
    return undefined;
  }

  #read(path: string): string {
    const sys = this.#sys;
    const fd = sys.open(path, O.RDONLY | O.CLOEXEC);
    if (fd < 0) throw new CommandError(`${path}: ${errnoText(-fd)}`);
    const memory = sys.allocate(CHUNK);
    const decoder = new TextDecoder();
    let text = "";
    try {
      for (;;) {
        const count = sys.read(fd, memory.address, CHUNK);
        if (count < 0) throw new CommandError(`${path}: ${errnoText(-count)}`);
        if (count === 0) return text + decoder.decode();
        text += decoder.decode(memory.bytes.slice(0, count), { stream: true });
      }
    } finally {
      memory.unmap();
      sys.close(fd);
    }
  }

  #writeTo(path: string): void {
    const sys = this.#sys;
    const fd = sys.open(path, O.WRONLY | O.CREAT | O.TRUNC | O.CLOEXEC, 0o666);
    if (fd < 0) throw new CommandError(`Error opening logfile ${path}: ${errnoText(-fd)}`);
    this.close();
    this.#file = fd;
    this.toStderr = false;
    const encoder = new TextEncoder();
    this.registry.sink = {
      fd,
      realtimeUs: () => sys.realtimeUs(),
      write(line) {
        const bytes = encoder.encode(line);
        const memory = sys.allocate(bytes.length);
        memory.bytes.set(bytes);
        sys.write(fd, memory.address, bytes.length);
        memory.unmap();
      },
    };
  }

  /** Closes the file, if any. */
  close(): void {
    if (this.#file >= 0) this.#sys.close(this.#file);
    this.#file = -1;
  }
}
