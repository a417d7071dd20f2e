/** Who carries out the requests that may block: the thread pool, libaio or io_uring (the latter two: lib/sys). */
import type { IoVec, MaybePromise } from "../../../base/mod.ts";
import type { Sys } from "../../../sys/mod.ts";

/**
 * Moves bytes without blocking the caller's thread. Results: bytes moved, or -errno. What an AsyncIo of lib/sys
 * can do, as far as a file needs it. A list must stay as it is until its request has completed.
 */
export interface TransferEngine {
  /** As the aio option calls it. */
  readonly engine: "threads" | "native" | "io_uring";
  readv(fd: number, iov: IoVec, offset: number): Promise<number>;
  writev(fd: number, iov: IoVec, offset: number): Promise<number>;
  /** Waits for what is in flight. */
  close(): MaybePromise<void>;
}

/** aio=threads. */
export class ThreadsEngine implements TransferEngine {
  readonly engine = "threads";
  constructor(readonly sys: Sys) {}

  readv(fd: number, iov: IoVec, offset: number): Promise<number> {
    return iov.count === 1
      ? this.sys.pool.pread(fd, iov.addresses[0]!, iov.total, offset)
      : this.sys.pool.preadv(fd, iov, offset, 0);
  }

  writev(fd: number, iov: IoVec, offset: number): Promise<number> {
    return iov.count === 1
      ? this.sys.pool.pwrite(fd, iov.addresses[0]!, iov.total, offset)
      : this.sys.pool.pwritev(fd, iov, offset, 0);
  }

  close(): void {}
}
