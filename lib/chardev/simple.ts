/** Devices without another side that answers. */
import { CommandError } from "../base/mod.ts";
import type { Context } from "../sys/mod.ts";
import { errnoText, O } from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";

/** Takes everything and gives nothing. */
export class NullChardev extends Chardev {
  readonly filename = "null";
  override readonly supportsOob = false;
  protected release(): void {}
  protected dropConnection(): void {}
}

/** Writes to a file. */
export class FileChardev extends Chardev {
  readonly filename = "file";
  private readonly fd: number;

  /** Throws CommandError when the file cannot be opened. */
  constructor(context: Context, id: string, path: string, append: boolean) {
    super(context, id);
    const mode = append ? O.APPEND : O.TRUNC;
    this.fd = context.sys.open(path, O.WRONLY | O.CREAT | O.CLOEXEC | mode, 0o666);
    if (this.fd < 0) {
      throw new CommandError(`Could not open '${path}': ${errnoText(-this.fd)}`);
    }
    this.openStream(-1, this.fd);
  }

  protected release(): void {
    this.context.sys.close(this.fd);
  }
  protected dropConnection(): void {}
}
