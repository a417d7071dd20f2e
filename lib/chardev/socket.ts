/** Sockets as a character device: server or client, one connection at a time. */
import { CommandError } from "../base/mod.ts";
import type { SocketAddressValue } from "../qmp/schema/sockets.ts";
import type { Context, SocketAddress, Timer, Watch } from "../sys/mod.ts";
import {
  adoptSocket,
  AF,
  EPOLL,
  Errno,
  errnoText,
  keepAliveOf,
  type Listening,
  listenOn,
  portOf,
  protocolOf,
  setKeepAlive,
  SO,
  SOCK,
  SOL,
  TCP,
  unresolvedInet,
} from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";
import { escapeTelnet, TelnetFilter, telnetOffer } from "./telnet.ts";

/** What a socket device is made from. */
export interface SocketOptions {
  readonly address: SocketAddressValue;
  readonly server: boolean;
  readonly nodelay: boolean;
  /** The telnet protocol is spoken: its commands are taken out of what arrives. */
  readonly telnet: boolean;
  /** Client: nanoseconds until the next try after a connection failed or ended; 0: never. */
  readonly reconnect: number;
}

/** Connections waiting in the kernel while one is served. */
const BACKLOG = 1;

/** `unix:PATH`, `tcp:HOST:PORT`: an address as QEMU shows it, with the options that matter. */
function addressText(address: SocketAddressValue, { server, telnet }: SocketOptions): string {
  const suffix = server ? ",server=on" : "";
  switch (address.type) {
    case "unix": {
      const abstract = address.abstract === true
        ? `,abstract=on${address.tight === false ? "" : ",tight=on"}`
        : "";
      return `unix:${address.path}${abstract}${suffix}`;
    }
    case "inet":
      return `${telnet ? "telnet" : "tcp"}:${hostPort(address.host, address.port)}${suffix}`;
    case "vsock":
      return `vsock:${address.cid}:${address.port}`;
    case "fd":
      return `fd:${address.str}${suffix}`;
  }
}

/** TCP and UDP addresses. */
export type InetAddress = Extract<SocketAddressValue, { type: "inet" }>;

const hostPort = (host: string, port: string | number) =>
  host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;

/** The device. Made by `SocketChardev.open`. */
export class SocketChardev extends Chardev {
  #listening: Listening | undefined;
  #listeners: Watch[] = [];
  #connection = -1;
  #timer: Timer | undefined;
  #closing = false;
  #address: SocketAddressValue;
  #told = false;
  #onConnected: (() => void) | undefined;
  readonly #telnet = new TelnetFilter();

  private constructor(context: Context, id: string, private readonly options: SocketOptions) {
    super(context, id);
    this.#address = options.address;
  }

  /** Listens, or connects. Throws CommandError; a client that reconnects only warns. */
  static async open(
    context: Context,
    id: string,
    options: SocketOptions,
  ): Promise<SocketChardev> {
    const device = new SocketChardev(context, id, options);
    if (options.server) await device.#listen();
    else if (options.reconnect > 0) await device.#tryConnect();
    else await device.#connect();
    return device;
  }

  get filename(): string {
    const text = addressText(this.#address, this.options);
    if (this.#connection < 0) return `disconnected:${text}`;
    const peer = this.context.sys.getpeername(this.#connection);
    const own = this.context.sys.getsockname(this.#connection);
    if (typeof peer === "number" || typeof own === "number") return text;
    if (!("host" in peer) || !("host" in own)) return text;
    const suffix = this.options.server ? ",server=on" : "";
    const [here, there] = [hostPort(own.host, own.port), hostPort(peer.host, peer.port)];
    return `${this.options.telnet ? "telnet" : "tcp"}:${here}${suffix} <-> ${there}`;
  }

  /** Resolves when a client is there, or when `stopped` does. `report` gets the line for people. */
  async waitForClient(stopped: Promise<unknown>, report: (line: string) => void): Promise<void> {
    if (this.isOpen) return;
    report(`QEMU waiting for connection on: ${this.filename}`);
    const connected = new Promise<void>((resolve) => this.#onConnected = resolve);
    await Promise.race([connected, stopped]);
    this.#onConnected = undefined;
  }

  protected override greet(): void {
    this.#telnet.reset();
    if (this.options.telnet && this.options.server) this.stream?.send(telnetOffer());
  }

  protected override transmit(bytes: Uint8Array): void {
    super.transmit(this.options.telnet ? escapeTelnet(bytes) : bytes);
  }

  protected override receive(bytes: Uint8Array): void {
    const data = this.options.telnet ? this.#telnet.filter(bytes) : bytes;
    if (data.length > 0) super.receive(data);
  }

  protected override dropConnection(): void {
    if (this.#connection >= 0) this.context.sys.close(this.#connection);
    this.#connection = -1;
    if (this.#closing) return;
    this.#setListening(true);
    if (!this.options.server && this.options.reconnect > 0) this.#later();
  }

  protected release(): void {
    this.#closing = true;
    this.#timer?.cancel();
    for (const watch of this.#listeners) watch.close();
    this.#listeners = [];
    const { sys } = this.context;
    if (this.#connection >= 0) sys.close(this.#connection);
    this.#connection = -1;
    for (const fd of this.#listening?.fds ?? []) sys.close(fd);
    if (this.#listening?.path !== undefined) sys.unlink(this.#listening.path);
    this.#listening = undefined;
  }

  async #listen(): Promise<void> {
    this.#listening = await listenOn(this.context, this.#address, BACKLOG);
    const [first] = this.#listening.fds;
    const bound = this.context.sys.getsockname(first!);
    if (this.#address.type === "inet" && typeof bound === "object" && "host" in bound) {
      this.#address = { ...this.#address, port: String(bound.port) };
    }
    this.#listeners = this.#listening.fds.map((fd) =>
      this.context.loop.watch(fd, EPOLL.IN, () => this.#accept(fd))
    );
  }

  /** While a client is served the others wait in the listen queue. */
  #setListening(on: boolean): void {
    for (const watch of this.#listeners) watch.set(on ? EPOLL.IN : 0);
  }

  #accept(fd: number): void {
    if (this.#connection >= 0) return;
    const connection = this.context.sys.accept(fd);
    if (connection < 0) return; // it left again, or there is nothing to serve it with
    this.#setListening(false);
    this.#adopt(connection);
  }

  #adopt(fd: number): void {
    const { sys } = this.context;
    this.#connection = fd;
    this.#told = false;
    if (this.#address.type === "inet") {
      if (this.options.nodelay) sys.setsockopt(fd, SOL.TCP, TCP.NODELAY, 1);
      const probes = keepAliveOf(this.#address);
      if (probes !== undefined) setKeepAlive(sys, fd, probes);
    }
    this.openStream(fd, fd);
    this.#onConnected?.();
  }

  #later(): void {
    this.#timer = this.context.loop.timer(this.options.reconnect, () => {
      this.#tryConnect();
    });
  }

  async #tryConnect(): Promise<void> {
    try {
      await this.#connect();
    } catch (error) {
      if (this.#closing) return;
      if (!this.#told) {
        const text = error instanceof Error ? error.message : String(error);
        this.context.log.error(`Unable to connect character device ${this.id}: ${text}`);
      }
      this.#told = true;
      this.#later();
    }
  }

  async #connect(): Promise<void> {
    const fd = await connectTo(this.context, this.#address);
    if (this.#closing) this.context.sys.close(fd);
    else this.#adopt(fd);
  }
}

/** A connected descriptor. Throws CommandError. */
async function connectTo(context: Context, address: SocketAddressValue): Promise<number> {
  switch (address.type) {
    case "unix": {
      const path = address.abstract === true ? `\0${abstractName(address)}` : address.path;
      return await connectAt(context, { family: "unix", path }, `'${address.path}'`);
    }
    case "inet":
      return await connectInet(context, address);
    case "vsock": {
      const [cid, port] = [Number(address.cid), Number(address.port)];
      if (!(cid <= 0xffffffff)) throw new CommandError(`Failed to parse cid '${address.cid}'`);
      if (!(port <= 0xffffffff)) throw new CommandError(`Failed to parse port '${address.port}'`);
      return await connectAt(context, { family: "vsock", cid, port }, `'${cid}:${port}'`);
    }
    case "fd":
      return adoptConnected(context, address.str);
  }
}

/** Bytes of sun_path after the leading NUL. */
const abstractName = (address: Extract<SocketAddressValue, { type: "unix" }>) =>
  address.tight === false ? address.path.padEnd(107, "\0") : address.path;

/** The addresses of a host and a port, of the families that are wanted. Throws CommandError. */
export async function resolveInet(
  context: Context,
  address: InetAddress,
  socktype: number = SOCK.STREAM,
): Promise<[SocketAddress, ...SocketAddress[]]> {
  const { host, ipv4, ipv6 } = address;
  const port = await portOf(context.sys, address, socktype);
  let found: SocketAddress[];
  try {
    found = await context.sys.resolve(host, port);
  } catch (error) {
    throw unresolvedInet(address, error);
  }
  const [first, ...others] = found.filter(({ family }) =>
    family === "inet" ? ipv4 ?? ipv6 !== true : ipv6 ?? ipv4 !== true
  );
  if (first === undefined) {
    throw unresolvedInet(address, "Address family for hostname not supported");
  }
  return [first, ...others];
}

async function connectInet(context: Context, address: InetAddress): Promise<number> {
  let problem: unknown;
  for (const candidate of await resolveInet(context, address)) {
    try {
      const shown = `'${address.host}:${address.port}'`;
      return await connectAt(context, candidate, shown, protocolOf(address));
    } catch (error) {
      problem = error;
    }
  }
  throw problem;
}

/** AF_* of an address. */
export const familyNumber = {
  unix: AF.UNIX,
  inet: AF.INET,
  inet6: AF.INET6,
  vsock: AF.VSOCK,
} as const;

async function connectAt(
  context: Context,
  address: SocketAddress,
  shown: string,
  protocol = 0,
): Promise<number> {
  const { sys } = context;
  const fd = sys.socket(familyNumber[address.family], SOCK.STREAM, protocol);
  if (fd < 0) throw new CommandError(`Failed to create socket: ${errnoText(-fd)}`);
  let rc = sys.connect(fd, address);
  if (rc === -Errno.EINPROGRESS) {
    await writable(context, fd);
    rc = -sys.getsockopt(fd, SOL.SOCKET, SO.ERROR);
  }
  if (rc >= 0) return fd;
  sys.close(fd);
  throw new CommandError(`Failed to connect to ${shown}: ${errnoText(-rc)}`);
}

function writable(context: Context, fd: number): Promise<void> {
  return new Promise((resolve) => {
    const watch = context.loop.watch(fd, EPOLL.OUT, () => {
      watch.close();
      resolve();
    });
  });
}

/** A connected socket that came with the process. */
function adoptConnected(context: Context, text: string): number {
  const { sys } = context;
  const fd = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(fd <= 0x7fffffff)) throw new CommandError(`Unable to parse FD number ${text}`);
  adoptSocket(sys, fd, text);
  return fd;
}
