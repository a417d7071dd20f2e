/** Who carries out the requests that may block: the thread pool, libaio or io_uring. */
import type { IoVec } from "../../../base/mod.ts";
import type { Sys } from "../../../sys/mod.ts";

/** Moves bytes without blocking the caller's thread. Results: bytes moved, or -errno. */
export interface TransferEngine {
  /** As the aio option calls it. */
  readonly name: "threads" | "native" | "io_uring";
  read(fd: number, iov: IoVec, offset: number): Promise<number>;
  write(fd: number, iov: IoVec, offset: number): Promise<number>;
  /** No request is in flight. */
  close(): void;
}

/** aio=threads. */
export class ThreadsEngine implements TransferEngine {
  readonly name = "threads";
  constructor(readonly sys: Sys) {}

  read(fd: number, iov: IoVec, offset: number): Promise<number> {
    return iov.count === 1
      ? this.sys.pool.pread(fd, iov.addresses[0]!, iov.total, offset)
      : this.sys.pool.preadv(fd, iov, offset, 0);
  }

  write(fd: number, iov: IoVec, offset: number): Promise<number> {
    return iov.count === 1
      ? this.sys.pool.pwrite(fd, iov.addresses[0]!, iov.total, offset)
      : this.sys.pool.pwritev(fd, iov, offset, 0);
  }

  close(): void {}
}
