/**
 * What a service manager wants of a daemon (sd_notify(3), sd_listen_fds(3)): word of its state, signs of life,
 * and sockets that were opened for it. Without one nothing of this does anything.
 */
import {
  AF,
  type Context,
  environment,
  errnoText,
  F,
  SOCK,
  type Sys,
  type Timer,
  unsetEnvironment,
} from "../sys/mod.ts";

/** The first descriptor that is handed down (SD_LISTEN_FDS_START). */
const FIRST_FD = 3;
/** More than anybody hands down; a larger number in the environment is nonsense. */
const MAX_FDS = 1024;

/** Variables by name; `environment` outside of tests. */
export type Variables = (name: string) => string | undefined;

/** A variable that is a whole number; undefined when it is none. */
function number(variables: Variables, name: string): number | undefined {
  const text = variables(name);
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined;
}

/**
 * The sockets handed down by the service manager, by name: `fd:` addresses may use it in place of the number. Of
 * several sockets of one name the first has it. The variables are taken out of the environment, and the
 * descriptors are not handed on to programs that the daemon starts.
 */
export function inheritedDescriptors(
  sys: Sys,
  variables: Variables = environment,
  unset: (name: string) => void = unsetEnvironment,
): Map<string, number> {
  const found = new Map<string, number>();
  const count = number(variables, "LISTEN_FDS") ?? 0;
  if (number(variables, "LISTEN_PID") === sys.pid && count <= MAX_FDS) {
    const names = variables("LISTEN_FDNAMES")?.split(":") ?? [];
    for (let i = 0; i < count; i++) {
      const fd = FIRST_FD + i;
      if (sys.fcntl(fd, F.SETFD, F.FD_CLOEXEC) < 0) continue;
      const name = names[i] ?? "";
      if (name !== "" && !found.has(name)) found.set(name, fd);
    }
  }
  for (const name of ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]) unset(name);
  return found;
}

/** Tells the service manager how the daemon is. */
export class ServiceManager {
  readonly #context: Context;
  readonly #path: string | undefined;
  /** Nanoseconds between two signs of life; undefined: none are wanted. */
  readonly #everyNs: number | undefined;
  #fd = -1;
  #timer: Timer | undefined;

  constructor(context: Context, variables: Variables = environment) {
    this.#context = context;
    const path = variables("NOTIFY_SOCKET");
    this.#path = path === undefined || !/^[/@]/.test(path) ? undefined : path.replace(/^@/, "\0");
    const watchdogUs = number(variables, "WATCHDOG_USEC") ?? 0;
    const pid = number(variables, "WATCHDOG_PID") ?? context.sys.pid;
    // Half of the time, as sd_watchdog_enabled(3) advises.
    if (watchdogUs > 0 && pid === context.sys.pid) this.#everyNs = watchdogUs * 1000 / 2;
  }

  /** The daemon serves from now on. Signs of life begin: they come from the event loop, and end when it is stuck. */
  ready(status: string): void {
    this.#tell(`READY=1\nMAINPID=${this.#context.sys.pid}\nSTATUS=${oneLine(status)}`);
    this.#alive();
  }

  /** What it does now, in words. */
  status(status: string): void {
    this.#tell(`STATUS=${oneLine(status)}`);
  }

  /** It has begun to stop. Signs of life go on: a stop may take long. */
  stopping(reason: string): void {
    this.#tell(`STOPPING=1\nSTATUS=Stopping: ${oneLine(reason)}`);
  }

  /** Nothing more is told. Idempotent. */
  close(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#fd >= 0) this.#context.sys.close(this.#fd);
    this.#fd = -1;
  }

  #alive(): void {
    if (this.#everyNs === undefined || this.#path === undefined) return;
    this.#timer = this.#context.loop.timer(this.#everyNs, () => {
      this.#tell("WATCHDOG=1");
      this.#alive();
    });
  }

  #tell(text: string): void {
    if (this.#path === undefined) return;
    const rc = this.#send(text);
    if (rc < 0) {
      this.#context.log.warn(`the service manager cannot be told: ${errnoText(-rc)}`);
    }
  }

  #send(text: string): number {
    const { sys } = this.#context;
    if (this.#fd < 0) {
      const fd = sys.socket(AF.UNIX, SOCK.DGRAM);
      if (fd < 0) return fd;
      const rc = sys.connect(fd, { family: "unix", path: this.#path! });
      if (rc < 0) {
        sys.close(fd);
        return rc;
      }
      this.#fd = fd;
    }
    const bytes = new TextEncoder().encode(text);
    const memory = sys.allocate(bytes.length);
    memory.bytes.set(bytes);
    const rc = sys.send(this.#fd, memory.address, bytes.length, 0);
    memory.unmap();
    return rc;
  }
}

/** A state is one line: what follows would be read as another variable. */
function oneLine(text: string): string {
  return text.replace(/\p{Cc}+/gu, " ");
}
