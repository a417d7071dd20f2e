/** Bytes over raw descriptors on the context's loop: a bounded read, a queue to write, and the end. */
import type { Context, Memory, Watch } from "../sys/mod.ts";
import { EPOLL, Errno } from "../sys/mod.ts";

/** What happens on a stream. All but `received` may come at any time, never within a call of `send`. */
export interface StreamUser {
  /** `bytes` is only valid during the call. */
  received(bytes: Uint8Array): void;
  /** End of input; output may still be possible. Once. */
  ended(): void;
  /** Nothing more can be sent or received. Once; the descriptors are still open. */
  failed(): void;
  /** The queue has fallen below half of `CONGESTED`, or is empty. */
  drained(): void;
}

/** Bytes read at once. */
const READ_BYTES = 64 << 10;
/** A stream with more than this many bytes to send is congested. */
const CONGESTED = 64 << 10;

/** Two descriptors (perhaps the same one) as a stream. Does not close them. */
export class FdStream {
  readonly #memory: Memory;
  readonly #queue: Uint8Array[] = [];
  #headDone = 0;
  #unsentBytes = 0;
  #wasCongested = false;
  #paused = true;
  #inputOver = false;
  #over = false;
  #released = false;
  readonly #isSocket: boolean;
  #inputWatch: Watch | undefined;
  #outputWatch: Watch | undefined;

  constructor(
    private readonly context: Context,
    private readonly input: number,
    private readonly output: number,
    private readonly user: StreamUser,
  ) {
    this.#memory = context.buffers.acquire(READ_BYTES);
    const stat = context.sys.fstat(output);
    this.#isSocket = typeof stat === "object" && stat.kind === "socket";
    const handler = (events: number) => this.#ready(events);
    // Plain files and /dev/null cannot be watched (EPERM): they are always ready.
    if (input >= 0) this.#inputWatch = this.#tryWatch(input, handler);
    this.#outputWatch = input === output ? this.#inputWatch : this.#tryWatch(output, handler);
  }

  /** Bytes taken by `send` and not yet by the kernel. */
  get unsent(): number {
    return this.#unsentBytes;
  }

  get congested(): boolean {
    return this.#unsentBytes > CONGESTED;
  }

  /** Queues `bytes`, which it keeps. */
  send(bytes: Uint8Array): void {
    if (this.#over || bytes.length === 0) return;
    this.#queue.push(bytes);
    this.#unsentBytes += bytes.length;
    if (this.#queue.length === 1) this.#flush();
    this.#wasCongested ||= this.congested;
    this.#arm();
  }

  /** Stops or resumes reading. It begins stopped. */
  pause(paused: boolean): void {
    if (this.#paused === paused || this.#over) return;
    this.#paused = paused;
    this.#arm();
    if (!paused && this.#inputWatch === undefined) this.#pollInput();
  }

  /** Stops watching; what is unsent is dropped. */
  close(): void {
    this.#over = true;
    this.#release();
  }

  #release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#inputWatch?.close();
    if (this.#outputWatch !== this.#inputWatch) this.#outputWatch?.close();
    this.context.buffers.release(this.#memory);
    this.#queue.length = 0;
    this.#unsentBytes = 0;
  }

  #tryWatch(fd: number, handler: (events: number) => void): Watch | undefined {
    try {
      return this.context.loop.watch(fd, 0, handler, true);
    } catch {
      return undefined;
    }
  }

  #arm(): void {
    if (this.#over) return;
    const wantsInput = this.#paused || this.#inputOver ? 0 : EPOLL.IN;
    const wantsOutput = this.#unsentBytes > 0 ? EPOLL.OUT : 0;
    if (this.#inputWatch === this.#outputWatch) this.#inputWatch?.set(wantsInput | wantsOutput);
    else {
      this.#inputWatch?.set(wantsInput);
      this.#outputWatch?.set(wantsOutput);
    }
  }

  #ready(events: number): void {
    if (this.#over) return;
    if (events & EPOLL.OUT) this.#flush();
    const gone = (events & (EPOLL.HUP | EPOLL.ERR)) !== 0;
    // What a peer sent before it left is read first, as far as we read at all.
    if (events & EPOLL.IN && !this.#paused) this.#read();
    else if (gone && !this.#over) this.#hungUp();
    this.#arm();
  }

  /** The kernel says so even to those who do not ask: it has to be dealt with, or it would say so for ever. */
  #hungUp(): void {
    if (this.input === this.output) return this.#fail();
    if (this.#inputOver) return this.#fail();
    this.#endInput();
  }

  #endInput(): void {
    if (this.#inputOver) return;
    this.#inputOver = true;
    if (this.#inputWatch !== this.#outputWatch) {
      this.#inputWatch?.close();
      this.#inputWatch = undefined;
    }
    this.user.ended();
  }

  #read(): void {
    const got = this.context.sys.read(this.input, this.#memory.address, READ_BYTES);
    if (got > 0) this.user.received(this.#memory.bytes.subarray(0, got));
    else if (got === 0) this.#endInput();
    else if (got !== -Errno.EAGAIN && got !== -Errno.EINTR) {
      if (this.input === this.output) this.#fail();
      else this.#endInput();
    }
  }

  /** Input that cannot be watched: one piece a turn. */
  #pollInput(): void {
    this.context.loop.defer(() => {
      if (this.#over || this.#paused || this.#inputOver || this.input < 0) return;
      this.#read();
      if (!this.#inputOver && !this.#over) this.#pollInput();
    });
  }

  #flush(): void {
    const { sys } = this.context;
    const scratch = this.context.buffers.acquire(READ_BYTES);
    try {
      while (this.#queue.length > 0) {
        const head = this.#queue[0]!;
        const take = Math.min(head.length - this.#headDone, READ_BYTES);
        scratch.bytes.set(head.subarray(this.#headDone, this.#headDone + take));
        const sent = this.#isSocket
          ? sys.send(this.output, scratch.address, take, 0)
          : sys.write(this.output, scratch.address, take);
        if (sent < 0) {
          if (sent === -Errno.EAGAIN || sent === -Errno.EINTR) break;
          return this.context.loop.defer(() => this.#fail());
        }
        this.#unsentBytes -= sent;
        this.#headDone += sent;
        if (this.#headDone === head.length) {
          this.#queue.shift();
          this.#headDone = 0;
        }
      }
    } finally {
      this.context.buffers.release(scratch);
    }
    const relieved = this.#wasCongested && this.#unsentBytes <= CONGESTED / 2;
    if (relieved) this.#wasCongested = false;
    if (relieved || this.#unsentBytes === 0) {
      this.context.loop.defer(() => this.#over || this.user.drained());
    }
  }

  #fail(): void {
    if (this.#over) return;
    this.#over = true;
    this.#release();
    this.user.failed();
  }
}
