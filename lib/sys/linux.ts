/** LinuxSys: the Sys contract on the running kernel. One instance per context (thread). */
import { type Arch, archConstants, CLOCK, syscallNumbers } from "./constants.ts";
import { Errno, SysError } from "./errno.ts";
import { openLibc } from "./ffi.ts";
import { Guards, UNGUARDED } from "./guard.ts";
import { isNumericAddress, parseIPv4 } from "./inet.ts";
import { getU64, putU64 } from "./layout.ts";
import { cstring, hasNul } from "./memory.ts";
import { ThreadPool } from "./pool.ts";
import { resolveHost, resolveService } from "./resolve.ts";
import { SocketSys } from "./sockets.ts";
import type { Memory, MemoryGuard, SocketAddress, Sys } from "./types.ts";

const CLOCK_AT = 28672;
/** Where cachestat's range lies in the scratch struct, behind its result (five 64-bit numbers). */
const CACHESTAT_RANGE = 64;
const RUSAGE_THREAD = 1;
/** ru_nvcsw in struct rusage: two timevals and twelve longs come before. */
const NVCSW_AT = 128;

/** Everything of the machine. `dispose` gives back memory and libc. */
export class LinuxSys extends SocketSys implements Sys {
  readonly arch: Arch;
  readonly pid: number = Deno.pid;
  readonly descriptors: Map<string, number> = new Map();
  readonly adopted: Set<number> = new Set();
  readonly pool: ThreadPool;
  readonly #cachestat: number;
  readonly #getrusage: number;
  /** Made at first use; null: refused. */
  #guards: Guards | null | undefined;
  readonly #clock: Uint32Array;
  readonly #clockPointer: bigint;

  constructor(options: { withoutStub?: boolean } = {}) {
    const arch = Deno.build.arch;
    super(openLibc(), archConstants(arch));
    this.arch = arch;
    this.#cachestat = syscallNumbers(arch).cachestat;
    this.#getrusage = syscallNumbers(arch).getrusage;
    this.pool = new ThreadPool(this.libc, arch, (length) => this.allocate(length), options);
    this.#clock = new Uint32Array(this.scratch.bytes.buffer, CLOCK_AT, 4);
    this.#clockPointer = BigInt(this.scratch.address + CLOCK_AT);
  }

  get threadId(): number {
    return this.raw(syscallNumbers(this.arch).gettid);
  }

  raw(number: number, a = 0, b = 0, c = 0, d = 0, e = 0, f = 0): number {
    const { wide } = this;
    const rc = this.libc.data.syscall(
      wide.of(number),
      wide.of(a),
      wide.of(b),
      wide.of(c),
      wide.of(d),
      wide.of(e),
      wide.of(f),
    );
    return rc === -1 ? this.fail() : rc;
  }

  cachedPages(fd: number, offset: number, length: number): number {
    putU64(this.struct, CACHESTAT_RANGE, offset);
    putU64(this.struct, CACHESTAT_RANGE + 8, length);
    const rc = this.raw(this.#cachestat, fd, this.structAt + CACHESTAT_RANGE, this.structAt);
    return rc < 0 ? rc : getU64(this.struct, 0); // struct cachestat: nr_cache first
  }

  guard(memory: Memory): MemoryGuard {
    return this.#openGuards()?.add(memory) ?? UNGUARDED;
  }

  guardAt(address: number): MemoryGuard {
    return this.#openGuards()?.at(address) ?? UNGUARDED;
  }

  #openGuards(): Guards | null {
    // The scratch is free between two calls.
    if (this.#guards === undefined) {
      this.#guards = Guards.open(this.libc, this.arch, this.scratch) ?? null;
    }
    return this.#guards;
  }

  override close(fd: number): number {
    this.adopted.delete(fd);
    return super.close(fd);
  }

  async resolve(host: string, port: number): Promise<SocketAddress[]> {
    if (isNumericAddress(host)) {
      return [
        parseIPv4(host) !== undefined
          ? { family: "inet", host, port }
          : { family: "inet6", host, port },
      ];
    }
    return await resolveHost(this, this.libc, host, port);
  }

  async service(name: string, socktype: number): Promise<number> {
    return await resolveService(this, this.libc, name, socktype);
  }

  umask(mask: number): number {
    return this.libc.rare.umask(mask);
  }

  chdir(path: string): number {
    if (hasNul(path)) return -Errno.EINVAL;
    return this.libc.rare.chdir(cstring(path)) < 0 ? this.fail() : 0;
  }

  setsid(): number {
    const rc = this.libc.rare.setsid();
    return rc < 0 ? this.fail() : rc;
  }

  kill(pid: number, signal: number): number {
    return this.libc.rare.kill(pid, signal) < 0 ? this.fail() : 0;
  }

  monotonicNs(): number {
    this.#readClock(CLOCK.MONOTONIC);
    return this.#seconds() * 1e9 + this.#clock[2]!;
  }

  realtimeUs(): number {
    this.#readClock(CLOCK.REALTIME);
    return this.#seconds() * 1e6 + Math.floor(this.#clock[2]! / 1000);
  }

  waits(): number {
    const rc = this.raw(this.#getrusage, RUSAGE_THREAD, this.structAt);
    if (rc < 0) throw new SysError("getrusage", -rc);
    return getU64(this.struct, NVCSW_AT);
  }

  #readClock(id: number): void {
    if (this.libc.symbols.clock_gettime(id, this.#clockPointer) < 0) {
      throw new SysError("clock_gettime", -this.fail());
    }
  }

  #seconds(): number {
    return this.#clock[1]! * 0x1_0000_0000 + this.#clock[0]!;
  }

  randomBytes(length: number): Uint8Array {
    const out = new Uint8Array(length);
    // The generator refuses more than 64 KiB at once.
    for (let at = 0; at < length; at += 65536) {
      crypto.getRandomValues(out.subarray(at, Math.min(at + 65536, length)));
    }
    return out;
  }

  /** Gives back memory and libc. No pool call may be in flight. Idempotent. */
  override dispose(): void {
    if (this.disposed) return;
    this.pool.dispose();
    super.dispose();
  }
}
