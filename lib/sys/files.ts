/** File calls that run inline: the part of LinuxSys about files. */
import type { IoVec } from "../base/mod.ts";
import { AT, F } from "./constants.ts";
import { Errno } from "./errno.ts";
import type { Libc } from "./ffi.ts";
import {
  getFlockType,
  getStatx,
  IOV_MAX,
  putFlock,
  putIovecs,
  putU64,
  STATX_SIZE,
} from "./layout.ts";
import { cstring, hasNul, MemorySys } from "./memory.ts";
import type { FileStat } from "./types.ts";

/** Where things lie in the scratch page set: iovecs first (16 KiB), then small structs, then a path. */
const STRUCT_AT = 16384;
const PATH_AT = 20480;
const PATH_MAX = 4096;
const STATX_MASK = 0x7ff; // STATX_BASIC_STATS
const FIONREAD = 0x541bn;
const SPLICE_F_NONBLOCK = 2;

/** Files, locks, pipes. Results: >= 0, or -errno. */
export class FileSys extends MemorySys {
  /** The scratch iovec array, as words. */
  protected readonly iovWords: Uint32Array;
  /** A small struct (up to 4 KiB) in scratch memory. */
  protected readonly structAt: number;
  /** `structAt` as an argument. */
  protected readonly structPointer: bigint;
  readonly #iovPointer: bigint;
  protected readonly struct: DataView;
  readonly #statView: DataView;

  constructor(libc: Libc) {
    super(libc);
    const { buffer } = this.scratch.bytes;
    this.iovWords = new Uint32Array(buffer, 0, IOV_MAX * 4);
    this.structAt = this.scratch.address + STRUCT_AT;
    this.structPointer = BigInt(this.structAt);
    this.#iovPointer = BigInt(this.scratch.address);
    this.struct = new DataView(buffer, STRUCT_AT, 4096);
    this.#statView = new DataView(buffer, STRUCT_AT, STATX_SIZE);
  }

  preadv(fd: number, iov: IoVec, offset: number, flags: number): number {
    if (iov.count > IOV_MAX) return this.#many(false, fd, iov, offset, flags);
    putIovecs(this.iovWords, iov.addresses, iov.lengths, 0, iov.count);
    const at = this.wide.of(offset);
    const rc = this.libc.data.preadv2(fd, this.#iovPointer, iov.count, at, flags);
    return rc < 0 ? this.fail() : rc;
  }

  pwritev(fd: number, iov: IoVec, offset: number, flags: number): number {
    if (iov.count > IOV_MAX) return this.#many(true, fd, iov, offset, flags);
    putIovecs(this.iovWords, iov.addresses, iov.lengths, 0, iov.count);
    const at = this.wide.of(offset);
    const rc = this.libc.data.pwritev2(fd, this.#iovPointer, iov.count, at, flags);
    return rc < 0 ? this.fail() : rc;
  }

  /** More segments than the kernel takes: one call for each 1024, until one fails or is short. */
  #many(write: boolean, fd: number, iov: IoVec, offset: number, flags: number): number {
    const { preadv2, pwritev2 } = this.libc.data;
    let done = 0;
    for (let from = 0; from < iov.count; from += IOV_MAX) {
      const count = Math.min(iov.count - from, IOV_MAX);
      let wanted = 0;
      for (let i = 0; i < count; i++) wanted += iov.lengths[from + i]!;
      putIovecs(this.iovWords, iov.addresses, iov.lengths, from, count);
      const rc = (write ? pwritev2 : preadv2)(
        fd,
        this.#iovPointer,
        count,
        this.wide.of(offset + done),
        flags,
      );
      if (rc < 0) return done > 0 ? done : this.fail();
      done += rc;
      if (rc < wanted) break;
    }
    return done;
  }

  pread(fd: number, address: number, length: number, offset: number): number {
    const { wide } = this;
    const { pread } = this.libc.data;
    const rc = pread(fd, wide.of(address), wide.of(length), wide.of(offset));
    return rc < 0 ? this.fail() : rc;
  }

  pwrite(fd: number, address: number, length: number, offset: number): number {
    const { wide } = this;
    const { pwrite } = this.libc.data;
    const rc = pwrite(fd, wide.of(address), wide.of(length), wide.of(offset));
    return rc < 0 ? this.fail() : rc;
  }

  fsync(fd: number): number {
    return this.libc.rare.fsync(fd) < 0 ? this.fail() : 0;
  }

  fdatasync(fd: number): number {
    return this.libc.rare.fdatasync(fd) < 0 ? this.fail() : 0;
  }

  fallocate(fd: number, mode: number, offset: number, length: number): number {
    const { wide } = this;
    const rc = this.libc.rare.fallocate(fd, mode, wide.of(offset), wide.of(length));
    return rc < 0 ? this.fail() : 0;
  }

  ftruncate(fd: number, length: number): number {
    return this.libc.rare.ftruncate(fd, this.wide.of(length)) < 0 ? this.fail() : 0;
  }

  ioctl(fd: number, request: number, argument: number): number {
    const { wide } = this;
    const rc = this.libc.data.ioctl(fd, wide.of(request), wide.of(argument));
    return rc < 0 ? this.fail() : rc;
  }

  open(path: string, flags: number, mode = 0o666): number {
    if (hasNul(path)) return -Errno.EINVAL;
    const rc = this.libc.symbols.open(cstring(path), flags, mode);
    return rc < 0 ? this.fail() : rc;
  }

  close(fd: number): number {
    return this.libc.symbols.close(fd) < 0 ? this.fail() : 0;
  }

  fstat(fd: number): FileStat | number {
    return this.#statx(fd, "", AT.EMPTY_PATH);
  }

  stat(path: string): FileStat | number {
    if (hasNul(path)) return -Errno.EINVAL;
    return this.#statx(AT.FDCWD, path, 0);
  }

  #statx(directory: number, path: string, flags: number): FileStat | number {
    const { statx } = this.libc.symbols;
    const rc = statx(directory, cstring(path), flags, STATX_MASK, this.structPointer);
    return rc < 0 ? this.fail() : getStatx(this.#statView);
  }

  lseek(fd: number, offset: number, whence: number): number {
    const rc = this.libc.data.lseek(fd, this.wide.of(offset), whence);
    return rc < 0n ? this.fail() : Number(rc);
  }

  fcntl(fd: number, command: number, argument: number): number {
    const rc = this.libc.symbols.fcntl(fd, command, this.wide.of(argument));
    return rc < 0 ? this.fail() : rc;
  }

  ofdSetLock(fd: number, type: number, start: number, length: number): number {
    return this.#lock(fd, F.OFD_SETLK, type, start, length);
  }

  ofdTestLock(fd: number, type: number, start: number, length: number): number {
    const rc = this.#lock(fd, F.OFD_GETLK, type, start, length);
    return rc < 0 ? rc : getFlockType(this.struct);
  }

  posixSetLock(fd: number, type: number, start: number, length: number): number {
    return this.#lock(fd, F.SETLK, type, start, length);
  }

  #lock(fd: number, command: number, type: number, start: number, length: number): number {
    putFlock(this.struct, type, start, length);
    return this.libc.symbols.fcntl(fd, command, this.structPointer) < 0 ? this.fail() : 0;
  }

  read(fd: number, address: number, length: number): number {
    const { wide } = this;
    const rc = this.libc.symbols.read(fd, wide.of(address), wide.of(length));
    return rc < 0 ? this.fail() : rc;
  }

  write(fd: number, address: number, length: number): number {
    const { wide } = this;
    const rc = this.libc.symbols.write(fd, wide.of(address), wide.of(length));
    return rc < 0 ? this.fail() : rc;
  }

  symlink(target: string, path: string): number {
    if (hasNul(target) || hasNul(path)) return -Errno.EINVAL;
    return this.libc.rare.symlink(cstring(target), cstring(path)) < 0 ? this.fail() : 0;
  }

  unlink(path: string): number {
    if (hasNul(path)) return -Errno.EINVAL;
    return this.libc.rare.unlink(cstring(path)) < 0 ? this.fail() : 0;
  }

  rename(from: string, to: string): number {
    if (hasNul(from) || hasNul(to)) return -Errno.EINVAL;
    return this.libc.rare.rename(cstring(from), cstring(to)) < 0 ? this.fail() : 0;
  }

  chmod(path: string, mode: number): number {
    if (hasNul(path)) return -Errno.EINVAL;
    return this.libc.rare.chmod(cstring(path), mode) < 0 ? this.fail() : 0;
  }

  readlink(path: string): string | number {
    if (hasNul(path)) return -Errno.EINVAL;
    const at = this.scratch.address + PATH_AT;
    const rc = this.libc.rare.readlink(cstring(path), BigInt(at), BigInt(PATH_MAX));
    if (rc < 0) return this.fail();
    return new TextDecoder().decode(this.scratch.bytes.slice(PATH_AT, PATH_AT + rc));
  }

  realpath(path: string): string | number {
    if (hasNul(path)) return -Errno.EINVAL;
    const rc = this.libc.rare.realpath(cstring(path), BigInt(this.scratch.address + PATH_AT));
    if (rc === 0n) return this.fail();
    const end = this.scratch.bytes.indexOf(0, PATH_AT);
    return new TextDecoder().decode(this.scratch.bytes.slice(PATH_AT, end));
  }

  dup(fd: number): number {
    return this.fcntl(fd, F.DUPFD_CLOEXEC, 0);
  }

  dup2(from: number, to: number): number {
    const rc = this.libc.rare.dup2(from, to);
    return rc < 0 ? this.fail() : rc;
  }

  pipe2(flags: number): readonly [number, number] | number {
    if (this.libc.rare.pipe2(this.structPointer, flags) < 0) return this.fail();
    return [this.struct.getInt32(0, true), this.struct.getInt32(4, true)];
  }

  splice(from: number, to: number, length: number, offset = -1): number {
    if (offset >= 0) putU64(this.struct, 0, offset);
    const where = offset >= 0 ? this.structPointer : 0n;
    const size = this.wide.of(length);
    const rc = this.libc.data.splice(from, 0n, to, where, size, SPLICE_F_NONBLOCK);
    return rc < 0 ? this.fail() : rc;
  }

  unread(fd: number): number {
    const rc = this.libc.data.ioctl(fd, FIONREAD, this.structPointer);
    return rc < 0 ? this.fail() : this.struct.getInt32(0, true);
  }
}
