/**
 * Calls on Deno's thread pool. What the kernel works on must be native memory: each call borrows a slot
 * for its iovecs or path from a small recycled slab.
 */
import { assert, type IoVec } from "../base/mod.ts";
import type { Arch, SyscallNumbers } from "./constants.ts";
import { AT, MAP, O, PROT, syscallNumbers } from "./constants.ts";
import { Errno } from "./errno.ts";
import { type Libc, nativeBuffer } from "./ffi.ts";
import { IOV_MAX, putIovecs } from "./layout.ts";
import { cstring, hasNul } from "./memory.ts";
import type { PoolTraces } from "./traces.ts";
import type { FileCalls, Memory } from "./types.ts";

const SLOT = IOV_MAX * 16;
/** Each read takes 1 (eventfd(2)). */
const EFD_SEMAPHORE = 1;
/** Bytes of the stub's mapping. */
const PAGE = 4096n;

/**
 * Machine code that makes a system call and returns what the kernel returns: -errno itself. libc's wrappers
 * leave errno in the pool thread's own variable, which nobody here can read.
 */
const STUBS: Readonly<Record<Arch, readonly number[]>> = {
  // deno-fmt-ignore
  x86_64: [
    0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, // mov rax,rdi; mov rdi,rsi; mov rsi,rdx
    0x48, 0x89, 0xca, 0x4d, 0x89, 0xc2, 0x4d, 0x89, 0xc8, // mov rdx,rcx; mov r10,r8; mov r8,r9
    0x4c, 0x8b, 0x4c, 0x24, 0x08, 0x0f, 0x05, 0xc3, //       mov r9,[rsp+8]; syscall; ret
  ],
  // deno-fmt-ignore
  aarch64: [
    0xe8, 0x03, 0x00, 0xaa, 0xe0, 0x03, 0x01, 0xaa, 0xe1, 0x03, 0x02, 0xaa, // mov x8,x0; x0,x1; x1,x2
    0xe2, 0x03, 0x03, 0xaa, 0xe3, 0x03, 0x04, 0xaa, 0xe4, 0x03, 0x05, 0xaa, // mov x2,x3; x3,x4; x4,x5
    0xe5, 0x03, 0x06, 0xaa, 0x01, 0x00, 0x00, 0xd4, 0xc0, 0x03, 0x5f, 0xd6, // mov x5,x6; svc #0; ret
  ],
};

const stubDefinition = {
  parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"],
  result: "i32",
  nonblocking: true,
} as const;

type RawCall = (
  number: number,
  a: number,
  b: number,
  c: number,
  d: number,
  e: number,
  f: number,
) => Promise<number>;

/** The stub as a function, and the page it lies in; undefined where executable memory is refused. */
function makeStub(libc: Libc, arch: Arch): { call: RawCall; address: bigint } | undefined {
  const code = STUBS[arch];
  const flags = MAP.PRIVATE | MAP.ANONYMOUS;
  const mapped = libc.symbols.mmap(0n, PAGE, PROT.READ | PROT.WRITE, flags, -1, 0n);
  if (mapped === 0xffff_ffff_ffff_ffffn) return undefined;
  new Uint8Array(nativeBuffer(Number(mapped), code.length)).set(code);
  // Written first, executable afterwards: never both. The kernel syncs the instruction cache here.
  if (libc.symbols.mprotect(mapped, PAGE, PROT.READ | PROT.EXEC) < 0) {
    libc.symbols.munmap(mapped, PAGE);
    return undefined;
  }
  const pointer = Deno.UnsafePointer.create<typeof stubDefinition>(mapped)!;
  const stub = new Deno.UnsafeFnPointer(pointer as never, stubDefinition);
  return { call: stub.call.bind(stub) as unknown as RawCall, address: mapped };
}

/** One borrowed piece of native memory. */
interface Slot {
  readonly memory: Memory;
  readonly words: Uint32Array;
}

/** The pool's calls; see Sys.pool. */
export class ThreadPool implements FileCalls<Promise<number>> {
  readonly #call: RawCall;
  readonly #stubAddress: bigint | undefined;
  readonly #numbers: SyscallNumbers;
  readonly #free: Slot[] = [];
  #inFlight = 0;
  #warming: Promise<unknown> = Promise.resolve();
  /** Calls that may be with the pool's threads at once, and those that wait for one of them to return. */
  #limit = Infinity;
  #active = 0;
  readonly #waiting: (() => void)[] = [];
  /** Where calls are shown, if anywhere. */
  traces: PoolTraces | undefined;
  /** Whether -errno of pool calls is exact; false: every failure is EIO. */
  readonly exactErrno: boolean;

  constructor(
    readonly libc: Libc,
    arch: Arch,
    readonly allocate: (length: number) => Memory,
    options: { withoutStub?: boolean } = {},
  ) {
    this.#numbers = syscallNumbers(arch);
    const stub = options.withoutStub ? undefined : makeStub(libc, arch);
    this.exactErrno = stub !== undefined;
    this.#stubAddress = stub?.address;
    this.#call = stub?.call ?? (async (n, a, b, c, d, e, f) => {
      const rc = await libc.pooled.syscall(n, a, b, c, d, e, f);
      return rc < 0 ? -Errno.EIO : rc;
    });
  }

  /** Calls that have not returned. */
  get inFlight(): number {
    return this.#inFlight;
  }

  preadv(fd: number, iov: IoVec, offset: number, flags: number): Promise<number> {
    return this.#vector(this.#numbers.preadv2, fd, iov, offset, flags);
  }

  pwritev(fd: number, iov: IoVec, offset: number, flags: number): Promise<number> {
    return this.#vector(this.#numbers.pwritev2, fd, iov, offset, flags);
  }

  pread(fd: number, address: number, length: number, offset: number): Promise<number> {
    return this.raw(this.#numbers.pread64, fd, address, length, offset);
  }

  pwrite(fd: number, address: number, length: number, offset: number): Promise<number> {
    return this.raw(this.#numbers.pwrite64, fd, address, length, offset);
  }

  fsync(fd: number): Promise<number> {
    return this.raw(this.#numbers.fsync, fd);
  }

  fdatasync(fd: number): Promise<number> {
    return this.raw(this.#numbers.fdatasync, fd);
  }

  fallocate(fd: number, mode: number, offset: number, length: number): Promise<number> {
    return this.raw(this.#numbers.fallocate, fd, mode, offset, length);
  }

  ftruncate(fd: number, length: number): Promise<number> {
    return this.raw(this.#numbers.ftruncate, fd, length);
  }

  ioctl(fd: number, request: number, argument: number): Promise<number> {
    return this.raw(this.#numbers.ioctl, fd, request, argument);
  }

  async open(path: string, flags: number, mode = 0o666): Promise<number> {
    if (hasNul(path)) return -Errno.EINVAL;
    const bytes = cstring(path);
    if (bytes.length > 4096) return -Errno.ENAMETOOLONG;
    const slot = this.#borrow();
    slot.memory.bytes.set(bytes);
    try {
      return await this.raw(this.#numbers.openat, AT.FDCWD, slot.memory.address, flags, mode);
    } finally {
      this.#free.push(slot);
    }
  }

  async raw(
    number: number,
    a = 0,
    b = 0,
    c = 0,
    d = 0,
    e = 0,
    f = 0,
  ): Promise<number> {
    this.#inFlight++;
    const { traces } = this;
    if (traces?.submit.enabled) traces.submit.emit(`syscall ${number} fd ${a}`);
    if (this.#active < this.#limit) this.#active++;
    else await new Promise<void>((go) => this.#waiting.push(go));
    try {
      for (;;) {
        const rc = await this.#call(number, a, b, c, d, e, f);
        if (rc === -Errno.EINTR) continue;
        if (traces?.complete.enabled) traces.complete.emit(`syscall ${number} fd ${a} ret ${rc}`);
        return rc;
      }
    } finally {
      this.#inFlight--;
      this.#active--;
      if (this.#waiting.length > 0) this.#admit();
    }
  }

  /**
   * At most `max` calls at once from now on; others wait in their order. `min` threads are started now, so that the
   * first calls need not wait for that (idle threads of the pool end after some seconds all the same).
   */
  configure(min: number, max: number): void {
    this.#limit = max;
    this.#admit();
    if (min > 0) this.#warming = Promise.all([this.#warming, this.#start(min)]);
  }

  /** Starts `count` threads: each takes a call that waits until all have theirs. */
  async #start(count: number): Promise<void> {
    const { eventfd, write, close } = this.libc.symbols;
    const fd = eventfd(0, EFD_SEMAPHORE | O.CLOEXEC);
    if (fd < 0) return; // they start when they are needed
    const slot = this.#borrow();
    const { address, view } = slot.memory;
    const read = () => this.raw(this.#numbers.read, fd, address + 8, 8);
    const calls = Array.from({ length: count }, read);
    view.setBigUint64(0, BigInt(count), true);
    write(fd, BigInt(address), 8n);
    await Promise.all(calls);
    close(fd);
    this.#free.push(slot);
  }

  /** Resolves when the threads that `configure` asked for have started. */
  async warmed(): Promise<void> {
    await this.#warming;
  }

  #admit(): void {
    while (this.#waiting.length > 0 && this.#active < this.#limit) {
      this.#active++;
      this.#waiting.shift()!();
    }
  }

  async #vector(
    number: number,
    fd: number,
    iov: IoVec,
    offset: number,
    flags: number,
  ): Promise<number> {
    const slot = this.#borrow();
    let done = 0;
    try {
      for (let from = 0; from < iov.count; from += IOV_MAX) {
        const count = Math.min(iov.count - from, IOV_MAX);
        let wanted = 0;
        for (let i = 0; i < count; i++) wanted += iov.lengths[from + i]!;
        putIovecs(slot.words, iov.addresses, iov.lengths, from, count);
        // pos_l carries the whole offset on 64-bit kernels, pos_h is ignored.
        const rc = await this.raw(
          number,
          fd,
          slot.memory.address,
          count,
          offset + done,
          0,
          flags,
        );
        if (rc < 0) return done > 0 ? done : rc;
        done += rc;
        if (rc < wanted) break;
      }
      return done;
    } finally {
      this.#free.push(slot);
    }
  }

  #borrow(): Slot {
    const slot = this.#free.pop();
    if (slot !== undefined) return slot;
    const memory = this.allocate(SLOT);
    return { memory, words: new Uint32Array(memory.bytes.buffer) };
  }

  /** Gives the native memory back; no call may be in flight. */
  dispose(): void {
    assert(this.#inFlight === 0, "pool calls are still in flight");
    for (const slot of this.#free) slot.memory.unmap();
    this.#free.length = 0;
    if (this.#stubAddress !== undefined) this.libc.symbols.munmap(this.#stubAddress, PAGE);
  }
}
