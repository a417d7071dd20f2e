/** The terminal, or what stands in its place: input as it comes, whole writes, the size, raw mode and back. */
import {
  type Context,
  EPOLL,
  Errno,
  isTerminal,
  type Memory,
  onSignals,
  rawTerminal,
  type Watch,
} from "../sys/mod.ts";

const STDIN = 0;
const STDOUT = 1;
const STDERR = 2;
/** Of asm-generic/ioctls.h; the answer is struct winsize: rows, columns. */
const TIOCGWINSZ = 0x5413;
const CHUNK = 4096;
/** Where the terminal does not know its size. */
const DEFAULT_SIZE = { rows: 24, columns: 80 } as const;

/** Rows and columns. */
export interface TerminalSize {
  readonly rows: number;
  readonly columns: number;
}

/** Standard input, output and error of a client. */
export class Terminal {
  readonly interactive: boolean;
  readonly #buffer: Memory;
  #raw: { restore(): number } | undefined;
  #input: Watch | undefined;
  #resize: { close(): void } | undefined;
  #leave = "";

  constructor(private readonly context: Context) {
    const { sys } = context;
    this.interactive = isTerminal(sys, STDIN) && isTerminal(sys, STDOUT);
    this.#buffer = sys.allocate(CHUNK);
  }

  /** Whether standard output is a terminal. */
  get outputIsTerminal(): boolean {
    return isTerminal(this.context.sys, STDOUT);
  }

  /** The size now. */
  size(): TerminalSize {
    const { sys } = this.context;
    const scratch = sys.allocate(8);
    const rc = sys.ioctl(STDOUT, TIOCGWINSZ, scratch.address);
    const [rows, columns] = [scratch.view.getUint16(0, true), scratch.view.getUint16(2, true)];
    scratch.unmap();
    return rc < 0 || rows === 0 || columns === 0 ? DEFAULT_SIZE : { rows, columns };
  }

  /** Writes all of `text`; false when nobody is there to take it. */
  write(text: string, fd: number = STDOUT): boolean {
    const { sys } = this.context;
    const bytes = new TextEncoder().encode(text);
    for (let done = 0; done < bytes.length;) {
      const piece = bytes.subarray(done, done + CHUNK);
      const memory = sys.allocate(piece.length);
      memory.bytes.set(piece);
      const written = sys.write(fd, memory.address, piece.length);
      memory.unmap();
      if (written === -Errno.EINTR) continue;
      // A terminal that somebody made non-blocking: the kernel's buffer is emptied by the reader.
      if (written === -Errno.EAGAIN) continue;
      if (written < 0) return false;
      done += written;
    }
    return true;
  }

  /** A line for people on standard error. */
  complain(line: string): void {
    this.write(`${line}\n`, STDERR);
  }

  /** Raw mode: keys come at once and unechoed, Ctrl-C is a key. `enter` and `leave` are written around it. */
  raw(enter = "", leave = ""): void {
    const raw = rawTerminal(this.context.sys, STDIN, { signals: false });
    if (typeof raw === "number") return;
    this.#raw = raw;
    this.#leave = leave;
    this.write(enter);
  }

  /** Calls `received` with input as it comes, and `ended` when there is no more. */
  read(received: (bytes: Uint8Array) => void, ended: () => void): void {
    const { sys, loop } = this.context;
    const once = (): boolean => {
      const got = sys.read(STDIN, this.#buffer.address, CHUNK);
      if (got === -Errno.EINTR || got === -Errno.EAGAIN) return true;
      if (got <= 0) {
        this.#input?.close();
        this.#input = undefined;
        ended();
        return false;
      }
      received(this.#buffer.bytes.slice(0, got));
      return true;
    };
    const stat = sys.fstat(STDIN);
    const pollable = typeof stat !== "number" &&
      (stat.kind === "fifo" || stat.kind === "socket" || isTerminal(sys, STDIN));
    if (pollable) this.#input = loop.watch(STDIN, EPOLL.IN, once);
    else while (once()); // a file is always ready
  }

  /** Calls `resized` whenever the window has another size. */
  onResize(resized: () => void): void {
    this.#resize = onSignals(["SIGWINCH"], resized);
  }

  /** Puts everything back. Idempotent. */
  close(): void {
    this.#input?.close();
    this.#input = undefined;
    this.#resize?.close();
    this.#resize = undefined;
    if (this.#raw === undefined) return;
    this.write(this.#leave);
    this.#raw.restore();
    this.#raw = undefined;
  }

  /** Also gives the memory back. Nothing may be called afterwards. */
  dispose(): void {
    this.close();
    this.#buffer.unmap();
  }
}
