/** Devices that are descriptors of files, without connections: null, file, pipe, serial, parallel. */
import { CommandError } from "../base/mod.ts";
import type { Context } from "../sys/mod.ts";
import { errnoText, O } from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";
import { sendBreak, setRaw } from "./terminal.ts";

/** Takes everything and gives nothing. */
export class NullChardev extends Chardev {
  readonly filename = "null";
  override readonly supportsOob = false;
  protected release(): void {}
}

/** Opens `path` or throws CommandError. Non-blocking, so that a named pipe cannot hold up the daemon. */
function openFile(context: Context, path: string, flags: number): number {
  const fd = context.sys.open(path, flags | O.CLOEXEC | O.NONBLOCK | O.NOCTTY, 0o666);
  if (fd < 0) throw new CommandError(`Could not open '${path}': ${errnoText(-fd)}`);
  return fd;
}

/** A device of which the end of input is not the end: output goes on. */
abstract class FileDevice extends Chardev {
  protected readonly fds: number[] = [];

  override disconnect(): void {}

  protected open(path: string, flags: number): number {
    try {
      const fd = openFile(this.context, path, flags);
      this.fds.push(fd);
      return fd;
    } catch (error) {
      this.release();
      throw error;
    }
  }

  protected release(): void {
    for (const fd of this.fds.splice(0)) this.context.sys.close(fd);
  }
}

/** What a file device is made from. */
export interface FileOptions {
  readonly out: string;
  readonly in?: string;
  readonly append?: boolean;
}

/** Writes to a file, and reads another if there is one. */
export class FileChardev extends FileDevice {
  readonly filename = "file";

  /** Throws CommandError when a file cannot be opened. */
  constructor(context: Context, id: string, options: FileOptions) {
    super(context, id);
    const mode = options.append ? O.APPEND : O.TRUNC;
    // The input first: a mistake in its name leaves the output's contents alone.
    const input = options.in === undefined ? -1 : this.open(options.in, O.RDONLY);
    this.openStream(input, this.open(options.out, O.WRONLY | O.CREAT | mode));
  }
}

/** Two named pipes, PATH.in and PATH.out, or one that is both. */
export class PipeChardev extends FileDevice {
  readonly filename = "pipe";

  /** Throws CommandError when neither can be opened. */
  constructor(context: Context, id: string, path: string) {
    super(context, id);
    // Read-write, so that the pipes stay when their other ends come and go.
    const { sys } = context;
    if (typeof sys.stat(`${path}.in`) === "object" && typeof sys.stat(`${path}.out`) === "object") {
      const input = this.open(`${path}.in`, O.RDWR);
      this.openStream(input, this.open(`${path}.out`, O.RDWR));
    } else {
      const both = this.open(path, O.RDWR);
      this.openStream(both, both);
    }
  }
}

/** A serial line of this machine, at 115200 baud, 8 bits, without parity. */
export class SerialChardev extends FileDevice {
  readonly filename = "serial";

  /** Throws CommandError when it cannot be opened. */
  constructor(context: Context, id: string, path: string) {
    super(context, id);
    const fd = this.open(path, O.RDWR);
    setRaw(context.sys, fd, { line: true });
    this.openStream(fd, fd);
  }

  override async sendBreak(): Promise<void> {
    await sendBreak(this.context.sys, this.fds[0]!);
  }
}

/** ioctls of linux/ppdev.h. */
const PPCLAIM = 0x708b;
const PPRELEASE = 0x708c;

/** A parallel port of this machine: claimed as long as the device is there. As in the original no bytes flow. */
export class ParallelChardev extends FileDevice {
  readonly filename = "parallel";
  override readonly supportsOob = false;

  /** Throws CommandError when it cannot be opened, or is none. */
  constructor(context: Context, id: string, path: string) {
    super(context, id);
    const rc = context.sys.ioctl(this.open(path, O.RDWR), PPCLAIM, 0);
    if (rc >= 0) return;
    super.release();
    throw new CommandError(`not a parallel port: ${errnoText(-rc)}`);
  }

  protected override release(): void {
    if (this.fds[0] !== undefined) this.context.sys.ioctl(this.fds[0], PPRELEASE, 0);
    super.release();
  }
}
