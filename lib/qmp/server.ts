/**
 * All monitors of the daemon: commands of all of them run one at a time, round robin; events go to every
 * negotiated one.
 */
import type { Context, Timer, TracePoint } from "../sys/mod.ts";
import type { Channel, ChannelUser } from "../chardev/mod.ts";
import { type CommandRegistry, Dispatcher, type ReportBug } from "./dispatcher.ts";
import { writeJson } from "./json/mod.ts";
import { Monitor, type Version } from "./monitor.ts";
import { type MonitorTrace, monitorTrace } from "./monitor_trace.ts";
import type { EventSink } from "./schema/core.ts";
import type { EventTable } from "./schema/registry.ts";

/** What the server is made of. `context` gives clock, timers and log. */
export interface QmpServerParts {
  readonly context: Pick<Context, "sys" | "loop" | "log" | "trace">;
  readonly commands: CommandRegistry;
  readonly events: EventTable;
  readonly version: Version;
}

/** How a monitor is wanted. */
export interface MonitorOptions {
  readonly name: string;
  readonly pretty: boolean;
  /** Called when its client has left. */
  readonly left?: () => void;
}

const SECOND_NS = 1e9;
/** Keys that may be limited at once; beyond it events of new keys are sent unlimited. */
const MAX_LIMITED_KEYS = 4096;

interface Limited {
  timer: Timer;
  /** The last event since the timer was started. */
  latest: Record<string, unknown> | undefined;
}

/** The monitors and the events. */
export class QmpServer implements EventSink {
  readonly #dispatcher: Dispatcher;
  readonly #monitors: Monitor[] = [];
  readonly #trace: MonitorTrace;
  readonly #emitted: TracePoint;
  readonly #limited = new Map<string, Limited>();
  /** Whose turn it is. */
  #turn = 0;
  #pumping = false;
  #held = false;
  #current: Monitor | undefined;

  constructor(private readonly parts: QmpServerParts) {
    const { context } = parts;
    const reportBug: ReportBug = (command, error) => {
      const text = error instanceof Error ? error.stack ?? error.message : String(error);
      context.log.error(`internal error in command ${command}: ${text}`);
    };
    this.#dispatcher = new Dispatcher(parts.commands, reportBug, (name) => context.trace(name));
    this.#trace = monitorTrace(context);
    this.#emitted = context.trace("monitor_protocol_event_emit");
  }

  /** A new monitor on the device that `attach` connects it to. */
  addMonitor(options: MonitorOptions, attach: (user: ChannelUser) => Channel): Monitor {
    const monitor = new Monitor({
      ...options,
      version: this.parts.version,
      dispatcher: this.#dispatcher,
      log: this.parts.context.log,
      trace: this.#trace,
      wake: () => this.#pump(),
    });
    this.#monitors.push(monitor);
    try {
      monitor.attach(attach(monitor));
    } catch (error) {
      this.#monitors.splice(this.#monitors.indexOf(monitor), 1);
      throw error;
    }
    return monitor;
  }

  /** The monitor whose request is being executed; out-of-band ones do not count. */
  get current(): Monitor | undefined {
    return this.#current;
  }

  /** Ends a monitor; a request of its own that asks for it is still answered. Idempotent. */
  removeMonitor(monitor: Monitor): void {
    const at = this.#monitors.indexOf(monitor);
    if (at < 0) return;
    this.#monitors.splice(at, 1);
    if (this.#turn > at) this.#turn--;
    monitor.leave();
  }

  /** Sends an event to every negotiated monitor, at most one a second where the event table says so. */
  emit(name: string, data: Record<string, unknown>): void {
    const keyOf = this.parts.events[name]?.rateLimit;
    if (keyOf === undefined) return this.#send(name, data);
    const key = `${name}\n${keyOf(data)}`;
    const entry = this.#limited.get(key);
    if (entry !== undefined) {
      entry.latest = data;
      return;
    }
    this.#send(name, data);
    if (this.#limited.size < MAX_LIMITED_KEYS) this.#limit(name, key);
  }

  /** Keeps requests until `release`. */
  hold(): void {
    this.#held = true;
  }

  /** Executes what `hold` has kept, and what comes. */
  release(): void {
    this.#held = false;
    this.#pump();
  }

  /** Executes nothing more; output goes on (see `flushed`). */
  freeze(): void {
    for (const monitor of this.#monitors) monitor.freeze();
  }

  /** Resolves when all clients have taken what was sent to them, or after `ns` nanoseconds. */
  async flushed(ns: number): Promise<void> {
    const { sys, loop } = this.parts.context;
    const end = sys.monotonicNs() + ns;
    while (this.#monitors.some((monitor) => monitor.unsent > 0) && sys.monotonicNs() < end) {
      await loop.sleep(1e6);
    }
  }

  /** Lets go of all devices and timers. */
  close(): void {
    for (const { timer } of this.#limited.values()) timer.cancel();
    this.#limited.clear();
    for (const monitor of this.#monitors) monitor.close();
    this.#monitors.length = 0;
  }

  #limit(name: string, key: string): void {
    const timer = this.parts.context.loop.timer(SECOND_NS, () => {
      const latest = this.#limited.get(key)?.latest;
      this.#limited.delete(key);
      if (latest === undefined) return;
      this.#send(name, latest);
      this.#limit(name, key);
    });
    this.#limited.set(key, { timer, latest: undefined });
  }

  #send(name: string, data: Record<string, unknown>): void {
    const microseconds = this.parts.context.sys.realtimeUs();
    const message = {
      timestamp: {
        seconds: Math.floor(microseconds / 1e6),
        microseconds: Math.floor(microseconds % 1e6),
      },
      event: name,
      ...(Object.keys(data).length > 0 ? { data } : {}),
    };
    const line = writeJson(message);
    if (this.#emitted.enabled) this.#emitted.emit(`event=${name} data=${writeJson(data)}`);
    for (const monitor of this.#monitors) monitor.event(line, () => writeJson(message, true));
  }

  /** Runs requests until there is none, one at a time. */
  async #pump(): Promise<void> {
    if (this.#pumping || this.#held) return;
    this.#pumping = true;
    for (;;) {
      const monitor = this.#next();
      if (monitor === undefined) break;
      this.#current = monitor;
      await monitor.runNext();
      this.#current = undefined;
    }
    this.#pumping = false;
  }

  #next(): Monitor | undefined {
    for (let i = 0; i < this.#monitors.length; i++) {
      const at = (this.#turn + i) % this.#monitors.length;
      const monitor = this.#monitors[at]!;
      if (!monitor.ready) continue;
      this.#turn = at + 1;
      return monitor;
    }
    return undefined;
  }
}
