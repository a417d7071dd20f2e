/** Native memory: the base of LinuxSys. Nothing here is garbage collected; `unmap` gives it back. */
import { alignUp, assert } from "../base/mod.ts";
import { MAP, PROT } from "./constants.ts";
import { check, SysError } from "./errno.ts";
import { type Libc, nativeBuffer } from "./ffi.ts";
import type { Memory } from "./types.ts";
import { Wide } from "./wide.ts";

/** Bytes of a page; qsd does not run on kernels with larger base pages unless mappings still align. */
export const PAGE = 4096;
const ZEROES = 65536;
const SCRATCH = 65536;

/** One mapping. The views are made on first use: most data buffers are never looked at. */
class MappedMemory implements Memory {
  #libc: Libc | undefined;
  #bytes: Uint8Array | undefined;
  #view: DataView | undefined;

  constructor(libc: Libc, readonly address: number, readonly length: number) {
    this.#libc = libc;
  }

  get bytes(): Uint8Array {
    assert(this.#libc !== undefined, "memory used after unmap");
    return this.#bytes ??= new Uint8Array(nativeBuffer(this.address, this.length));
  }

  get view(): DataView {
    return this.#view ??= new DataView(this.bytes.buffer);
  }

  unmap(): void {
    assert(this.#libc !== undefined, "memory unmapped twice");
    const { address, length } = this;
    check(this.#libc.symbols.munmap(BigInt(address), BigInt(length)), "munmap");
    this.#libc = undefined;
    this.#bytes = undefined;
    this.#view = undefined;
  }
}

/** libc, errno, and native memory. Extended by FileSys, SocketSys and LinuxSys: one object, by concern. */
export class MemorySys {
  /** Numbers as 64-bit arguments. */
  protected readonly wide: Wide = new Wide();
  /** Native scratch for arguments of inline calls: synchronous, so one is enough. Parts: see FileSys. */
  protected readonly scratch: Memory;
  readonly #zeroesAt: bigint;
  readonly #owned: Memory[] = [];
  #disposed = false;

  constructor(protected readonly libc: Libc) {
    this.scratch = this.allocateOwned(SCRATCH);
    this.#zeroesAt = BigInt(this.allocateOwned(ZEROES).address);
  }

  /** Whether `dispose` was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /** -errno of the call that has just returned -1 on this thread. */
  protected fail(): number {
    return -this.libc.errno[0]!;
  }

  /** Memory that lives as long as this object. */
  protected allocateOwned(length: number): Memory {
    const memory = this.allocate(length);
    this.#owned.push(memory);
    return memory;
  }

  allocate(length: number): Memory {
    assert(length > 0);
    const rounded = alignUp(length, PAGE);
    const memory = this.#mmap(rounded, PROT.READ | PROT.WRITE, MAP.PRIVATE | MAP.ANONYMOUS, -1, 0);
    if (typeof memory === "number") throw new SysError("mmap", -memory);
    return memory;
  }

  map(fd: number, offset: number, length: number, writable: boolean): Memory | number {
    const prot = writable ? PROT.READ | PROT.WRITE : PROT.READ;
    return this.#mmap(length, prot, MAP.SHARED, fd, offset);
  }

  #mmap(length: number, prot: number, flags: number, fd: number, offset: number): Memory | number {
    const { wide } = this;
    const size = wide.of(length);
    const result = this.libc.symbols.mmap(0n, size, prot, flags, fd, wide.of(offset));
    if (result === 0xffff_ffff_ffff_ffffn) return this.fail();
    return new MappedMemory(this.libc, Number(result), length);
  }

  memfd(name: string): number {
    const rc = this.libc.rare.memfd_create(cstring(name), 1 /* MFD_CLOEXEC */);
    return rc < 0 ? this.fail() : rc;
  }

  madvise(address: number, length: number, advice: number): number {
    const { wide } = this;
    const rc = this.libc.rare.madvise(wide.of(address), wide.of(length), advice);
    return rc < 0 ? this.fail() : 0;
  }

  copy(target: number, source: number, length: number): void {
    const { wide } = this;
    this.libc.data.memcpy(wide.of(target), wide.of(source), wide.of(length));
  }

  fill(target: number, value: number, length: number): void {
    const { wide } = this;
    this.libc.data.memset(wide.of(target), value, wide.of(length));
  }

  isZero(address: number, length: number): boolean {
    const { wide } = this;
    // A first short look: data is rarely zero in front and then needs only this one.
    let step = Math.min(length, 512);
    for (let at = 0; at < length; at += step, step = Math.min(length - at, ZEROES)) {
      const there = wide.of(address + at);
      if (this.libc.data.memcmp(there, this.#zeroesAt, wide.of(step)) !== 0) return false;
    }
    return true;
  }

  viewAt(address: number, length: number): Uint8Array {
    return new Uint8Array(nativeBuffer(address, length));
  }

  /** Gives back all that belongs to this object, libc too. Nothing may be called afterwards. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    for (const memory of this.#owned) memory.unmap();
    this.libc.close();
  }
}

const encoder = new TextEncoder();

/** `text` as NUL-terminated UTF-8. The caller has refused embedded NULs (`hasNul`). */
export function cstring(text: string): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(text.length * 3 + 1);
  const { written } = encoder.encodeInto(text, out);
  return out.subarray(0, written + 1);
}

/** Whether a path cannot be given to the kernel as it is. */
export function hasNul(text: string): boolean {
  return text.includes("\0");
}
