/**
 * What the rest of qsd sees of the machine. Calls return what the kernel returns: a result >= 0, or
 * -errno (a negative number, `errnoName(-rc)` gives its name); nothing here throws for an errno. `check`
 * turns a negative result into a SysError that carries the call and the path.
 *
 * Inline calls block this thread for as long as the kernel takes: use them where the data is known to be
 * at hand (page cache, non-blocking sockets). `pool` runs the same call on another thread.
 */
import type { IoVec } from "../base/mod.ts";

/** A mapped piece of native memory. Views stay valid until `unmap`. */
export interface Memory {
  /** First byte, as a plain number. */
  readonly address: number;
  /** Bytes. */
  readonly length: number;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** Gives the memory back. Nothing may use it, or its views, afterwards. */
  unmap(): void;
}

/** Of a guarded mapping; see Sys.guard. */
export interface MemoryGuard {
  /** Whether the mapping was lost: its contents have gone, and private zeroed memory is in its place. */
  readonly lost: boolean;
  release(): void;
}

/** Facts about a file (statx). Sizes in bytes. */
export interface FileStat {
  readonly kind: "file" | "directory" | "block" | "character" | "fifo" | "socket" | "other";
  readonly size: number;
  /** Allocated bytes (st_blocks * 512). */
  readonly allocated: number;
  /** Preferred I/O size (st_blksize). */
  readonly blockSize: number;
  readonly device: number;
  readonly inode: number;
  readonly mode: number;
  readonly rdev: number;
}

/** File calls that may run inline or on the thread pool; offsets and lengths in bytes. */
export interface FileCalls<R> {
  /** preadv2/pwritev2. `flags`: RWF_* bits. Result: bytes moved, or -errno. */
  preadv(fd: number, iov: IoVec, offset: number, flags: number): R;
  pwritev(fd: number, iov: IoVec, offset: number, flags: number): R;
  /** One segment, no flags: pread64/pwrite64, the cheapest call. Length below 2^31. */
  pread(fd: number, address: number, length: number, offset: number): R;
  pwrite(fd: number, address: number, length: number, offset: number): R;
  fsync(fd: number): R;
  fdatasync(fd: number): R;
  /** `mode`: FALLOC_FL_* bits. */
  fallocate(fd: number, mode: number, offset: number, length: number): R;
  ftruncate(fd: number, length: number): R;
  /** ioctl with a pointer argument (address) or a plain number. */
  ioctl(fd: number, request: number, argument: number): R;
}

/** Address of a socket, decoded. */
export type SocketAddress =
  /** `path` beginning with NUL is abstract; empty is unnamed. */
  | { family: "unix"; path: string }
  | { family: "inet"; host: string; port: number }
  | { family: "inet6"; host: string; port: number; scope?: number }
  | { family: "vsock"; cid: number; port: number };

/** Everything of the machine that one context uses. One instance per context (thread). */
export interface Sys extends FileCalls<number> {
  readonly pool: FileCalls<Promise<number>> & {
    open(path: string, flags: number, mode?: number): Promise<number>;
    /** Any system call by number: -errno or its result (below 2^31). Arguments are numbers (addresses, fds). */
    raw(number: number, ...args: number[]): Promise<number>;
  };

  // --- files ---
  open(path: string, flags: number, mode?: number): number;
  close(fd: number): number;
  fstat(fd: number): FileStat | number;
  stat(path: string): FileStat | number;
  /** How many pages of the range are in the page cache (cachestat), or -errno: kernels before 6.5 cannot tell. */
  cachedPages(fd: number, offset: number, length: number): number;
  /** SEEK_SET/END/DATA/HOLE. Result: the offset, or -errno. */
  lseek(fd: number, offset: number, whence: number): number;
  /** fcntl with an integer argument (F_GETFL, F_SETFL, F_GETFD, F_SETFD, F_DUPFD_CLOEXEC...). */
  fcntl(fd: number, command: number, argument: number): number;
  /** Places (`type` F_RDLCK, F_WRLCK) or drops (F_UNLCK) an open-file-description lock; does not wait. */
  ofdSetLock(fd: number, type: number, start: number, length: number): number;
  /** F_OFD_GETLK: F_UNLCK if a lock of `type` could be placed, else the type of one in the way; or -errno. */
  ofdTestLock(fd: number, type: number, start: number, length: number): number;
  /** POSIX (process) lock, for the pid file; does not wait. */
  posixSetLock(fd: number, type: number, start: number, length: number): number;
  /** read/write at the current position, or of a pipe, eventfd, tty. */
  read(fd: number, address: number, length: number): number;
  write(fd: number, address: number, length: number): number;
  unlink(path: string): number;
  /** Makes `path` a symbolic link to `target`. */
  symlink(target: string, path: string): number;
  rename(from: string, to: string): number;
  chmod(path: string, mode: number): number;
  readlink(path: string): string | number;
  realpath(path: string): string | number;
  dup(fd: number): number;
  dup2(from: number, to: number): number;
  pipe2(flags: number): readonly [number, number] | number;
  /**
   * Moves pages instead of copying them, where the kernel can: from a socket into a pipe, or out of a pipe to `offset`
   * of a file. Waits for neither end of the pipe, but for the file. Bytes, 0 at the end of the stream, -errno.
   */
  splice(from: number, to: number, length: number, offset?: number): number;
  /** Bytes that wait to be read from a socket or a pipe. */
  unread(fd: number): number;

  // --- memory ---
  /** Anonymous private memory, zeroed, rounded up to whole pages. Throws SysError when there is none. */
  allocate(length: number): Memory;
  /** Maps a file or memfd shared. */
  map(fd: number, offset: number, length: number, writable: boolean): Memory | number;
  /**
   * Guards a mapping of a file that somebody else can shorten: a touch of what is gone no longer ends the process, but
   * replaces the mapping by empty memory. Release it before the mapping is unmapped.
   */
  guard(memory: Memory): MemoryGuard;
  /** To ask about a mapping that another context guards. Releasing it does nothing: the guard is that context's. */
  guardAt(address: number): MemoryGuard;
  memfd(name: string): number;
  madvise(address: number, length: number, advice: number): number;
  /** Native to native; the ranges may not overlap. */
  copy(target: number, source: number, length: number): void;
  fill(target: number, value: number, length: number): void;
  /** Whether all bytes are zero. */
  isZero(address: number, length: number): boolean;
  /** Bytes of native memory as a view; for headers and metadata, not for data. Valid while it is mapped. */
  viewAt(address: number, length: number): Uint8Array;

  // --- sockets; all are made non-blocking and close-on-exec ---
  socket(family: number, type: number, protocol?: number): number;
  socketpair(): readonly [number, number] | number;
  bind(fd: number, address: SocketAddress): number;
  listen(fd: number, backlog: number): number;
  accept(fd: number): number;
  connect(fd: number, address: SocketAddress): number;
  shutdown(fd: number, how: number): number;
  /** recv/send with MSG_* flags (MSG_NOSIGNAL is added to sends). Result: bytes, 0 at end of stream, -errno. */
  recv(fd: number, address: number, length: number, flags: number): number;
  send(fd: number, address: number, length: number, flags: number): number;
  /** Sends from a file, out of its page cache: bytes, 0 at the end of the file, -errno. Length below 2^31. */
  sendfile(fd: number, file: number, offset: number, length: number): number;
  /** sendmsg/recvmsg over several segments, with descriptors (SCM_RIGHTS) both ways. */
  sendmsg(fd: number, iov: IoVec, flags: number, fds?: readonly number[]): number;
  /** Received descriptors are appended to `fds`; those beyond `maxFds` are closed by the kernel (MSG_CTRUNC). */
  recvmsg(fd: number, iov: IoVec, flags: number, fds: number[], maxFds: number): number;
  getsockopt(fd: number, level: number, option: number): number;
  setsockopt(fd: number, level: number, option: number, value: number): number;
  getsockname(fd: number): SocketAddress | number;
  getpeername(fd: number): SocketAddress | number;
  /** Resolves a host name or literal; blocks on the pool. Numeric addresses need no resolver. */
  resolve(host: string, port: number): Promise<SocketAddress[]>;
  /** The port of a service's name for sockets of a type (SOCK_*), as /etc/services says; blocks on the pool. */
  service(name: string, socktype: number): Promise<number>;

  // --- events ---
  eventfd(initial: number): number;
  epollCreate(): number;
  epollCtl(epfd: number, op: number, fd: number, events: number, data: number): number;
  /** Waits at most `timeoutMs` (0: polls) and fills `ready` with up to its capacity. Result: count or -errno. */
  epollWait(epfd: number, ready: EpollEvents, timeoutMs: number): number;
  epollEvents(capacity: number): EpollEvents;

  // --- kernel I/O queues (libaio, io_uring): any system call by number, inline ---
  raw(number: number, ...args: number[]): number;

  // --- process, clock, chance ---
  readonly pid: number;
  /** The kernel's number of the thread that asks. */
  readonly threadId: number;
  /** Descriptors that the process was handed down under a name (systemd's LISTEN_FDNAMES), for `fd:` addresses. */
  readonly descriptors?: Map<string, number>;
  /** Sockets that came with the process and have a user now, until they are closed. */
  readonly adopted?: Set<number>;
  readonly arch: "x86_64" | "aarch64";
  umask(mask: number): number;
  chdir(path: string): number;
  setsid(): number;
  kill(pid: number, signal: number): number;
  /** CLOCK_MONOTONIC in nanoseconds. */
  monotonicNs(): number;
  /** CLOCK_REALTIME in microseconds. */
  realtimeUs(): number;
  /** How often this thread has given up its CPU to wait for something (ru_nvcsw of RUSAGE_THREAD). */
  waits(): number;
  randomBytes(length: number): Uint8Array;
}

/** What epollWait found: parallel arrays, valid until the next wait. */
export interface EpollEvents {
  readonly capacity: number;
  /** EPOLL* bits of event `i`. */
  events(i: number): number;
  /** The `data` given to epollCtl, of event `i` (an unsigned 32-bit number). */
  data(i: number): number;
}

/** A descriptor watched by the loop. */
export interface Watch {
  readonly fd: number;
  /** Changes the interest (EPOLL* bits). 0 pauses: not even a hang-up or an error is told then. */
  set(events: number): void;
  /** Stops watching; does not close the descriptor. The handler is not called again. */
  close(): void;
}

/** A one-shot timer. */
export interface Timer {
  cancel(): void;
}

/** The data-plane loop of one context (docs/architecture.md, "The loop"). */
export interface Loop {
  /**
   * Watches `fd`, level-triggered: `handler` is called in a turn while any bit of `events` is ready. `urgent`: it
   * belongs to the control plane, and does not wait until all others that are ready have had their turn.
   */
  watch(fd: number, events: number, handler: (events: number) => void, urgent?: boolean): Watch;
  /** Runs `task` once at the end of this turn (or of a later one): to coalesce sends and submissions. */
  defer(task: () => void): void;
  /**
   * Calls `poll` in every turn while the loop is awake: for rings in shared memory. It returns whether it found
   * work. The ring's eventfd, if any, is watched as well. `sleeping` is called when the loop is about to sleep: it
   * asks for that event, and returns whether there was work before it asked, which keeps the loop awake. `settled`
   * tells whether all that was found is done: if all pollers say so, `poll` is called again and again in a turn, for
   * a bounded time.
   */
  addPoller(
    poll: () => boolean,
    sleeping?: () => boolean,
    settled?: () => boolean,
  ): { remove(): void };
  /** Runs `task` after `ns` nanoseconds (not before; the resolution is about a millisecond when idle). */
  timer(ns: number, task: () => void): Timer;
  /** Resolves after `ns` nanoseconds. */
  sleep(ns: number): Promise<void>;
  /** Lets the poller thread go and stops turning. All watches must be closed. Idempotent. */
  stop(): Promise<void>;
  /** Adaptive polling limits, in nanoseconds; as an iothread's poll-max-ns, poll-grow, poll-shrink. */
  configure(options: { pollMaxNs?: number; pollGrow?: number; pollShrink?: number }): void;
  /** Counters for status and tests: turns, parks, wake-ups. */
  readonly counters: { turns: number; parks: number; wakes: number };
}

/** Native buffers by size class, reused. One per context. */
export interface BufferPool {
  /** A page-aligned buffer of at least `length` bytes; contents are undefined. */
  acquire(length: number): Memory;
  release(buffer: Memory): void;
  /**
   * Somebody who cannot be waited for (a thread that has failed) may still read or write at `address`: if it lies in
   * a buffer that is handed out, that buffer is never used again once it is released, nor unmapped.
   */
  surrender(address: number): void;
  /**
   * Whether an address within `memory`, which need not be a buffer, was surrendered: then it has to stay mapped. To be
   * asked once, when it would be unmapped.
   */
  surrendered(memory: Pick<Memory, "address" | "length">): boolean;
  /** Bytes now handed out, and kept for reuse. */
  readonly inUse: number;
  readonly kept: number;
  /** Gives kept memory back to the kernel. */
  trim(): void;
}

/** An empty pipe that waits neither for room nor for data: its reading and its writing end. */
export interface Pipe {
  readonly from: number;
  readonly into: number;
}

/** Pipes, reused. One pool per context. */
export interface PipePool {
  /** Whether `borrow` would give a pipe now. */
  readonly available: boolean;
  /** Lends an empty pipe with room for at least 64 KiB, until `giveBack` or `discard`; undefined if there is none. */
  borrow(): Pipe | undefined;
  /** Takes a pipe back that is empty again. */
  giveBack(pipe: Pipe): void;
  /** Closes a pipe that may still hold data. */
  discard(pipe: Pipe): void;
}

/** What streams are made by: raw deflate, or a single frame of zstd. */
export type StreamFormat = "deflate" | "zstd";

/** Threads that inflate streams beside the context's own, when it pays. */
export interface InflateThreads {
  /**
   * Inflates the stream in the `length` bytes at `input` to the `room` bytes at `output`. For zstd the caller has made
   * sure that it is one frame of just that length, in the present format. The memory belongs to the threads until the
   * promise resolves, with true if the output was filled. With false the caller has to inflate inline: the stream may
   * be broken, or of a kind that the threads do not understand. Undefined: the job was not taken; inflate inline.
   */
  run(
    input: number,
    length: number,
    output: number,
    room: number,
    format: StreamFormat,
  ): Promise<boolean> | undefined;
}

/** A point that can be traced: one branch when off. Names are QEMU's where the same thing happens. */
export interface TracePoint {
  readonly name: string;
  enabled: boolean;
  /** Writes one line: time, thread, name, text. Call only when `enabled`. */
  emit(text: string): void;
}

/** Where messages for people go (stderr): few, and each says which, why and what next. */
export interface Log {
  error(message: string): void;
  warn(message: string): void;
  info(message: string): void;
}

/** One thread, one event loop, and everything that belongs to exactly one of them. */
export interface Context {
  readonly name: string;
  readonly sys: Sys;
  readonly loop: Loop;
  readonly buffers: BufferPool;
  /** Absent: nothing passes through pipes. */
  readonly pipes?: PipePool;
  readonly log: Log;
  /** Most requests that an AIO engine submits at once, where its node does not say; 0: the engine's choice. Live. */
  readonly tuning?: { readonly aioMaxBatch: number };
  /** Absent: streams are inflated inline. */
  readonly inflaters?: InflateThreads;
  /** The trace point of that name, made on first use. Look it up once, keep it. */
  trace(name: string): TracePoint;
}
