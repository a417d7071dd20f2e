/** `logfile`: a copy of what is sent through a character device. */
import { CommandError } from "../base/mod.ts";
import { type Context, Errno, errnoText, O } from "../sys/mod.ts";

const PIECE = 64 << 10;

/** An open log. What cannot be written (a full disk, a pipe that nobody reads) is left out. */
export class OutputLog {
  private constructor(private readonly context: Context, private readonly fd: number) {}

  /** Opens or makes the file, emptied unless `append`. Throws CommandError. */
  static open(context: Context, path: string, append: boolean): OutputLog {
    // Non-blocking: a named pipe without a reader is an error, not a reason to wait for ever.
    const flags = O.WRONLY | O.CREAT | O.CLOEXEC | O.NONBLOCK | (append ? O.APPEND : O.TRUNC);
    const fd = context.sys.open(path, flags, 0o666);
    if (fd < 0) throw new CommandError(`Could not create '${path}': ${errnoText(-fd)}`);
    return new OutputLog(context, fd);
  }

  write(bytes: Uint8Array): void {
    const { sys, buffers } = this.context;
    const scratch = buffers.acquire(PIECE);
    for (let at = 0; at < bytes.length;) {
      const take = Math.min(bytes.length - at, PIECE);
      scratch.bytes.set(bytes.subarray(at, at + take));
      const rc = sys.write(this.fd, scratch.address, take);
      if (rc === -Errno.EINTR) continue;
      if (rc <= 0) break;
      at += rc;
    }
    buffers.release(scratch);
  }

  close(): void {
    this.context.sys.close(this.fd);
  }
}
