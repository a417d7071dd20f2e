/** From the command line to the exit status. */
import { CommandError } from "../base/mod.ts";
import {
  createContext,
  createLog,
  environment,
  exit,
  LinuxSys,
  type Log,
  onSignals,
  programArguments,
  writeStderr,
  writeStdout,
} from "../sys/mod.ts";
import { type Daemonized, daemonSide, startDaemon } from "./daemonize.ts";
import { applyOption } from "./apply.ts";
import { type CommandLine, parseCommandLine } from "./options.ts";
import { createPidFile, type PidFile } from "./pidfile.ts";
import { Services } from "./services.ts";

/** Runs the daemon with this process's arguments, to its end. */
export async function runDaemon(): Promise<never> {
  const program = environment("QSD_NAME") ?? "qsd";
  const log = createLog(program, writeStderr);
  exit(await start(program, programArguments(), log));
}

/** Reports what the user did wrong; the hints stand on lines of their own. */
function complain(log: Log, error: unknown, where = ""): void {
  const text = error instanceof Error ? error.message : String(error);
  log.error(where === "" ? text : `${where}: ${text}`);
  if (error instanceof CommandError) {
    for (const hint of error.hints) writeStderr(`${hint}\n`);
    return;
  }
  // A system call's failure explains itself; anything else is a mistake of ours.
  if (error instanceof Error && !("errno" in error)) writeStderr(`${error.stack ?? ""}\n`);
}

async function start(program: string, args: readonly string[], log: Log): Promise<number> {
  const parsed = parseCommandLine(program, args);
  if ("text" in parsed) return writeStdout(parsed.text) ? 0 : 1;
  if ("problem" in parsed) {
    log.error(parsed.problem);
    return 1;
  }
  let daemonized: Daemonized | undefined;
  if (parsed.daemonize) {
    const sys = new LinuxSys();
    try {
      daemonized = daemonSide(sys);
      if (daemonized === undefined) return startDaemon(sys);
      return await serve(parsed, log, daemonized);
    } catch (error) {
      complain(log, error);
      return 1;
    } finally {
      sys.dispose();
    }
  }
  return await serve(parsed, log, undefined);
}

/** The daemon's life: options in their order, readiness, then until it is asked to stop. */
async function serve(line: CommandLine, log: Log, daemonized?: Daemonized): Promise<number> {
  const services = new Services(createContext({ name: "main", log }));
  let pidFile: PidFile | undefined;
  let signals = 0;
  const watch = onSignals(["SIGINT", "SIGTERM", "SIGHUP"], (signal) => {
    if (++signals === 1) return services.requestStop(signal);
    log.error(`${signal} again while stopping: gave up waiting for ${services.waitingFor()}`);
    pidFile?.remove();
    exit(1);
  });
  let status = 0;
  try {
    const stopped = services.stopRequested.then(() => "stopped" as const);
    if (await Promise.race([applyAll(services, line, log), stopped]) === "failed") {
      status = 1;
    } else {
      if (line.pidfile !== undefined) pidFile = createPidFile(services.context.sys, line.pidfile);
      daemonized?.ready(false);
      await stopped;
    }
  } catch (error) {
    complain(log, error);
    status = 1;
  }
  await services.stop();
  pidFile?.remove();
  watch.close();
  return status;
}

/** Pass 2: whatever makes something, strictly in the order of the command line. */
async function applyAll(
  services: Services,
  line: CommandLine,
  log: Log,
): Promise<"ready" | "failed"> {
  for (const option of line.options) {
    try {
      await applyOption(services, option);
    } catch (error) {
      complain(log, error, option.typed);
      return "failed";
    }
  }
  return "ready";
}
