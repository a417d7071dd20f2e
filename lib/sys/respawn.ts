/**
 * Starts this program anew, with the same arguments, in a session of its own: what a fork is to a daemon written in
 * C. A JavaScript runtime has threads from its first moment, so that it cannot fork.
 */
import { O } from "./constants.ts";
import { check } from "./errno.ts";
import { spawn } from "./process.ts";
import type { Sys } from "./types.ts";

/** Bytes read of a /proc file at once. */
const CHUNK = 65536;

/** The strings of a file under /proc, each of which ends with a NUL. */
function strings(sys: Sys, path: string): Uint8Array[] {
  const fd = check(sys.open(path, O.RDONLY | O.CLOEXEC), "open", path);
  const memory = sys.allocate(CHUNK);
  const found: Uint8Array[] = [];
  let rest = new Uint8Array();
  try {
    for (;;) {
      const count = check(sys.read(fd, memory.address, CHUNK), "read", path);
      if (count === 0) return found;
      const text = new Uint8Array(rest.length + count);
      text.set(rest);
      text.set(memory.bytes.subarray(0, count), rest.length);
      let at = 0;
      for (let end = text.indexOf(0); end >= 0; at = end + 1, end = text.indexOf(0, at)) {
        found.push(text.slice(at, end));
      }
      rest = text.slice(at);
    }
  } finally {
    memory.unmap();
    sys.close(fd);
  }
}

/**
 * Starts the program again with this process's arguments, environment and inherited descriptors, byte for byte, and
 * with `variable`=`fd` in the environment; descriptor `fd` is inherited too, and `blocked` (numbers of signals) wait
 * until it lets them in. Returns the pid. Throws SysError.
 */
export function respawn(
  sys: Sys,
  variable: string,
  fd: number,
  blocked: readonly number[] = [],
): number {
  const exe = sys.readlink("/proc/self/exe");
  const path = typeof exe === "string" ? exe : "/proc/self/exe";
  const argv = strings(sys, "/proc/self/cmdline");
  const env = [`${variable}=${fd}`, ...strings(sys, "/proc/self/environ")];
  const pid = spawn(sys, { path, argv, env, setsid: true, blocked, fds: [[fd, fd]] });
  return check(pid, "posix_spawn", path);
}
