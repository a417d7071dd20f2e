/** `logfile`: a copy of what is sent through a character device. */
import { CommandError } from "../base/mod.ts";
import { type Context, Errno, errnoText, O, utcText } from "../sys/mod.ts";

const PIECE = 64 << 10;

const NEWLINE = 10;

/** How a log is kept. */
export interface LogOptions {
  /** What it holds already stays. */
  readonly append: boolean;
  /** Each line begins with the time at which its first byte was sent. */
  readonly timestamp: boolean;
}

/** An open log. What cannot be written (a full disk, a pipe that nobody reads) is left out. */
export class OutputLog {
  #lineStart = true;

  private constructor(
    private readonly context: Context,
    private readonly fd: number,
    private readonly timestamp: boolean,
  ) {}

  /** Opens or makes the file, emptied unless `append`. Throws CommandError. */
  static open(context: Context, path: string, { append, timestamp }: LogOptions): OutputLog {
    // Non-blocking: a named pipe without a reader is an error, not a reason to wait for ever.
    const flags = O.WRONLY | O.CREAT | O.CLOEXEC | O.NONBLOCK | (append ? O.APPEND : O.TRUNC);
    const fd = context.sys.open(path, flags, 0o666);
    if (fd < 0) throw new CommandError(`Could not create '${path}': ${errnoText(-fd)}`);
    return new OutputLog(context, fd, timestamp);
  }

  write(bytes: Uint8Array): void {
    if (!this.timestamp) return this.#append(bytes);
    for (let at = 0; at < bytes.length;) {
      if (this.#lineStart) {
        this.#append(new TextEncoder().encode(`${utcText(this.context.sys.realtimeUs())} `));
      }
      const end = bytes.indexOf(NEWLINE, at);
      const next = end < 0 ? bytes.length : end + 1;
      this.#append(bytes.subarray(at, next));
      this.#lineStart = end >= 0;
      at = next;
    }
  }

  #append(bytes: Uint8Array): void {
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
