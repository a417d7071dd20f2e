/** Listening sockets from QAPI addresses, with QEMU's errors. */
import { CommandError } from "../base/mod.ts";
import { AF, F, IPV6, O, SO, SOCK, SOL, TCP } from "./constants.ts";
import { Errno, errnoText } from "./errno.ts";
import type { Context, SocketAddress, Sys } from "./types.ts";

/** An address as QAPI's SocketAddress has it; `port` of inet is a number or a service's name. */
export type StreamAddress =
  | { type: "unix"; path: string; abstract?: boolean; tight?: boolean }
  | {
    type: "inet";
    host: string;
    port: string;
    to?: number;
    ipv4?: boolean;
    ipv6?: boolean;
    "keep-alive"?: boolean;
    mptcp?: boolean;
    "keep-alive-count"?: number;
    "keep-alive-idle"?: number;
    "keep-alive-interval"?: number;
  }
  | { type: "vsock"; cid: string; port: string }
  | { type: "fd"; str: string };

/** Sockets that listen, and what to remove when they no longer do. */
export interface Listening {
  readonly fds: readonly number[];
  /** The socket file, if it was made here; by its full path. */
  readonly path: string | undefined;
  /** Keep-alive probes for accepted connections, if they are wanted. */
  readonly keepAlive: KeepAlive | undefined;
}

/** Closes them, and removes the socket file. */
export function closeListening(sys: Sys, { fds, path }: Listening): void {
  for (const fd of fds) sys.close(fd);
  if (path !== undefined) sys.unlink(path);
}

/** Keep-alive probes: how many, after how long a silence, how long apart; seconds, 0: the system's own. */
export interface KeepAlive {
  readonly count: number;
  readonly idle: number;
  readonly interval: number;
}

/** The probes that an address asks for. */
export function keepAliveOf(address: StreamAddress): KeepAlive | undefined {
  if (address.type !== "inet" || address["keep-alive"] !== true) return undefined;
  const { "keep-alive-count": count = 0, "keep-alive-idle": idle = 0 } = address;
  return { count, idle, interval: address["keep-alive-interval"] ?? 0 };
}

/** Turns the probes on for a connected TCP socket. What the kernel refuses stays as it is. */
export function setKeepAlive(sys: Sys, fd: number, probes: KeepAlive): void {
  sys.setsockopt(fd, SOL.SOCKET, SO.KEEPALIVE, 1);
  if (probes.count > 0) sys.setsockopt(fd, SOL.TCP, TCP.KEEPCNT, probes.count);
  if (probes.idle > 0) sys.setsockopt(fd, SOL.TCP, TCP.KEEPIDLE, probes.idle);
  if (probes.interval > 0) sys.setsockopt(fd, SOL.TCP, TCP.KEEPINTVL, probes.interval);
}

/** Bytes of sun_path, with its NUL. */
const PATH_BYTES = 108;
const MAX_INT = 0x7fffffff;
const VMADDR_CID_ANY = 0xffffffff;
const IPPROTO_MPTCP = 262;

/** Listens on `address`. Throws CommandError; nothing is left behind then. */
export async function listenOn(
  context: Context,
  address: StreamAddress,
  backlog: number,
): Promise<Listening> {
  switch (address.type) {
    case "unix":
      return listenUnix(context.sys, address, backlog);
    case "inet":
      return await listenInet(context.sys, address, backlog);
    case "vsock":
      return listenVsock(context.sys, address, backlog);
    case "fd":
      return adoptListening(context.sys, address.str, backlog);
  }
}

function failure(sys: Sys, fd: number, rc: number, what: string): CommandError {
  if (fd >= 0) sys.close(fd);
  return new CommandError(`${what}: ${errnoText(-rc)}`);
}

type Unix = Extract<StreamAddress, { type: "unix" }>;

function listenUnix(sys: Sys, address: Unix, backlog: number): Listening {
  let { path } = address;
  const abstract = address.abstract ?? false;
  if (abstract && address.tight === false) path = path.padEnd(PATH_BYTES - 1, "\0");
  else if (!abstract && path === "") path = `/tmp/qsd-${hex(sys.randomBytes(6))}.sock`;
  const bytes = new TextEncoder().encode(path).length;
  if (bytes > PATH_BYTES - (abstract ? 1 : 0)) {
    throw new CommandError(`UNIX socket path '${path}' is too long`, "GenericError", [
      `Path must be less than ${PATH_BYTES} bytes`,
    ]);
  }
  const fd = sys.socket(AF.UNIX, SOCK.STREAM);
  if (fd < 0) throw failure(sys, -1, fd, "Failed to create Unix socket");
  if (!abstract) removeStale(sys, path);
  const bound = sys.bind(fd, { family: "unix", path: abstract ? `\0${path}` : path });
  if (bound < 0) throw failure(sys, fd, bound, `Failed to bind socket to ${path}`);
  const rc = sys.listen(fd, backlog);
  if (rc < 0) {
    if (!abstract) sys.unlink(path);
    throw failure(sys, fd, rc, "Failed to listen on socket");
  }
  return { fds: [fd], path: abstract ? undefined : fullPath(sys, path), keepAlive: undefined };
}

/** Where the file is to be found after a change of directory (--daemonize). */
function fullPath(sys: Sys, path: string): string {
  const full = sys.realpath(path);
  return typeof full === "string" ? full : path;
}

/**
 * A socket file, or an empty file that keeps a name, is replaced as QEMU does; files with contents are not
 * (QEMU deletes those too): bind then says that the address is in use.
 */
function removeStale(sys: Sys, path: string): void {
  const stat = sys.stat(path);
  if (typeof stat === "number") return;
  if (stat.kind === "socket" || (stat.kind === "file" && stat.size === 0)) sys.unlink(path);
}

function hex(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

type Inet = Extract<StreamAddress, { type: "inet" }>;

async function listenInet(sys: Sys, address: Inet, backlog: number): Promise<Listening> {
  const { host, ipv4, ipv6 } = address;
  if (ipv4 === false && ipv6 === false) {
    throw new CommandError("Cannot disable IPv4 and IPv6 at same time");
  }
  const first = await portOf(sys, address);
  const wanted = (found: SocketAddress) =>
    found.family === "inet"
      ? ipv4 ?? ipv6 !== true
      : found.family === "inet6" && (ipv6 ?? ipv4 !== true);
  let resolved: SocketAddress[];
  try {
    resolved = host === ""
      ? [{ family: "inet", host: "0.0.0.0", port: 0 }, { family: "inet6", host: "::", port: 0 }]
      : await sys.resolve(host, first);
  } catch (error) {
    throw unresolvedInet(address, error);
  }
  const candidates = resolved.filter(wanted);
  if (candidates.length === 0) {
    throw unresolvedInet(address, "Address family for hostname not supported");
  }
  const last = Math.min(address.to ?? first, 65535);
  return {
    fds: listenOnAll(sys, candidates, { first, last, protocol: protocolOf(address) }, backlog),
    path: undefined,
    keepAlive: keepAliveOf(address),
  };
}

/** The error for a host or port that is not known. */
export function unresolvedInet({ host, port }: Inet, error: unknown): CommandError {
  const text = error instanceof Error ? error.message : String(error);
  return new CommandError(`address resolution failed for ${host}:${port}: ${text}`);
}

/**
 * The number of an address's port, which may be a service's name ("nbd"). Throws CommandError, also for numbers
 * above 65535 and for none.
 */
export async function portOf(
  sys: Sys,
  address: Inet,
  socktype: number = SOCK.STREAM,
): Promise<number> {
  const { port } = address;
  if (/^\d+$/.test(port) && Number(port) <= 65535) return Number(port);
  if (!/[a-z]/i.test(port)) throw unresolvedInet(address, "Servname not supported for ai_socktype");
  try {
    return await sys.service(port, socktype);
  } catch (error) {
    throw unresolvedInet(address, error);
  }
}

/** The protocol of an address's sockets: TCP, or TCP over several paths at once. */
export function protocolOf(address: Inet): number {
  return address.mptcp === true ? IPPROTO_MPTCP : 0;
}

/** Listens on every address, at the first port from `first` to `last` that is free on the first of them. */
function listenOnAll(
  sys: Sys,
  candidates: readonly SocketAddress[],
  { first, last, protocol }: { first: number; last: number; protocol: number },
  backlog: number,
): number[] {
  const fds: number[] = [];
  let problem: CommandError | undefined;
  let [from, to] = [first, last];
  for (const candidate of candidates) {
    if (candidate.family !== "inet" && candidate.family !== "inet6") continue;
    for (let port = from; port <= to; port++) {
      const got = listenAt(sys, { ...candidate, port }, protocol, backlog);
      if (typeof got === "number") {
        fds.push(got);
        [from, to] = [port, port]; // the others go to the same port
        break;
      }
      problem = got.error;
      if (!got.busy) break;
    }
  }
  if (fds.length > 0) return fds;
  throw problem ?? new CommandError("Failed to find an available port");
}

function listenAt(
  sys: Sys,
  address: Extract<SocketAddress, { family: "inet" | "inet6" }>,
  protocol: number,
  backlog: number,
): number | { error: CommandError; busy: boolean } {
  const family = address.family === "inet" ? AF.INET : AF.INET6;
  const fd = sys.socket(family, SOCK.STREAM, protocol);
  if (fd < 0) return { error: failure(sys, -1, fd, "Failed to create socket"), busy: false };
  sys.setsockopt(fd, SOL.SOCKET, SO.REUSEADDR, 1);
  if (address.family === "inet6") sys.setsockopt(fd, SOL.IPV6, IPV6.V6ONLY, 1);
  let rc = sys.bind(fd, address);
  const bound = rc >= 0;
  if (bound) rc = sys.listen(fd, backlog);
  if (rc >= 0) return fd;
  const busy = -rc === Errno.EADDRINUSE;
  const what = busy
    ? "Failed to find an available port"
    : bound
    ? "Failed to listen on socket"
    : "Failed to bind socket";
  return { error: failure(sys, fd, rc, what), busy };
}

type Vsock = Extract<StreamAddress, { type: "vsock" }>;

function listenVsock(sys: Sys, address: Vsock, backlog: number): Listening {
  const cid = address.cid === "" ? VMADDR_CID_ANY : uint32(address.cid);
  if (cid === undefined) throw new CommandError(`Failed to parse cid '${address.cid}'`);
  const port = uint32(address.port);
  if (port === undefined) throw new CommandError(`Failed to parse port '${address.port}'`);
  const fd = sys.socket(AF.VSOCK, SOCK.STREAM);
  if (fd < 0) throw failure(sys, -1, fd, "Failed to create socket");
  const rc = sys.bind(fd, { family: "vsock", cid, port });
  if (rc < 0) throw failure(sys, fd, rc, "Failed to bind socket");
  const listening = sys.listen(fd, backlog);
  if (listening < 0) throw failure(sys, fd, listening, "Failed to listen on socket");
  return { fds: [fd], path: undefined, keepAlive: undefined };
}

function uint32(text: string): number | undefined {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  return value <= 0xffffffff ? value : undefined;
}

/** The descriptor that `text` names: a number as strtol reads it, or a name of socket activation. */
function descriptorOf(sys: Sys, text: string): number {
  if (!/^[ \t\n\v\f\r]*[+-]?\d+$/.test(text)) {
    const named = sys.descriptors?.get(text);
    if (named === undefined) throw new CommandError(`Unable to parse FD number ${text}`);
    return named;
  }
  const fd = Number(text);
  if (fd > MAX_INT || fd < -MAX_INT - 1) {
    throw new CommandError(`Unable to parse FD number ${text}: ${errnoText(Errno.ERANGE)}`);
  }
  return fd;
}

/**
 * Makes socket `fd`, which came with the process and was given as `text`, one of ours until it is closed. Throws
 * CommandError where it is none, or somebody has it already: clients would meet the one or the other as it happens.
 */
export function adoptSocket(sys: Sys, fd: number, text: string): void {
  const stat = sys.fstat(fd);
  if (typeof stat === "number" || stat.kind !== "socket") {
    throw new CommandError(`File descriptor '${text}' is not a socket`);
  }
  if (sys.adopted?.has(fd)) {
    throw new CommandError(
      `File descriptor '${text}' is in use by another chardev, export or NBD server`,
    );
  }
  let rc = sys.fcntl(fd, F.GETFL, 0);
  if (rc >= 0) rc = sys.fcntl(fd, F.SETFL, rc | O.NONBLOCK);
  if (rc >= 0) rc = sys.fcntl(fd, F.SETFD, F.FD_CLOEXEC);
  if (rc < 0) throw new CommandError(`Unable to use FD number ${text}: ${errnoText(-rc)}`);
  sys.adopted?.add(fd);
}

/** A socket that came with the process: it is made to listen, and its file is not ours to remove. */
function adoptListening(sys: Sys, text: string, backlog: number): Listening {
  const fd = descriptorOf(sys, text);
  adoptSocket(sys, fd, text);
  const listening = sys.listen(fd, backlog);
  if (listening < 0) {
    sys.adopted?.delete(fd);
    throw new CommandError(`Failed to listen on fd socket: ${errnoText(-listening)}`);
  }
  return { fds: [fd], path: undefined, keepAlive: undefined };
}
