/** Standard input and output as a character device. */
import type { Context, Memory } from "../sys/mod.ts";
import { F, O } from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";

const TCGETS = 0x5401;
const TCSETS = 0x5402;
/** struct termios: c_lflag is its fourth word; ISIG makes ^C a signal. */
const TERMIOS_BYTES = 64;
const LFLAG_AT = 12;
const ISIG = 1;

const STDIN = 0;
const STDOUT = 1;

/** The device. What it changes on the descriptors and on the terminal, `close` restores. */
export class StdioChardev extends Chardev {
  readonly filename = "stdio";
  readonly #flags: readonly [number, number];
  #savedTerminal: Memory | undefined;

  /** `signal`: whether the terminal's interrupt key still sends a signal. */
  constructor(context: Context, id: string, signal: boolean) {
    super(context, id);
    const { sys } = context;
    this.#flags = [sys.fcntl(STDIN, F.GETFL, 0), sys.fcntl(STDOUT, F.GETFL, 0)];
    if (!signal) this.#silenceKeys();
    for (const fd of [STDIN, STDOUT]) {
      sys.fcntl(fd, F.SETFL, sys.fcntl(fd, F.GETFL, 0) | O.NONBLOCK);
    }
    this.openStream(STDIN, STDOUT);
  }

  override disconnect(): void {
    // End of input does not end a stdio device: events still go to standard output.
  }

  protected release(): void {
    const { sys } = this.context;
    if (this.#savedTerminal !== undefined) {
      sys.ioctl(STDIN, TCSETS, this.#savedTerminal.address);
      this.#savedTerminal.unmap();
      this.#savedTerminal = undefined;
    }
    [STDIN, STDOUT].forEach((fd, i) => {
      if (this.#flags[i]! >= 0) sys.fcntl(fd, F.SETFL, this.#flags[i]!);
    });
  }

  #silenceKeys(): void {
    const { sys } = this.context;
    const saved = sys.allocate(TERMIOS_BYTES);
    if (sys.ioctl(STDIN, TCGETS, saved.address) < 0) {
      saved.unmap(); // not a terminal
      return;
    }
    this.#savedTerminal = saved;
    const changed = sys.allocate(TERMIOS_BYTES);
    changed.bytes.set(saved.bytes);
    const local = changed.view.getUint32(LFLAG_AT, true);
    changed.view.setUint32(LFLAG_AT, (local & ~ISIG) >>> 0, true);
    sys.ioctl(STDIN, TCSETS, changed.address);
    changed.unmap();
  }
}
