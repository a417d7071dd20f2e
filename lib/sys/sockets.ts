/** Sockets and epoll: the part of LinuxSys about descriptors of the data plane. */
import type { IoVec } from "../base/mod.ts";
import type { ArchConstants } from "./constants.ts";
import { AF, EPOLL, MSG, SOCK } from "./constants.ts";
import { Errno } from "./errno.ts";
import type { Libc } from "./ffi.ts";
import { FileSys } from "./files.ts";
import { getSockaddr, putSockaddr, SOCKADDR_SIZE } from "./inet.ts";
import {
  CMSGHDR_SIZE,
  getMsgControlLength,
  getRights,
  IOV_MAX,
  MSGHDR_SIZE,
  putIovecs,
  putMsghdr,
  putRights,
  putU64,
  SCM_MAX_FD,
} from "./layout.ts";
import type { EpollEvents, Memory, SocketAddress } from "./types.ts";

/** Parts of the scratch memory: see FileSys for those before. */
const MSGHDR_AT = 24576;
const CONTROL_AT = 24704;
const SOCKADDR_AT = 26624;
const SOCKFLAGS = SOCK.NONBLOCK | SOCK.CLOEXEC;

/** Events as the kernel writes them, in native memory. */
class NativeEvents implements EpollEvents {
  /** Where they are, as an argument. */
  readonly pointer: bigint;
  readonly #words: Uint32Array;
  readonly #stride: number;
  readonly #dataAt: number;

  constructor(readonly memory: Memory, readonly capacity: number, arch: ArchConstants) {
    this.pointer = BigInt(memory.address);
    this.#words = new Uint32Array(memory.bytes.buffer);
    this.#stride = arch.epollEventSize / 4;
    this.#dataAt = arch.epollDataOffset / 4;
  }

  events(i: number): number {
    return this.#words[i * this.#stride]!;
  }

  data(i: number): number {
    return this.#words[i * this.#stride + this.#dataAt]!;
  }
}

/** Sockets, descriptor passing, eventfd, epoll. */
export class SocketSys extends FileSys {
  readonly #message: DataView;
  readonly #control: DataView;
  readonly #sockaddr: Uint8Array;
  readonly #sockaddrPointer: bigint;
  readonly #messagePointer: bigint;

  constructor(libc: Libc, protected readonly constants: ArchConstants) {
    super(libc);
    const { buffer } = this.scratch.bytes;
    this.#message = new DataView(buffer, MSGHDR_AT, MSGHDR_SIZE);
    this.#control = new DataView(buffer, CONTROL_AT, CMSGHDR_SIZE + 4 * SCM_MAX_FD);
    this.#sockaddr = new Uint8Array(buffer, SOCKADDR_AT, SOCKADDR_SIZE);
    this.#sockaddrPointer = BigInt(this.scratch.address + SOCKADDR_AT);
    this.#messagePointer = BigInt(this.scratch.address + MSGHDR_AT);
  }

  socket(family: number, type: number, protocol = 0): number {
    const rc = this.libc.data.socket(family, type | SOCKFLAGS, protocol);
    return rc < 0 ? this.fail() : rc;
  }

  socketpair(): readonly [number, number] | number {
    const rc = this.libc.rare.socketpair(AF.UNIX, SOCK.STREAM | SOCKFLAGS, 0, this.structPointer);
    if (rc < 0) return this.fail();
    return [this.struct.getInt32(0, true), this.struct.getInt32(4, true)];
  }

  bind(fd: number, address: SocketAddress): number {
    const length = putSockaddr(this.#sockaddr, address);
    if (length === undefined) return badAddress(address);
    const rc = this.libc.data.bind(fd, this.#sockaddrPointer, length);
    return rc < 0 ? this.fail() : 0;
  }

  listen(fd: number, backlog: number): number {
    return this.libc.data.listen(fd, backlog) < 0 ? this.fail() : 0;
  }

  accept(fd: number): number {
    const rc = this.libc.data.accept4(fd, 0n, 0n, SOCKFLAGS);
    return rc < 0 ? this.fail() : rc;
  }

  connect(fd: number, address: SocketAddress): number {
    const length = putSockaddr(this.#sockaddr, address);
    if (length === undefined) return badAddress(address);
    const rc = this.libc.rare.connect(fd, this.#sockaddrPointer, length);
    return rc < 0 ? this.fail() : 0;
  }

  shutdown(fd: number, how: number): number {
    return this.libc.data.shutdown(fd, how) < 0 ? this.fail() : 0;
  }

  recv(fd: number, address: number, length: number, flags: number): number {
    const { wide } = this;
    const rc = this.libc.data.recv(fd, wide.of(address), wide.of(length), flags);
    return rc < 0 ? this.fail() : rc;
  }

  send(fd: number, address: number, length: number, flags: number): number {
    const { wide } = this;
    const { send } = this.libc.data;
    const rc = send(fd, wide.of(address), wide.of(length), flags | MSG.NOSIGNAL);
    return rc < 0 ? this.fail() : rc;
  }

  sendfile(fd: number, file: number, offset: number, length: number): number {
    putU64(this.struct, 0, offset);
    const rc = this.libc.data.sendfile(fd, file, this.structPointer, this.wide.of(length));
    return rc < 0 ? this.fail() : rc;
  }

  sendmsg(fd: number, iov: IoVec, flags: number, fds?: readonly number[]): number {
    // More segments than the kernel takes: the first 1024 now, the caller sees a short send.
    const count = Math.min(iov.count, IOV_MAX);
    let controlLength = 0;
    if (fds !== undefined && fds.length > 0) {
      if (fds.length > SCM_MAX_FD) return -Errno.EINVAL;
      controlLength = putRights(this.#control, fds);
    }
    this.#prepare(iov, count, controlLength);
    const rc = this.libc.data.sendmsg(fd, this.#messagePointer, flags | MSG.NOSIGNAL);
    return rc < 0 ? this.fail() : rc;
  }

  recvmsg(fd: number, iov: IoVec, flags: number, fds: number[], maxFds: number): number {
    const count = Math.min(iov.count, IOV_MAX);
    // CMSG_LEN, not CMSG_SPACE: the padding would have room for one descriptor more.
    const controlLength = maxFds > 0 ? CMSGHDR_SIZE + 4 * Math.min(maxFds, SCM_MAX_FD) : 0;
    this.#prepare(iov, count, controlLength);
    const rc = this.libc.data.recvmsg(fd, this.#messagePointer, flags | MSG.CMSG_CLOEXEC);
    if (rc < 0) return this.fail();
    if (controlLength > 0) {
      getRights(this.#control, getMsgControlLength(this.#message), fds);
    }
    return rc;
  }

  #prepare(iov: IoVec, count: number, controlLength: number): void {
    putIovecs(this.iovWords, iov.addresses, iov.lengths, 0, count);
    putMsghdr(this.#message, {
      iov: this.scratch.address,
      segments: count,
      control: controlLength === 0 ? 0 : this.scratch.address + CONTROL_AT,
      controlLength,
    });
  }

  getsockopt(fd: number, level: number, option: number): number {
    this.struct.setInt32(0, 0, true);
    this.struct.setUint32(4, 4, true);
    const { structPointer } = this;
    const rc = this.libc.data.getsockopt(fd, level, option, structPointer, structPointer + 4n);
    return rc < 0 ? this.fail() : this.struct.getInt32(0, true);
  }

  setsockopt(fd: number, level: number, option: number, value: number): number {
    this.struct.setInt32(0, value, true);
    const rc = this.libc.data.setsockopt(fd, level, option, this.structPointer, 4);
    return rc < 0 ? this.fail() : 0;
  }

  getsockname(fd: number): SocketAddress | number {
    return this.#name(this.libc.data.getsockname, fd);
  }

  getpeername(fd: number): SocketAddress | number {
    return this.#name(this.libc.rare.getpeername, fd);
  }

  #name(
    call: (fd: number, address: bigint, length: bigint) => number,
    fd: number,
  ): SocketAddress | number {
    this.struct.setUint32(0, SOCKADDR_SIZE, true);
    if (call(fd, this.#sockaddrPointer, this.structPointer) < 0) return this.fail();
    const length = this.struct.getUint32(0, true);
    return getSockaddr(this.#sockaddr, length) ?? -Errno.EAFNOSUPPORT;
  }

  eventfd(initial: number): number {
    const rc = this.libc.symbols.eventfd(initial, SOCKFLAGS);
    return rc < 0 ? this.fail() : rc;
  }

  epollCreate(): number {
    const rc = this.libc.symbols.epoll_create1(EPOLL.CLOEXEC);
    return rc < 0 ? this.fail() : rc;
  }

  epollCtl(epfd: number, op: number, fd: number, events: number, data: number): number {
    this.struct.setUint32(0, events, true);
    this.struct.setUint32(4, 0, true);
    this.struct.setUint32(this.constants.epollDataOffset, data, true);
    this.struct.setUint32(this.constants.epollDataOffset + 4, 0, true);
    return this.libc.symbols.epoll_ctl(epfd, op, fd, this.structPointer) < 0 ? this.fail() : 0;
  }

  epollWait(epfd: number, ready: EpollEvents, timeoutMs: number): number {
    const { pointer, capacity } = ready as NativeEvents;
    const rc = this.libc.symbols.epoll_wait(epfd, pointer, capacity, timeoutMs);
    return rc < 0 ? this.fail() : rc;
  }

  epollEvents(capacity: number): EpollEvents {
    const memory = this.allocateOwned(capacity * this.constants.epollEventSize);
    return new NativeEvents(memory, capacity, this.constants);
  }
}

function badAddress(address: SocketAddress): number {
  return address.family === "unix" ? -Errno.ENAMETOOLONG : -Errno.EINVAL;
}
