/**
 * --daemonize: the caller's process starts the daemon in a session of its own, waits until it is ready, and ends
 * with 0; or with 1 when the daemon ended before that, having said why on the caller's stderr.
 */
import { CommandError } from "../base/mod.ts";
import { environment, errnoText, F, type FileStat, O, respawn, type Sys } from "../sys/mod.ts";

/** Names the descriptor on which the daemon reports; the launcher's permissions name it too. */
const VARIABLE = "QSD_READY_FD";
/** Sockets and files of a daemon are nothing for others. */
const UMASK = 0o027;
const FD_CLOEXEC = 1;

/** The daemon's side: how it reports that it is ready. */
export interface Daemonized {
  /** Goes to the root directory, lets go of the terminal (of stderr too, unless it is kept), and reports. */
  ready(keepStderr: boolean): void;
}

/** Whether this process is the one that is to stay; undefined: it is the caller's, see `startDaemon`. */
export function daemonSide(sys: Sys): Daemonized | undefined {
  const fd = Number(environment(VARIABLE) ?? NaN);
  if (!Number.isInteger(fd) || sys.fcntl(fd, F.SETFD, FD_CLOEXEC) < 0) return undefined;
  sys.umask(UMASK);
  const handedDown = inherited(sys);
  return { ready: (keepStderr) => report(sys, fd, keepStderr ? [0, 1] : [0, 1, 2], handedDown) };
}

/** Most descriptors looked at; the runtime's own have low numbers. */
const MAX_COPIES = 256;

/** What the caller handed down: its close-on-exec flag is off, since it came through an exec. */
function inherited(sys: Sys): ReadonlySet<number> {
  const found = new Set<number>();
  for (let fd = 3; fd < MAX_COPIES; fd++) if (sys.fcntl(fd, F.GETFD, 0) === 0) found.add(fd);
  return found;
}

/**
 * Puts `nothing` in the place of the standard descriptors and of the runtime's own copies of them (it makes some
 * for each thread): left open they would keep a caller waiting that reads the daemon's output to its end.
 */
function letGo(
  sys: Sys,
  standards: readonly number[],
  nothing: number,
  handedDown: ReadonlySet<number>,
): void {
  const before = [0, 1, 2].map((fd) => sys.fstat(fd));
  // First these: a copy made from now on is one of nothing.
  for (const standard of standards) sys.dup2(nothing, standard);
  for (let fd = 3; fd < MAX_COPIES; fd++) {
    if (handedDown.has(fd) || fd === nothing) continue;
    const stat = sys.fstat(fd);
    if (typeof stat === "number") continue;
    const same = (one: FileStat | number) =>
      typeof one !== "number" && one.inode === stat.inode && one.device === stat.device;
    const of = [0, 1, 2].filter((standard) => same(before[standard]!));
    if (of.length === 0 || !of.every((one) => standards.includes(one))) continue;
    sys.dup2(nothing, fd);
    sys.fcntl(fd, F.SETFD, FD_CLOEXEC);
  }
}

function report(
  sys: Sys,
  fd: number,
  standards: readonly number[],
  handedDown: ReadonlySet<number>,
): void {
  const away = sys.chdir("/");
  if (away < 0) throw new CommandError(`not able to chdir to /: ${errnoText(-away)}`);
  const nothing = sys.open("/dev/null", O.RDWR | O.CLOEXEC);
  if (nothing < 0) throw new CommandError(`failed to open /dev/null: ${errnoText(-nothing)}`);
  letGo(sys, standards, nothing, handedDown);
  if (nothing > 2) sys.close(nothing);
  const memory = sys.allocate(1);
  sys.write(fd, memory.address, 1);
  memory.unmap();
  sys.close(fd);
}

/**
 * The caller's side: starts the daemon, with `blocked` signals held back until it lets them in, waits, and returns the
 * exit status.
 */
export function startDaemon(sys: Sys, blocked: readonly number[]): number {
  const pipe = sys.pipe2(O.CLOEXEC);
  if (typeof pipe === "number") {
    throw new CommandError(`cannot create a pipe: ${errnoText(-pipe)}`);
  }
  const [reading, writing] = pipe;
  respawn(sys, VARIABLE, writing, blocked);
  sys.close(writing);
  const memory = sys.allocate(1);
  try {
    return sys.read(reading, memory.address, 1) === 1 ? 0 : 1;
  } finally {
    memory.unmap();
    sys.close(reading);
  }
}
