/**
 * Trace events (QEMU's --trace). A point that is off costs one branch; one that is on writes a line with
 * thread, time and name. One registry per process; contexts look their points up once and keep them.
 */
import type { TracePoint } from "../sys/mod.ts";

/** Where trace lines go, and what time it is. */
export interface TraceSink {
  /** Writes one line, its newline included. */
  write(line: string): void;
  /** Wall clock, in microseconds. */
  realtimeUs(): number;
  /** The descriptor that lines go to, for other threads [2: stderr]. */
  readonly fd?: number;
}

/** Which events are on and where their lines go, for other threads. */
export interface TraceState {
  readonly events: readonly string[];
  readonly fd: number;
}

/** The trace points of the process, by name. */
export class TraceRegistry {
  readonly #known: ReadonlySet<string>;
  /** By name, then by thread. */
  readonly #points = new Map<string, Map<string, TracePoint>>();
  readonly #enabled = new Set<string>();
  #sink: TraceSink;
  /** Called when events were turned on or off, or their lines go elsewhere. */
  onChange: () => void = () => {};

  /** `names`: every event that exists. */
  constructor(names: readonly string[], sink: TraceSink) {
    this.#known = new Set(names);
    this.#sink = sink;
  }

  /** The names of all events, sorted. */
  get names(): string[] {
    return [...this.#known].sort();
  }

  /** Sends the lines elsewhere from now on. */
  set sink(sink: TraceSink) {
    this.#sink = sink;
    this.onChange();
  }

  /** For other threads, which have points of their own. */
  state(): TraceState {
    return { events: [...this.#enabled], fd: this.#sink.fd ?? 2 };
  }

  /** The point `name` of the thread called `thread`, made when it is first asked for. */
  point(thread: string, name: string): TracePoint {
    let threads = this.#points.get(name);
    if (threads === undefined) this.#points.set(name, threads = new Map());
    const found = threads.get(thread);
    if (found !== undefined) return found;
    const point: TracePoint = {
      name,
      enabled: this.isEnabled(name),
      emit: (text) => {
        const us = this.#sink.realtimeUs();
        const micros = String(us % 1e6).padStart(6, "0");
        this.#sink.write(`${thread}@${Math.floor(us / 1e6)}.${micros}:${name} ${text}\n`);
      },
    };
    threads.set(thread, point);
    return point;
  }

  /** Whether the event `name` is on. */
  isEnabled(name: string): boolean {
    return this.#enabled.has(name);
  }

  /**
   * Turns events on, or off if `pattern` begins with "-". `*` stands for any characters, `?` for one. False if
   * the pattern has neither and no event is called so (QEMU warns then).
   */
  enable(pattern: string): boolean {
    const enable = !pattern.startsWith("-");
    const names = this.match(enable ? pattern : pattern.slice(1));
    if (names !== undefined) this.set(names, enable);
    return names !== undefined;
  }

  /** The names that `pattern` stands for, sorted; undefined for a name without `*` and `?` that does not exist. */
  match(pattern: string): string[] | undefined {
    if (!/[*?]/.test(pattern)) return this.#known.has(pattern) ? [pattern] : undefined;
    const matches = globToRegExp(pattern);
    return this.names.filter((name) => matches.test(name));
  }

  /** Turns events on or off. */
  set(names: readonly string[], enable: boolean): void {
    for (const name of names) {
      if (enable) this.#enabled.add(name);
      else this.#enabled.delete(name);
      for (const point of this.#points.get(name)?.values() ?? []) point.enabled = enable;
    }
    this.onChange();
  }
}

/** A glob with `*` and `?` as a regular expression over the whole name. */
function globToRegExp(glob: string): RegExp {
  const escaped = glob.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", ".*").replaceAll("?", ".")}$`);
}

/** What is wrong with one line of an events file. */
export interface EventsProblem {
  /** Counted from 1. */
  line: number;
  message: string;
}

/**
 * Applies an events file: one pattern a line, "-" turns off, "#" begins a comment line, blank lines are
 * skipped. Returns what QEMU warns of.
 */
export function applyEvents(registry: TraceRegistry, text: string): EventsProblem[] {
  const problems: EventsProblem[] = [];
  for (const [index, raw] of text.split("\n").entries()) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    if (registry.enable(line)) continue;
    const name = line.replace(/^-/, "");
    problems.push({ line: index + 1, message: `trace event '${name}' does not exist` });
  }
  return problems;
}
