/**
 * libc through Deno's FFI. A synchronous call costs about 0.02 us. Addresses are `usize`, offsets `i64`, both given
 * as BigInts that `Wide` makes (wide.ts says why); results are i32 wherever they fit, because a 64-bit result makes a
 * BigInt.
 */

/** Functions of libc that every context calls from its start, on the calling thread. Binding one takes about 0.25 ms. */
export const symbols = {
  __errno_location: { parameters: [], result: "pointer" },
  // files
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  statx: { parameters: ["i32", "buffer", "i32", "u32", "usize"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i64"], result: "i32" },
  read: { parameters: ["i32", "usize", "usize"], result: "i32" },
  write: { parameters: ["i32", "usize", "usize"], result: "i32" },
  // memory
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "usize" },
  munmap: { parameters: ["usize", "usize"], result: "i32" },
  mprotect: { parameters: ["usize", "usize", "i32"], result: "i32" },
  // events and clock
  eventfd: { parameters: ["u32", "i32"], result: "i32" },
  epoll_create1: { parameters: ["i32"], result: "i32" },
  epoll_ctl: { parameters: ["i32", "i32", "i32", "usize"], result: "i32" },
  epoll_wait: { parameters: ["i32", "usize", "i32", "i32"], result: "i32" },
  clock_gettime: { parameters: ["i32", "usize"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Those that move data: bound all together when the first is called, so that calls stay as cheap. */
export const dataSymbols = {
  // files
  lseek: { parameters: ["i32", "i64", "i32"], result: "i64" },
  pread: { parameters: ["i32", "usize", "usize", "i64"], result: "i32" },
  pwrite: { parameters: ["i32", "usize", "usize", "i64"], result: "i32" },
  preadv2: { parameters: ["i32", "usize", "i32", "i64", "i32"], result: "i32" },
  pwritev2: { parameters: ["i32", "usize", "i32", "i64", "i32"], result: "i32" },
  ioctl: { parameters: ["i32", "u64", "i64"], result: "i32" },
  // memory
  memcpy: { parameters: ["usize", "usize", "usize"], result: "void" },
  memset: { parameters: ["usize", "i32", "usize"], result: "void" },
  memcmp: { parameters: ["usize", "usize", "usize"], result: "i32" },
  // sockets
  socket: { parameters: ["i32", "i32", "i32"], result: "i32" },
  bind: { parameters: ["i32", "usize", "u32"], result: "i32" },
  listen: { parameters: ["i32", "i32"], result: "i32" },
  accept4: { parameters: ["i32", "usize", "usize", "i32"], result: "i32" },
  shutdown: { parameters: ["i32", "i32"], result: "i32" },
  recv: { parameters: ["i32", "usize", "usize", "i32"], result: "i32" },
  send: { parameters: ["i32", "usize", "usize", "i32"], result: "i32" },
  sendmsg: { parameters: ["i32", "usize", "i32"], result: "i32" },
  recvmsg: { parameters: ["i32", "usize", "i32"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "usize", "usize"], result: "i32" },
  setsockopt: { parameters: ["i32", "i32", "i32", "usize", "u32"], result: "i32" },
  getsockname: { parameters: ["i32", "usize", "usize"], result: "i32" },
  sendfile: { parameters: ["i32", "i32", "usize", "usize"], result: "i32" },
  splice: { parameters: ["i32", "usize", "i32", "usize", "usize", "u32"], result: "i32" },
  syscall: { parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Those that few runs need: each is bound when it is called for the first time. */
const rareSymbols = {
  unlink: { parameters: ["buffer"], result: "i32" },
  symlink: { parameters: ["buffer", "buffer"], result: "i32" },
  rename: { parameters: ["buffer", "buffer"], result: "i32" },
  chmod: { parameters: ["buffer", "u32"], result: "i32" },
  readlink: { parameters: ["buffer", "usize", "usize"], result: "i32" },
  realpath: { parameters: ["buffer", "usize"], result: "usize" },
  dup2: { parameters: ["i32", "i32"], result: "i32" },
  pipe2: { parameters: ["usize", "i32"], result: "i32" },
  madvise: { parameters: ["usize", "usize", "i32"], result: "i32" },
  memfd_create: { parameters: ["buffer", "u32"], result: "i32" },
  socketpair: { parameters: ["i32", "i32", "i32", "usize"], result: "i32" },
  connect: { parameters: ["i32", "usize", "u32"], result: "i32" },
  getpeername: { parameters: ["i32", "usize", "usize"], result: "i32" },
  freeaddrinfo: { parameters: ["usize"], result: "void" },
  gai_strerror: { parameters: ["i32"], result: "pointer" },
  umask: { parameters: ["u32"], result: "u32" },
  chdir: { parameters: ["buffer"], result: "i32" },
  setsid: { parameters: [], result: "i32" },
  kill: { parameters: ["i32", "i32"], result: "i32" },
  sigaction: { parameters: ["i32", "usize", "usize"], result: "i32" },
  posix_spawn: {
    parameters: ["usize", "buffer", "usize", "usize", "usize", "usize"],
    result: "i32",
  },
  posix_spawnattr_init: { parameters: ["usize"], result: "i32" },
  posix_spawnattr_setflags: { parameters: ["usize", "i16"], result: "i32" },
  posix_spawnattr_setsigmask: { parameters: ["usize", "usize"], result: "i32" },
  posix_spawnattr_destroy: { parameters: ["usize"], result: "i32" },
  posix_spawn_file_actions_init: { parameters: ["usize"], result: "i32" },
  posix_spawn_file_actions_adddup2: { parameters: ["usize", "i32", "i32"], result: "i32" },
  posix_spawn_file_actions_destroy: { parameters: ["usize"], result: "i32" },
  waitpid: { parameters: ["i32", "usize", "i32"], result: "i32" },
  fsync: { parameters: ["i32"], result: "i32" },
  fdatasync: { parameters: ["i32"], result: "i32" },
  fallocate: { parameters: ["i32", "i32", "i64", "i64"], result: "i32" },
  ftruncate: { parameters: ["i32", "i64"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Symbols that run on Deno's thread pool: they return promises. */
const pooledSymbols = {
  getaddrinfo: {
    parameters: ["usize", "usize", "usize", "usize"],
    result: "i32",
    nonblocking: true,
  },
  syscall: {
    parameters: ["i64", "i64", "i64", "i64", "i64", "i64", "i64"],
    result: "i32",
    nonblocking: true,
  },
} as const satisfies Deno.ForeignLibraryInterface;

/** Deno's types ask for BigInt where 64 bits are declared; at run time, for calls on the thread pool, a number does. */
type Numbers<A extends readonly unknown[]> = {
  [K in keyof A]: A[K] extends bigint ? number : A[K];
};
/** The functions of a library, with numbers for addresses, offsets and lengths. */
export type PlainNumbers<T> = {
  readonly [K in keyof T]: T[K] extends (...args: infer A) => infer R ? (...args: Numbers<A>) => R
    : never;
};

/** The two ways into libc, and the errno of this thread. One per context; `close` when it ends. */
export interface Libc {
  readonly symbols: Deno.DynamicLibrary<typeof symbols>["symbols"];
  /** Bound at first use. */
  readonly data: Deno.DynamicLibrary<typeof dataSymbols>["symbols"];
  /** Bound one by one, at first use. */
  readonly rare: Deno.DynamicLibrary<typeof rareSymbols>["symbols"];
  /** Bound at first use. */
  readonly pooled: PlainNumbers<Deno.DynamicLibrary<typeof pooledSymbols>["symbols"]>;
  /** errno[0] is valid right after a synchronous call returned -1. */
  readonly errno: Int32Array;
  close(): void;
}

/** Functions of libc that bind themselves when they are looked at for the first time. */
function oneByOne<S extends Deno.ForeignLibraryInterface>(definitions: S) {
  const opened: { close(): void }[] = [];
  const functions = {} as Deno.DynamicLibrary<S>["symbols"];
  for (const [name, definition] of Object.entries(definitions)) {
    const bind = () => {
      const library = Deno.dlopen("libc.so.6", { [name]: definition });
      opened.push(library);
      const value = library.symbols[name];
      Object.defineProperty(functions, name, { value });
      return value;
    };
    Object.defineProperty(functions, name, { configurable: true, get: bind });
  }
  return { symbols: functions, close: () => opened.forEach((library) => library.close()) };
}

/** Opens libc for the calling thread. Throws when the system has no glibc ("libc.so.6"). */
export function openLibc(): Libc {
  const sync = Deno.dlopen("libc.so.6", symbols);
  let data: Deno.DynamicLibrary<typeof dataSymbols> | undefined;
  const rare = oneByOne(rareSymbols);
  let pooled: Deno.DynamicLibrary<typeof pooledSymbols> | undefined;
  const where = sync.symbols.__errno_location();
  const errno = new Int32Array(Deno.UnsafePointerView.getArrayBuffer(where!, 4));
  return {
    symbols: sync.symbols,
    get data() {
      data ??= Deno.dlopen("libc.so.6", dataSymbols);
      return data.symbols;
    },
    rare: rare.symbols,
    get pooled() {
      pooled ??= Deno.dlopen("libc.so.6", pooledSymbols);
      return pooled.symbols as unknown as Libc["pooled"];
    },
    errno,
    close() {
      sync.close();
      data?.close();
      rare.close();
      pooled?.close();
    },
  };
}

/** Native memory as an ArrayBuffer, without a copy. Valid while it is mapped. */
export function nativeBuffer(address: number, length: number): ArrayBuffer {
  const pointer = Deno.UnsafePointer.create(BigInt(address));
  return Deno.UnsafePointerView.getArrayBuffer(pointer!, length);
}
