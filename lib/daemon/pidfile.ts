/** The pid file (--pidfile): locked while the daemon runs, removed at every exit. */
import { CommandError } from "../base/mod.ts";
import { errnoText, F, O, type Sys } from "../sys/mod.ts";

/** A pid file that this process holds. */
export interface PidFile {
  /** Removes the file and lets go of its lock. */
  remove(): void;
}

const refuse = (text: string) => new CommandError(`cannot create PID file: ${text}`);

/**
 * Creates the file, or takes over one that nobody holds; mode 0600, a POSIX write lock on all of it, then the pid
 * and a newline. A second daemon is refused, and finds the first one's pid untouched.
 */
export function createPidFile(sys: Sys, path: string): PidFile {
  const fd = lockedFile(sys, path);
  const fail = (what: string, rc: number) => {
    sys.close(fd);
    return refuse(`${what}: ${errnoText(-rc)}`);
  };
  const truncated = sys.ftruncate(fd, 0);
  if (truncated < 0) throw fail("Failed to truncate pid file", truncated);
  const text = new TextEncoder().encode(`${sys.pid}\n`);
  const memory = sys.allocate(text.length);
  memory.bytes.set(text);
  const written = sys.write(fd, memory.address, text.length);
  memory.unmap();
  if (written < text.length) throw fail("Failed to write pid file", written);
  // By its full path, since --daemonize changes the directory.
  const full = sys.realpath(path);
  return {
    remove() {
      sys.unlink(typeof full === "string" ? full : path);
      sys.close(fd);
    },
  };
}

/** Opens and locks; again while somebody removes or replaces the file in between. */
function lockedFile(sys: Sys, path: string): number {
  for (;;) {
    const fd = sys.open(path, O.CREAT | O.RDWR | O.CLOEXEC, 0o600);
    if (fd < 0) throw refuse(`Could not create '${path}': ${errnoText(-fd)}`);
    const locked = sys.posixSetLock(fd, F.WRLCK, 0, 0);
    if (locked < 0) {
      sys.close(fd);
      throw refuse(`Cannot lock pid file: ${errnoText(-locked)}`);
    }
    const mine = sys.fstat(fd), there = sys.stat(path);
    if (
      typeof mine !== "number" && typeof there !== "number" &&
      mine.inode === there.inode && mine.device === there.device
    ) {
      return fd;
    }
    sys.close(fd);
  }
}
