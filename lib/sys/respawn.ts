/**
 * Starts this program anew, with the same arguments, in a session of its own: what a fork is to a daemon written in
 * C. A JavaScript runtime has threads from its first moment, so that it cannot fork.
 */
import { O } from "./constants.ts";
import { check, SysError } from "./errno.ts";
import { openLibc } from "./ffi.ts";
import { cstring } from "./memory.ts";
import type { Memory, Sys } from "./types.ts";

/** From spawn.h of glibc; the structs are opaque, 336 and 80 bytes on 64-bit machines. */
const POSIX_SPAWN_SETSID = 0x80;
const ATTRIBUTES_AT = 0;
const ACTIONS_AT = 512;
const PID_AT = 1024;
const BLOCK = 2048;
/** Bytes read of /proc files at once. */
const CHUNK = 65536;

/** The NUL-separated strings of a file under /proc. */
function strings(sys: Sys, path: string): Uint8Array {
  const fd = check(sys.open(path, O.RDONLY | O.CLOEXEC), "open", path);
  const memory = sys.allocate(CHUNK);
  const parts: number[] = [];
  try {
    for (;;) {
      const count = check(sys.read(fd, memory.address, CHUNK), "read", path);
      if (count === 0) return new Uint8Array(parts);
      for (let i = 0; i < count; i++) parts.push(memory.bytes[i]!);
    }
  } finally {
    memory.unmap();
    sys.close(fd);
  }
}

/** A C array of strings: pointers, a null pointer, then the text. */
function cStrings(sys: Sys, text: Uint8Array): Memory {
  const starts: number[] = [];
  for (let at = 0; at < text.length; at = text.indexOf(0, at) + 1 || text.length) starts.push(at);
  const table = (starts.length + 1) * 8;
  const memory = sys.allocate(table + text.length + 1);
  memory.bytes.set(text, table);
  starts.forEach((start, i) =>
    memory.view.setBigUint64(i * 8, BigInt(memory.address + table + start), true)
  );
  return memory;
}

/**
 * Starts the program again with this process's arguments, environment and inherited descriptors, and with
 * `variable`=`fd` in the environment; descriptor `fd` is inherited too. Returns the pid. Throws SysError.
 */
export function respawn(sys: Sys, variable: string, fd: number): number {
  const libc = openLibc();
  const { rare: symbols } = libc;
  const exe = sys.readlink("/proc/self/exe");
  const path = typeof exe === "string" ? exe : "/proc/self/exe";
  const extra = new TextEncoder().encode(`${variable}=${fd}\0`);
  const inherited = strings(sys, "/proc/self/environ");
  const environment = new Uint8Array(extra.length + inherited.length);
  environment.set(extra);
  environment.set(inherited, extra.length);
  const argv = cStrings(sys, strings(sys, "/proc/self/cmdline"));
  const envp = cStrings(sys, environment);
  const block = sys.allocate(BLOCK);
  const attributes = block.address + ATTRIBUTES_AT, actions = block.address + ACTIONS_AT;
  try {
    symbols.posix_spawnattr_init(attributes);
    symbols.posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSID);
    symbols.posix_spawn_file_actions_init(actions);
    // Onto itself: that takes its close-on-exec flag away, in the child.
    symbols.posix_spawn_file_actions_adddup2(actions, fd, fd);
    const pidAt = block.address + PID_AT;
    const errno = symbols.posix_spawn(
      pidAt,
      cstring(path),
      actions,
      attributes,
      argv.address,
      envp.address,
    );
    symbols.posix_spawn_file_actions_destroy(actions);
    symbols.posix_spawnattr_destroy(attributes);
    if (errno !== 0) throw new SysError("posix_spawn", errno, path);
    return block.view.getInt32(PID_AT, true);
  } finally {
    for (const memory of [argv, envp, block]) memory.unmap();
    libc.close();
  }
}
