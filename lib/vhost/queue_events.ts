/** The descriptors by which a queue and its driver notify each other: kick, call and err. */
import { type Context, EPOLL, F, O, type Watch } from "../sys/mod.ts";

/** Those of one queue. Descriptors that it is given are its own from then on. */
export class QueueEvents {
  /** Whether a kick was set, as a descriptor or as "poll". */
  started = false;
  #kickFd = -1;
  #kickDrains = false;
  #kickWatch: Watch | undefined;
  #callFd = -1;
  #errFd = -1;

  /** `one`: address of a native u64 that holds 1. `kicked`: the driver notifies. */
  constructor(
    private readonly context: Context,
    private readonly one: number,
    private readonly kicked: () => void,
  ) {}

  /** SET_VRING_KICK; `fd` < 0: poll. Throws SysError if it is useless. */
  setKick(fd: number): void {
    this.closeKick();
    this.started = true;
    if (fd < 0) return;
    this.#kickFd = fd;
    const { sys, loop } = this.context;
    // An eventfd is not read: each write is an edge. Pipes fill up, so they are.
    this.#kickDrains = sys.readlink(`/proc/self/fd/${fd}`) !== "anon_inode:[eventfd]";
    if (this.#kickDrains) this.#unblock(fd);
    this.#kickWatch = loop.watch(fd, EPOLL.IN | EPOLL.ET, (events) => this.#kick(events));
  }

  #kick(events: number): void {
    if (this.#kickDrains) this.#drainKick();
    if ((events & (EPOLL.ERR | EPOLL.HUP)) !== 0) {
      this.#kickWatch?.close();
      this.#kickWatch = undefined;
    }
    this.kicked();
  }

  #drainKick(): void {
    const { sys, buffers } = this.context;
    const room = buffers.acquire(4096);
    sys.read(this.#kickFd, room.address, 4096);
    buffers.release(room);
  }

  /** As before SET_VRING_KICK. */
  closeKick(): void {
    this.#kickWatch?.close();
    this.#kickWatch = undefined;
    if (this.#kickFd >= 0) this.context.sys.close(this.#kickFd);
    this.#kickFd = -1;
    this.started = false;
  }

  /** SET_VRING_CALL; `fd` < 0: none. */
  setCall(fd: number): void {
    if (this.#callFd >= 0) this.context.sys.close(this.#callFd);
    this.#callFd = fd;
    if (fd >= 0) this.#unblock(fd);
  }

  /** SET_VRING_ERR; `fd` < 0: none. */
  setErr(fd: number): void {
    if (this.#errFd >= 0) this.context.sys.close(this.#errFd);
    this.#errFd = fd;
    if (fd >= 0) this.#unblock(fd);
  }

  /** Something was used. */
  call(): void {
    if (this.#callFd >= 0) this.context.sys.write(this.#callFd, this.one, 8);
  }

  /** The ring is broken. */
  error(): void {
    if (this.#errFd >= 0) this.context.sys.write(this.#errFd, this.one, 8);
  }

  /** Closes all three. */
  close(): void {
    this.closeKick();
    this.setCall(-1);
    this.setErr(-1);
  }

  /** Somebody else's descriptor must not block us. */
  #unblock(fd: number): void {
    const { sys } = this.context;
    const flags = sys.fcntl(fd, F.GETFL, 0);
    if (flags >= 0 && (flags & O.NONBLOCK) === 0) sys.fcntl(fd, F.SETFL, flags | O.NONBLOCK);
  }
}
