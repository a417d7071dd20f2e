/**
 * A machine that fails on demand: wraps a Sys so that the k-th call fails, or moves only part of its bytes.
 * The base of "fail the k-th system call, for every k" (see block/drivers/file/faults_test.ts). Tests that give
 * answers of their own (a kernel without a call, a page cache that lacks a page) wrap a Sys themselves.
 */
import { IoVec } from "../../base/mod.ts";
import { Errno } from "../errno.ts";
import type { Sys } from "../types.ts";

/** Calls that can be made to fail: methods of Sys, and of its pool as "pool.NAME". */
export type FaultyCall =
  | { [K in keyof Sys]-?: Sys[K] extends (...args: never[]) => unknown ? K : never }[keyof Sys]
  | `pool.${Exclude<keyof Sys["pool"], symbol>}`;

/** Which call fails, and how. */
export interface FaultOptions {
  /** The calls that count. Default: all of `faultyByDefault`. */
  readonly calls?: readonly FaultyCall[];
  /** The number, from 1, of the call that fails; Infinity: none (to count them). */
  readonly failAt: number;
  /** How often: also the `times`-1 calls after it [1]; Infinity: all from there on. */
  readonly times?: number;
  /** Positive errno of the failure [EIO]. Unused with `short`. */
  readonly errno?: number;
  /** Instead of failing, reads and writes move only about half of the bytes (at least one). */
  readonly short?: boolean;
}

/** A Sys with faults, and what happened to it. */
export interface FaultySys {
  readonly sys: Sys;
  /** Calls that counted so far. */
  readonly calls: number;
  /** What failed: "NAME #NUMBER". */
  readonly injected: readonly string[];
}

/** Calls that reach a disk or make a descriptor. */
const faultyByDefault: readonly FaultyCall[] = [
  "open",
  "preadv",
  "pwritev",
  "pread",
  "pwrite",
  "fsync",
  "fdatasync",
  "fallocate",
  "ftruncate",
  "ioctl",
  "fstat",
  "stat",
  "lseek",
  "ofdSetLock",
  "ofdTestLock",
  "posixSetLock",
  "rename",
  "unlink",
  "socket",
  "bind",
  "listen",
  "accept",
  "connect",
  "send",
  "recv",
  "sendmsg",
  "recvmsg",
  "pool.open",
  "pool.preadv",
  "pool.pwritev",
  "pool.pread",
  "pool.pwrite",
  "pool.fsync",
  "pool.fdatasync",
  "pool.fallocate",
  "pool.ftruncate",
  "pool.ioctl",
];

/** Position of the length, or of the IoVec, among the arguments of calls that can be short. */
const SHORTABLE: Readonly<Record<string, { iov?: number; length?: number }>> = {
  preadv: { iov: 1 },
  pwritev: { iov: 1 },
  sendmsg: { iov: 1 },
  recvmsg: { iov: 1 },
  pread: { length: 2 },
  pwrite: { length: 2 },
  read: { length: 2 },
  write: { length: 2 },
  send: { length: 2 },
  recv: { length: 2 },
};

type AnyCall = (...args: unknown[]) => unknown;

/** Wraps `real`. Calls that do not count go through untouched. */
export function faultySys(real: Sys, options: FaultOptions): FaultySys {
  const counted = new Set<string>(options.calls ?? faultyByDefault);
  const { failAt, times = 1, errno = Errno.EIO, short = false } = options;
  const injected: string[] = [];
  let calls = 0;

  const wrap = (target: object, prefix: string): Map<string, AnyCall> => {
    const wrapped = new Map<string, AnyCall>();
    for (const key of counted) {
      if (key.startsWith("pool.") !== (prefix === "pool.")) continue;
      const name = key.slice(prefix.length);
      const call = (target as Record<string, AnyCall>)[name]!;
      wrapped.set(name, (...args) => {
        const number = ++calls;
        if (number < failAt || number >= failAt + times) return call.apply(target, args);
        const how = SHORTABLE[name];
        if (short && how === undefined) return call.apply(target, args);
        injected.push(`${key} #${number}`);
        if (short) return call.apply(target, shortened(args, how!));
        return prefix === "" ? -errno : Promise.resolve(-errno);
      });
    }
    return wrapped;
  };

  const pool = through(real.pool, wrap(real.pool, "pool."), {});
  const sys = through(real, wrap(real, ""), { pool });
  return {
    sys,
    injected,
    get calls() {
      return calls;
    },
  };
}

/** `target` with some methods replaced. Others are called on the target itself, for its private members. */
function through<T extends object>(
  target: T,
  calls: Map<string, AnyCall>,
  values: Record<string, unknown>,
): T {
  return new Proxy(target, {
    get(_, key) {
      if (typeof key === "string") {
        const call = calls.get(key);
        if (call !== undefined) return call;
        if (key in values) return values[key];
      }
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function shortened(args: unknown[], how: { iov?: number; length?: number }): unknown[] {
  const out = [...args];
  const half = (length: number) => Math.max(1, Math.floor(length / 2));
  if (how.length !== undefined) out[how.length] = half(args[how.length] as number);
  if (how.iov !== undefined) {
    const iov = args[how.iov] as IoVec;
    out[how.iov] = iov.total === 0 ? iov : iov.slice(0, half(iov.total), new IoVec());
  }
  return out;
}

/**
 * Runs `scenario` with the first call failing, then the second, and so on, until a run in which nothing had
 * to fail any more. Returns how many calls can fail. `scenario` gets the machine and judges its outcome itself.
 */
export async function failEveryCall(
  real: Sys,
  options: Omit<FaultOptions, "failAt">,
  scenario: (faulty: FaultySys) => void | Promise<void>,
): Promise<number> {
  for (let failAt = 1; failAt < 10_000; failAt++) {
    const faulty = faultySys(real, { ...options, failAt });
    await scenario(faulty);
    if (faulty.calls < failAt) return failAt - 1;
  }
  throw new Error("the scenario never came to its end");
}
