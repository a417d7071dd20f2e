/**
 * The few system calls of the load generator, in the shape of lib/sys's `Sys` (results >= 0 or -errno).
 * Its sockets block: a generator with one connection then needs one call, not two, to wait for replies.
 */

const SYMBOLS = {
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  bind: { parameters: ["i32", "buffer", "i32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept4: { parameters: ["i32", "usize", "usize", "i32"], result: "i32" },
  recv: { parameters: ["i32", "usize", "usize", "i32"], result: "i32" },
  send: { parameters: ["i32", "usize", "usize", "i32"], result: "i32" },
  poll: { parameters: ["usize", "u64", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "buffer", "i32"], result: "i32" },
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "pointer" },
  munmap: { parameters: ["pointer", "usize"], result: "i32" },
  __errno_location: { parameters: [], result: "pointer" },
} as const satisfies Deno.ForeignLibraryInterface;

/** The same with plain numbers, which Deno takes wherever its types ask for a BigInt. */
interface Calls {
  socket(family: number, type: number, protocol: number): number;
  connect(fd: number, address: BufferSource, length: number): number;
  bind(fd: number, address: BufferSource, length: number): number;
  listen(fd: number, backlog: number): number;
  accept4(fd: number, address: number, length: number, flags: number): number;
  recv(fd: number, address: number, length: number, flags: number): number;
  send(fd: number, address: number, length: number, flags: number): number;
  poll(address: number, count: number, timeoutMs: number): number;
  close(fd: number): number;
  setsockopt(fd: number, level: number, name: number, value: BufferSource, length: number): number;
  mmap(
    address: number,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ): Deno.PointerValue;
  munmap(pointer: Deno.PointerValue, length: number): number;
  __errno_location(): Deno.PointerValue;
}

export const MSG_DONTWAIT = 0x40;
export const MSG_NOSIGNAL = 0x4000;
export const EAGAIN = 11;
export const EINTR = 4;
export const POLLIN = 1;
export const POLLOUT = 4;

const AF_UNIX = 1;
const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;

/** A mapped piece of native memory; give it back with `unmap`. */
export interface Memory {
  readonly address: number;
  readonly length: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  unmap(): void;
}

/** Where an NBD server listens: a Unix socket's path, or an IPv4 address and port. */
export type Target = { path: string } | { host: string; port: number };

/** The system calls. Addresses are plain numbers; lengths in bytes. */
export class Machine {
  readonly #library = Deno.dlopen("libc.so.6", SYMBOLS);
  readonly #calls = this.#library.symbols as unknown as Calls;

  /** A connected, blocking stream socket. Throws when the server cannot be reached. */
  connect(target: Target): number {
    const unix = "path" in target;
    const fd = this.#check(
      this.#calls.socket(unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
      "socket",
    );
    const address = encodeAddress(target);
    if (this.#calls.connect(fd, address, address.length) < 0) {
      const errno = this.#errno();
      this.#calls.close(fd);
      throw new Error(`cannot connect to ${describe(target)}: errno ${errno}`);
    }
    if (!unix) this.#calls.setsockopt(fd, 6, 1, new Uint8Array([1, 0, 0, 0]), 4); // TCP_NODELAY
    return fd;
  }

  /** A listening Unix socket. */
  listen(path: string): number {
    const fd = this.#check(this.#calls.socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), "socket");
    const address = encodeAddress({ path });
    this.#check(this.#calls.bind(fd, address, address.length), `bind ${path}`);
    this.#check(this.#calls.listen(fd, 8), "listen");
    return fd;
  }

  /** Waits for a client; its blocking socket. */
  accept(fd: number): number {
    return this.#check(this.#calls.accept4(fd, 0, 0, SOCK_CLOEXEC), "accept");
  }

  recv(fd: number, address: number, length: number, flags: number): number {
    const got = this.#calls.recv(fd, address, length, flags);
    return got < 0 ? -this.#errno() : got;
  }

  send(fd: number, address: number, length: number, flags: number): number {
    const sent = this.#calls.send(fd, address, length, flags | MSG_NOSIGNAL);
    return sent < 0 ? -this.#errno() : sent;
  }

  /** poll(2) on `count` struct pollfd at `address`. */
  poll(address: number, count: number, timeoutMs: number): number {
    const ready = this.#calls.poll(address, count, timeoutMs);
    return ready < 0 ? -this.#errno() : ready;
  }

  closeFd(fd: number): void {
    this.#calls.close(fd);
  }

  /** Anonymous memory, zeroed. */
  allocate(length: number): Memory {
    const pointer = this.#calls.mmap(0, length, 3, 0x22, -1, 0); // PROT_READ|WRITE, PRIVATE|ANONYMOUS
    const address = Number(Deno.UnsafePointer.value(pointer));
    if (pointer === null || address >= 2 ** 47) throw new Error(`no memory for ${length} bytes`);
    const buffer = Deno.UnsafePointerView.getArrayBuffer(pointer, length);
    const calls = this.#calls;
    return {
      address,
      length,
      bytes: new Uint8Array(buffer),
      view: new DataView(buffer),
      unmap: () => void calls.munmap(pointer, length),
    };
  }

  /** Unloads the bindings; nothing may be called afterwards. */
  close(): void {
    this.#library.close();
  }

  #errno(): number {
    return new Deno.UnsafePointerView(this.#calls.__errno_location()!).getInt32();
  }

  #check(result: number, what: string): number {
    if (result < 0) throw new Error(`${what}: errno ${this.#errno()}`);
    return result;
  }
}

/** struct sockaddr_un or sockaddr_in. */
function encodeAddress(target: Target): Uint8Array<ArrayBuffer> {
  if ("path" in target) {
    const path = new TextEncoder().encode(target.path);
    if (path.length > 107) throw new Error(`socket path is too long: ${target.path}`);
    const out = new Uint8Array(2 + path.length + 1);
    out[0] = AF_UNIX;
    out.set(path, 2);
    return out;
  }
  const out = new Uint8Array(16);
  out[0] = AF_INET;
  out[2] = target.port >> 8;
  out[3] = target.port & 255;
  const parts = target.host.split(".").map(Number);
  if (parts.length !== 4 || parts.some((n) => !(n >= 0 && n < 256))) {
    throw new Error(`not an IPv4 address: ${target.host}`);
  }
  out.set(parts, 4);
  return out;
}

function describe(target: Target): string {
  return "path" in target ? target.path : `${target.host}:${target.port}`;
}
