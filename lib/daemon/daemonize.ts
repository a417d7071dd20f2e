/**
 * --daemonize: the caller's process starts the daemon in a session of its own, waits until it is ready, and ends
 * with 0; or with 1 when the daemon ended before that, having said why on the caller's stderr.
 */
import { CommandError } from "../base/mod.ts";
import { environment, errnoText, F, O, respawn, type Sys } from "../sys/mod.ts";

/** Names the descriptor on which the daemon reports; the launcher's permissions name it too. */
const VARIABLE = "QSD_READY_FD";
/** Sockets and files of a daemon are nothing for others. */
const UMASK = 0o027;

/** The daemon's side: how it reports that it is ready. */
export interface Daemonized {
  /** Goes to the root directory, lets go of the terminal (of stderr too, unless it is kept), and reports. */
  ready(keepStderr: boolean): void;
}

/** Whether this process is the one that is to stay; undefined: it is the caller's, see `startDaemon`. */
export function daemonSide(sys: Sys): Daemonized | undefined {
  const fd = Number(environment(VARIABLE) ?? NaN);
  if (!Number.isInteger(fd) || sys.fcntl(fd, F.SETFD, 1) < 0) return undefined;
  sys.umask(UMASK);
  return { ready: (keepStderr) => report(sys, fd, keepStderr) };
}

function report(sys: Sys, fd: number, keepStderr: boolean): void {
  const away = sys.chdir("/");
  if (away < 0) throw new CommandError(`not able to chdir to /: ${errnoText(-away)}`);
  const nothing = sys.open("/dev/null", O.RDWR | O.CLOEXEC);
  if (nothing < 0) throw new CommandError(`failed to open /dev/null: ${errnoText(-nothing)}`);
  for (const standard of keepStderr ? [0, 1] : [0, 1, 2]) sys.dup2(nothing, standard);
  if (nothing > 2) sys.close(nothing);
  const memory = sys.allocate(1);
  sys.write(fd, memory.address, 1);
  memory.unmap();
  sys.close(fd);
}

/** The caller's side: starts the daemon, waits, and returns the exit status. */
export function startDaemon(sys: Sys): number {
  const pipe = sys.pipe2(O.CLOEXEC);
  if (typeof pipe === "number") {
    throw new CommandError(`cannot create a pipe: ${errnoText(-pipe)}`);
  }
  const [reading, writing] = pipe;
  respawn(sys, VARIABLE, writing);
  sys.close(writing);
  const memory = sys.allocate(1);
  try {
    return sys.read(reading, memory.address, 1) === 1 ? 0 : 1;
  } finally {
    memory.unmap();
    sys.close(reading);
  }
}
