/** Sockets for the load generator, on lib/sys. */
import { AF, check, EPOLL, F, type LinuxSys, O, SOCK, SOL, TCP } from "../../lib/sys/mod.ts";

/** Where an NBD server listens: a Unix socket's path, or an IPv4 address and port. */
export type Target = { readonly path: string } | { readonly host: string; readonly port: number };

/** Connects. The socket blocks: with one connection, one call then waits for replies and takes them. */
export function connectTo(sys: LinuxSys, target: Target): number {
  const unix = "path" in target;
  const fd = check(sys.socket(unix ? AF.UNIX : AF.INET, SOCK.STREAM), "socket");
  try {
    makeBlocking(sys, fd);
    const address = unix
      ? { family: "unix" as const, path: target.path }
      : { family: "inet" as const, ...target };
    const name = unix ? target.path : `${target.host}:${target.port}`;
    check(sys.connect(fd, address), "connect", name);
    if (!unix) check(sys.setsockopt(fd, SOL.TCP, TCP.NODELAY, 1), "setsockopt");
    return fd;
  } catch (error) {
    sys.close(fd);
    throw error;
  }
}

/** A listening Unix socket, blocking. */
export function listenAt(sys: LinuxSys, path: string): number {
  const fd = check(sys.socket(AF.UNIX, SOCK.STREAM), "socket");
  makeBlocking(sys, fd);
  check(sys.bind(fd, { family: "unix", path }), "bind", path);
  check(sys.listen(fd, 8), "listen", path);
  return fd;
}

/** Waits for a client; its blocking socket. */
export function acceptFrom(sys: LinuxSys, listening: number): number {
  const fd = check(sys.accept(listening), "accept");
  makeBlocking(sys, fd);
  return fd;
}

function makeBlocking(sys: LinuxSys, fd: number): void {
  check(sys.fcntl(fd, F.SETFL, check(sys.fcntl(fd, F.GETFL, 0), "fcntl") & ~O.NONBLOCK), "fcntl");
}

/** Waits for any of a fixed list of sockets. */
export class Waiter {
  readonly #sys: LinuxSys;
  readonly #epoll: number;
  readonly #ready;
  readonly #interest: number[];

  constructor(sys: LinuxSys, readonly fds: readonly number[]) {
    this.#sys = sys;
    this.#epoll = check(sys.epollCreate(), "epoll_create1");
    this.#ready = sys.epollEvents(fds.length);
    this.#interest = fds.map(() => EPOLL.IN);
    for (const [i, fd] of fds.entries()) {
      check(sys.epollCtl(this.#epoll, EPOLL.CTL_ADD, fd, EPOLL.IN, i), "epoll_ctl");
    }
  }

  /** Whether socket `index` is also waited for to take bytes. */
  wantSend(index: number, want: boolean): void {
    const events = want ? EPOLL.IN | EPOLL.OUT : EPOLL.IN;
    if (this.#interest[index] === events) return;
    this.#interest[index] = events;
    const fd = this.fds[index]!;
    check(this.#sys.epollCtl(this.#epoll, EPOLL.CTL_MOD, fd, events, index), "epoll_ctl");
  }

  /** Waits; calls `readable` with the index of each socket that has something. Throws after `ms` of nothing. */
  wait(ms: number, readable: (index: number) => void): void {
    const count = this.#sys.epollWait(this.#epoll, this.#ready, ms);
    if (count === 0) throw new Error(`no reply within ${ms / 1000} seconds`);
    for (let i = 0; i < count; i++) {
      if ((this.#ready.events(i) & ~EPOLL.OUT) !== 0) readable(this.#ready.data(i));
    }
  }

  /** Closes the set, not the sockets. */
  close(): void {
    this.#sys.close(this.#epoll);
  }
}
