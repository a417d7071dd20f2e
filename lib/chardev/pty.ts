/** A pseudo terminal: whoever opens its other side is the client, one after the other. */
import { CommandError } from "../base/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import { type Context, Errno, errnoText, O, type Timer } from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";
import { setRaw } from "./terminal.ts";

const TIOCSPTLCK = 0x40045431;
const TIOCGPTN = 0x80045430;
/** How often a pty that nobody has open is looked at: the kernel has no event for it. */
const LOOK_NS = 250e6;
const PIECE = 4096;

/** The device. */
export class PtyChardev extends Chardev {
  /** Of the side that clients open, as "/dev/pts/3". */
  readonly path: string;
  readonly #fd: number;
  #timer: Timer | undefined;
  #closed = false;

  /** Throws CommandError when there is none to be had. */
  constructor(context: Context, id: string, private readonly link?: string) {
    super(context, id);
    const { sys } = context;
    this.#fd = sys.open("/dev/ptmx", O.RDWR | O.NOCTTY | O.CLOEXEC | O.NONBLOCK);
    if (this.#fd < 0) throw new CommandError(`Failed to create PTY: ${errnoText(-this.#fd)}`);
    const scratch = sys.allocate(4);
    let rc = sys.ioctl(this.#fd, TIOCSPTLCK, scratch.address);
    if (rc >= 0) rc = sys.ioctl(this.#fd, TIOCGPTN, scratch.address);
    this.path = `/dev/pts/${scratch.view.getUint32(0, true)}`;
    scratch.unmap();
    if (rc < 0) {
      sys.close(this.#fd);
      throw new CommandError(`Failed to create PTY: ${errnoText(-rc)}`);
    }
    setRaw(sys, this.#fd, { line: false });
    rc = link === undefined ? 0 : sys.symlink(this.path, link);
    if (rc < 0) {
      sys.close(this.#fd);
      throw new CommandError(`Failed to create PTY symlink '${link}': ${errnoText(-rc)}`);
    }
  }

  get filename(): string {
    return `pty:${this.path}`;
  }

  override attach(user: ChannelUser): Channel {
    const channel = super.attach(user);
    if (!this.isOpen) this.#lookIn(0);
    return channel;
  }

  /** There is no way to end a client's hold on its side; what it sends is still taken. */
  override disconnect(): void {}

  protected override dropConnection(): void {
    if (!this.#closed) this.#lookIn(LOOK_NS);
  }

  protected release(): void {
    this.#closed = true;
    this.#timer?.cancel();
    if (this.link !== undefined) this.context.sys.unlink(this.link);
    this.context.sys.close(this.#fd);
  }

  #lookIn(ns: number): void {
    this.#timer?.cancel();
    this.#timer = this.context.loop.timer(ns, () => this.#look());
  }

  /** EIO says that nobody has the other side open. */
  #look(): void {
    if (this.user === undefined || this.isOpen || this.#closed) return;
    const { sys, buffers } = this.context;
    const piece = buffers.acquire(PIECE);
    const got = sys.read(this.#fd, piece.address, PIECE);
    const early = piece.bytes.slice(0, Math.max(got, 0));
    buffers.release(piece);
    if (got < 0 && got !== -Errno.EAGAIN) return this.#lookIn(LOOK_NS);
    this.openStream(this.#fd, this.#fd);
    if (early.length > 0) this.receive(early);
  }
}
