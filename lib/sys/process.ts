/** The process and its surroundings: starting a detached copy of it, terminals, sessions. */
import { assert } from "../base/mod.ts";
import { BLK } from "./constants.ts";
import { Errno } from "./errno.ts";
import { type Libc, openLibc } from "./ffi.ts";
import { putU64 } from "./layout.ts";
import { cstring } from "./memory.ts";
import type { Memory, Sys } from "./types.ts";

/** POSIX_SPAWN_SETSID (spawn.h, since glibc 2.26). */
const SPAWN_SETSID = 0x80;
const SPAWN_SETSIGMASK = 0x08;
const SPAWN_SETSIGDEF = 0x04;
/** Room for posix_spawnattr_t (336 bytes) and posix_spawn_file_actions_t (80 bytes) of glibc. */
const ATTR_AT = 0;
const ACTIONS_AT = 512;
const PID_AT = 1024;
const MASK_AT = 1040;
const VECTORS_AT = 1168;
const WNOHANG = 1;
const SIG_UNBLOCK = 1;
/** Bytes of the C library's sigset_t; signal N is bit N-1. */
const SIGSET_SIZE = 128;

/** What is to be started. Bytes go to the program as they are: file names need not be UTF-8. */
export interface SpawnOptions {
  /** Path of the executable. */
  readonly path: string;
  /** Arguments, with the program's name first. */
  readonly argv: readonly (string | Uint8Array)[];
  /** Variables as "NAME=VALUE"; nothing else is inherited. */
  readonly env: readonly (string | Uint8Array)[];
  /** In a session of its own, without a controlling terminal. */
  readonly setsid?: boolean;
  /** Numbers of signals that the child begins with blocked (see `letSignalsIn`); by default none. */
  readonly blocked?: readonly number[];
  /**
   * Descriptors that the child gets: [ours, its number]. Others that are close-on-exec are closed; to
   * keep one at its number give the number twice.
   */
  readonly fds?: readonly (readonly [number, number])[];
}

/** Starts a program (posix_spawn) without waiting for it. Result: its pid, or -errno. */
export function spawn(sys: Sys, options: SpawnOptions): number {
  const texts = [options.path, ...options.argv, ...options.env];
  const strings = texts.map((text) => typeof text === "string" ? cstring(text) : terminated(text));
  // A NUL within would cut the string short.
  if (strings.some((bytes) => bytes.indexOf(0) !== bytes.length - 1)) return -Errno.EINVAL;
  const libc = openLibc();
  const total = strings.reduce((sum, bytes) => sum + bytes.length, 0);
  const memory = sys.allocate(VECTORS_AT + (strings.length + 1) * 8 + total);
  try {
    return spawnWith(libc, memory, options, strings);
  } finally {
    memory.unmap();
    libc.close();
  }
}

function terminated(text: Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(text.length + 1);
  bytes.set(text);
  return bytes;
}

/** `strings`: the path, arguments and variables, each with its NUL. */
function spawnWith(
  { rare: symbols }: Libc,
  memory: Memory,
  options: SpawnOptions,
  [path, ...strings]: readonly Uint8Array<ArrayBuffer>[],
): number {
  const { address, bytes, view } = memory;
  const { argv, env } = options;
  // The vectors, each with a null pointer at its end; then the text.
  const envAt = VECTORS_AT + (argv.length + 1) * 8;
  let textAt = envAt + (env.length + 1) * 8;
  strings.forEach((string, i) => {
    const vector = i < argv.length ? VECTORS_AT + i * 8 : envAt + (i - argv.length) * 8;
    putU64(view, vector, address + textAt);
    bytes.set(string, textAt);
    textAt += string.length;
  });
  const pointer = (at: number) => BigInt(address + at);
  const attributes = pointer(ATTR_AT);
  const actions = pointer(ACTIONS_AT);
  symbols.posix_spawnattr_init(attributes);
  symbols.posix_spawn_file_actions_init(actions);
  try {
    // Signal mask and dispositions do not depend on ours: the runtime's own are none of the child's business.
    const session = options.setsid ? SPAWN_SETSID : 0;
    putSignals(bytes, MASK_AT, options.blocked ?? []);
    symbols.posix_spawnattr_setsigmask(attributes, pointer(MASK_AT));
    symbols.posix_spawnattr_setflags(attributes, session | SPAWN_SETSIGMASK | SPAWN_SETSIGDEF);
    for (const [from, to] of options.fds ?? []) {
      // dup2 onto itself clears close-on-exec here (glibc 2.29).
      const rc = symbols.posix_spawn_file_actions_adddup2(actions, from, to);
      if (rc !== 0) return -rc;
    }
    const rc = symbols.posix_spawn(
      pointer(PID_AT),
      path!,
      actions,
      attributes,
      pointer(VECTORS_AT),
      pointer(envAt),
    );
    return rc === 0 ? view.getInt32(PID_AT, true) : -rc;
  } finally {
    symbols.posix_spawn_file_actions_destroy(actions);
    symbols.posix_spawnattr_destroy(attributes);
  }
}

/** Writes the set of `signals` at `at`; the bytes are zero before. */
function putSignals(bytes: Uint8Array, at: number, signals: readonly number[]): void {
  for (const signal of signals) bytes[at + ((signal - 1) >> 3)]! |= 1 << ((signal - 1) & 7);
}

/**
 * Lets `signals`, by number, in again that whoever started this program had blocked, so that none takes effect before
 * there is a handler. What came meanwhile comes now. One thread that takes them is enough: this one.
 */
export function letSignalsIn(sys: Sys, signals: readonly number[]): void {
  // By itself: binding all of libc once more takes a tenth of the daemon's start.
  const libc = Deno.dlopen("libc.so.6", {
    pthread_sigmask: { parameters: ["i32", "usize", "usize"], result: "i32" },
  });
  const memory = sys.allocate(SIGSET_SIZE);
  try {
    putSignals(memory.bytes, 0, signals);
    libc.symbols.pthread_sigmask(SIG_UNBLOCK, BigInt(memory.address), 0n);
  } finally {
    memory.unmap();
    libc.close();
  }
}

/** How a child ended: its exit status, or the signal that killed it. */
export type ChildEnd = { readonly status: number } | { readonly signal: number };

/** Asks whether child `pid` has ended: undefined while it runs, -errno if it is not ours. Does not wait. */
export function reapChild(sys: Sys, pid: number): ChildEnd | undefined | number {
  const libc = openLibc();
  const memory = sys.allocate(4);
  try {
    const rc = libc.rare.waitpid(pid, BigInt(memory.address), WNOHANG);
    if (rc < 0) return -libc.errno[0]!;
    if (rc === 0) return undefined;
    const word = memory.view.getInt32(0, true);
    return (word & 0x7f) === 0 ? { status: (word >> 8) & 0xff } : { signal: word & 0x7f };
  } finally {
    memory.unmap();
    libc.close();
  }
}

/** Whether `fd` is a terminal. */
export function isTerminal(sys: Sys, fd: number): boolean {
  const scratch = sys.allocate(64);
  const rc = sys.ioctl(fd, BLK.TCGETS, scratch.address);
  scratch.unmap();
  return rc === 0;
}

/** Offsets in the kernel's struct termios, and the bits that raw mode changes (asm-generic/termbits.h). */
const TERMIOS = { iflag: 0, oflag: 4, cflag: 8, lflag: 12, cc: 17, size: 36 } as const;
/** IGNBRK BRKINT PARMRK ISTRIP INLCR IGNCR ICRNL IXON */
const IFLAG_OFF = 0o1 | 0o2 | 0o10 | 0o40 | 0o100 | 0o200 | 0o400 | 0o2000;
const OPOST = 0o1;
const CSIZE_PARENB = 0o60 | 0o400;
const CS8 = 0o60;
/** ECHO ECHONL ICANON IEXTEN, and ISIG */
const LFLAG_OFF = 0o10 | 0o100 | 0o2 | 0o100000;
const ISIG = 0o1;
const VMIN = 6;
const VTIME = 5;

/**
 * Puts terminal `fd` into raw mode; `signals`: Ctrl-C and the like keep their meaning. The result restores what
 * was there before, or is -errno (ENOTTY where `fd` is no terminal). Output post-processing stays on, as the
 * original has it for a stdio character device.
 */
export function rawTerminal(
  sys: Sys,
  fd: number,
  options: { signals: boolean },
): { restore(): number } | number {
  const scratch = sys.allocate(64);
  const { view, bytes } = scratch;
  const rc = sys.ioctl(fd, BLK.TCGETS, scratch.address);
  if (rc < 0) {
    scratch.unmap();
    return rc;
  }
  const saved = bytes.slice(0, TERMIOS.size);
  const change = (at: number, off: number, on: number) =>
    view.setUint32(at, (view.getUint32(at, true) & ~off) | on, true);
  change(TERMIOS.iflag, IFLAG_OFF, 0);
  change(TERMIOS.oflag, 0, OPOST);
  change(TERMIOS.cflag, CSIZE_PARENB, CS8);
  change(TERMIOS.lflag, LFLAG_OFF | (options.signals ? 0 : ISIG), 0);
  bytes[TERMIOS.cc + VMIN] = 1;
  bytes[TERMIOS.cc + VTIME] = 0;
  const set = sys.ioctl(fd, BLK.TCSETS, scratch.address);
  scratch.unmap();
  if (set < 0) return set;
  let restored = false;
  return {
    restore() {
      assert(!restored, "terminal restored twice");
      restored = true;
      const memory = sys.allocate(64);
      memory.bytes.set(saved);
      const rc = sys.ioctl(fd, BLK.TCSETS, memory.address);
      memory.unmap();
      return rc;
    },
  };
}
