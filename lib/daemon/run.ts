/** From the command line to the exit status. */
import { CommandError } from "../base/mod.ts";
import { type CommandLine, parseCommandLine } from "../cli/mod.ts";
import { reloadCommands } from "../qmp/schema/reload.ts";
import {
  createContext,
  environment,
  exit,
  type HeldSignals,
  letSignalsIn,
  LinuxSys,
  onUncaught,
  programArguments,
  SIG,
  type StopSignal,
  type Sys,
  writeStdout,
} from "../sys/mod.ts";
import { applyOption, configMakers } from "./apply.ts";
import { Configuration } from "./config_reload.ts";
import { type Daemonized, daemonSide, startDaemon } from "./daemonize.ts";
import { LocatedLog } from "./located_log.ts";
import { createPidFile, type PidFile } from "./pidfile.ts";
import { Services } from "./services.ts";
import { inheritedDescriptors, ServiceManager } from "./systemd.ts";
import { Tracing } from "./trace.ts";
import { VERSION } from "./version.ts";

/** How long an option that is being applied may hold up a stop, in nanoseconds. */
const OPTION_GRACE_NS = 5e9;

/**
 * Signals that come within this time, in nanoseconds, are one wish: `timeout` sends its signal to the process and
 * then to its group, a terminal that goes away does the like.
 */
const SAME_WISH_NS = 1e9;

/** What asks a daemon to stop, or must not end it: whoever starts it holds these back until there are handlers. */
const HELD = [SIG.INT, SIG.TERM, SIG.HUP, SIG.USR1, SIG.ALRM, SIG.IO];

/** Runs the daemon with this process's arguments, to its end. `signals`: those that ask it to stop. */
export async function runDaemon(signals: HeldSignals<StopSignal>): Promise<never> {
  exit(await start(environment("QSD_NAME") ?? "qsd", programArguments(), signals));
}

/** In the process that only waits for the daemon a signal has its usual effect, also one that has come already. */
function waitForDaemon(sys: Sys, signals: HeldSignals<StopSignal>): number {
  const [held] = signals.close();
  letSignalsIn(sys, HELD);
  if (held !== undefined) sys.kill(sys.pid, SIG[held.slice("SIG".length) as "INT"]);
  return startDaemon(sys, HELD);
}

/** Reports what the user did wrong; the hints stand on lines of their own. */
function complain(log: LocatedLog, error: unknown): void {
  log.error(error instanceof Error ? error.message : String(error));
  if (error instanceof CommandError) {
    error.hints.forEach((hint) => log.hint(hint));
  } else if (error instanceof Error && !("errno" in error)) {
    // A failed system call explains itself; this is a mistake of ours.
    log.hint(error.stack ?? "");
  }
}

/** `called` is the name by which the user called the program, perhaps with a path. */
async function start(
  called: string,
  args: readonly string[],
  signals: HeldSignals<StopSignal>,
): Promise<number> {
  const program = called.slice(called.lastIndexOf("/") + 1);
  const log = new LocatedLog(program);
  const parsed = parseCommandLine(program, args, VERSION);
  if ("text" in parsed) return writeStdout(parsed.text) ? 0 : 1;
  if ("problem" in parsed) {
    // As getopt does, which knows the program by the whole of its name.
    new LocatedLog(called).error(parsed.problem);
    return 1;
  }
  const sys = new LinuxSys();
  try {
    let daemonized: Daemonized | undefined;
    if (parsed.daemonize) {
      daemonized = daemonSide(sys);
      if (daemonized === undefined) return waitForDaemon(sys, signals);
    }
    return await new Life(sys, parsed, log, new Tracing(sys), daemonized).run(signals);
  } catch (error) {
    complain(log, error);
    return 1;
  } finally {
    sys.dispose();
  }
}

/** The life of a daemon: options in their order, readiness, then until it is asked to stop. */
class Life {
  readonly #services: Services;
  readonly #manager: ServiceManager;
  readonly #configuration: Configuration;
  #pidFile: PidFile | undefined;
  /** When the first signal that asks to stop came, in nanoseconds. */
  #signalledNs: number | undefined;
  /** Whether a stop was asked for before all options were applied. */
  #stopping = false;

  constructor(
    sys: LinuxSys,
    private readonly line: CommandLine,
    private readonly log: LocatedLog,
    private readonly tracing: Tracing,
    private readonly daemonized: Daemonized | undefined,
  ) {
    const trace = (name: string) => tracing.registry.point("main", name);
    this.#services = new Services(
      createContext({
        name: "main",
        sys,
        log,
        trace,
        onError: (error) => this.#onUncaught(error),
      }),
      tracing.registry,
      log.program,
    );
    this.#services.hold();
    const { daemonize } = line;
    const makers = configMakers({ services: this.#services, log, daemonize });
    this.#configuration = new Configuration(this.#services, makers);
    this.#services.commands.register(reloadCommands, {
      "x-qsd-reload": ({ mode }) => this.#configuration.reload(mode ?? "safe"),
    });
    this.#manager = new ServiceManager(this.#services.context);
    for (const [name, fd] of inheritedDescriptors(sys)) sys.descriptors.set(name, fd);
  }

  async run(signals: HeldSignals<StopSignal>): Promise<number> {
    const services = this.#services;
    const uncaught = onUncaught((error) => this.#onUncaught(error));
    signals.handle((signal) => this.#onSignal(signal));
    letSignalsIn(services.context.sys, HELD);
    let status = 0;
    try {
      const stopped = services.stopRequested.then(() => "stopped" as const);
      const outcome = await this.#untilReady(stopped);
      if (outcome === "ready") {
        this.#becomeReady();
        await stopped;
        this.#manager.stopping(await services.stopRequested);
      }
    } catch (error) {
      complain(this.log, error);
      status = 1;
    }
    this.log.location = undefined;
    await services.stop(() => this.#manager.close());
    this.#pidFile?.remove();
    this.tracing.close();
    signals.close();
    uncaught.close();
    return status;
  }

  /**
   * Applies the options. A signal ends a start that waits (for a chardev's client, for example), too: what the
   * option under way has made by then is waited for, so that the stop finds all of it.
   */
  async #untilReady(stopped: Promise<"stopped">): Promise<"ready" | "done" | "stopped"> {
    const applying = this.#applyAll();
    const outcome = await Promise.race([applying, stopped]);
    if (outcome !== "stopped") return outcome;
    this.#stopping = true;
    const timer = this.#services.context.loop.timer(OPTION_GRACE_NS, () => {
      this.log.error("still being applied while stopping: gave up waiting for it");
      this.#abandon();
    });
    await applying.catch(() => {});
    timer.cancel();
    return "stopped";
  }

  /** Pass 2: whatever makes something, strictly in the order of the command line. */
  async #applyAll(): Promise<"ready" | "done" | "stopped"> {
    for (const option of this.line.options) {
      if (this.#stopping) return "stopped";
      this.log.location = option.typed;
      const text = await applyOption(option, {
        services: this.#services,
        configuration: this.#configuration,
        tracing: this.tracing,
        log: this.log,
        daemonize: this.line.daemonize,
      });
      if (text !== undefined) {
        writeStdout(text);
        return "done";
      }
    }
    this.log.location = undefined;
    return "ready";
  }

  #becomeReady(): void {
    const { pidfile } = this.line;
    if (pidfile !== undefined) {
      this.#pidFile = createPidFile(this.#services.context.sys, pidfile);
    }
    this.daemonized?.ready(this.tracing.toStderr);
    this.#services.release();
    this.#manager.ready(this.#services.summary());
  }

  /** The first one asks for a graceful stop; a later one ends a stop that hangs. */
  #onSignal(signal: string): void {
    const now = this.#services.context.sys.monotonicNs();
    if (this.#signalledNs === undefined) {
      this.#signalledNs = now;
      return this.#services.requestStop(signal);
    }
    if (now - this.#signalledNs < SAME_WISH_NS) return;
    const what = this.#services.waitingFor();
    this.log.error(`${signal} again while stopping: gave up waiting for ${what}`);
    this.#abandon();
  }

  /**
   * A mistake of ours: the state can no longer be trusted, so that nothing more is written to images. What was
   * acknowledged is with the kernel; clients see their connections end.
   */
  #onUncaught(error: unknown): void {
    this.log.error("internal error; please report it:");
    this.log.hint((error instanceof Error ? error.stack : undefined) ?? String(error));
    this.#abandon();
  }

  /** Ends the process at once; only what others would take for a running daemon is removed. */
  #abandon(): never {
    try {
      this.#pidFile?.remove();
      this.#services.abandon();
    } finally {
      exit(1);
    }
  }
}
