/**
 * The NBD server: listening sockets, the exports by name, the connected clients. Beyond `maxConnections`
 * clients wait in the accept queue; one that does not finish its handshake in time is dropped.
 */
import {
  closeListening,
  type Context,
  EPOLL,
  Errno,
  errnoText,
  type Listening,
  listenOn,
  setKeepAlive,
  SO,
  SOL,
  type Sys,
  SysError,
  TCP,
  type Watch,
} from "../sys/mod.ts";
import { addressText } from "../export/mod.ts";
import type { SocketAddressValue } from "../qmp/schema/sockets.ts";
import { Connection, type ConnectionHost, type ConnectionTraces } from "./connection.ts";
import type { Counters, ExportDirectory, NbdExport, Unsent } from "./export.ts";
import type { Negotiated } from "./negotiate.ts";
import type { NbdClient, RemoteClient, RemoteHost } from "./remote.ts";
import { connectionTraces } from "./traces.ts";
import { SocketTransport } from "./transport.ts";

/** Send buffer of a Unix socket in bytes (the kernel takes twice that, for its own part). */
const SEND_BUFFER = 1024 * 1024;

/** As qemu-storage-daemon 7.2.22. */
export const DEFAULT_MAX_CONNECTIONS = 100;
/** Seconds for the handshake, as in QEMU. */
export const DEFAULT_HANDSHAKE_SECONDS = 10;
/** Clients that wait while none is accepted; the kernel's limit may be lower. */
const BACKLOG = 4096;
/** Clients accepted in one turn. */
const ACCEPT_BATCH = 16;
/** Pause after accept failed (no descriptors left, for example). */
const ACCEPT_RETRY_NS = 100_000_000;
/** Most lines about failed handshakes in one second. */
const FAILURES_PER_SECOND = 10;

/** How a server is to be. */
export interface NbdServerConfig {
  readonly address: SocketAddressValue;
  /** 0: no limit. */
  readonly maxConnections: number;
  /** 0: no limit. */
  readonly handshakeSeconds: number;
}

/** A client, for status. */
export interface ClientStatus {
  readonly peer: string;
  /** Name of the export, once chosen. */
  readonly export: string | undefined;
  readonly counters: Readonly<Counters> | undefined;
  readonly unsent: Unsent;
}

/** A running server. */
export class NbdServer implements ConnectionHost, RemoteHost, ExportDirectory {
  readonly traces: ConnectionTraces;
  readonly handshakeNs: number;
  readonly multiConn: boolean;
  readonly #context: Context;
  readonly #config: NbdServerConfig;
  readonly #listening: Listening;
  readonly #watches: Watch[];
  readonly #exports = new Map<string, NbdExport>();
  readonly #connections = new Set<NbdClient>();
  /** Called whenever a client has gone. */
  readonly #waiters = new Set<() => void>();
  #retry: { cancel(): void } | undefined;
  #accepting = true;
  #held = false;
  #stopped = false;
  #clients = 0;
  #failures = 0;
  #failureSecond = -1;

  /** Listens. Throws CommandError with QEMU's wording. */
  static async start(context: Context, config: NbdServerConfig): Promise<NbdServer> {
    return new NbdServer(context, config, await listenOn(context, config.address, BACKLOG));
  }

  private constructor(context: Context, config: NbdServerConfig, listening: Listening) {
    this.#context = context;
    this.#config = config;
    this.#listening = listening;
    this.handshakeNs = config.handshakeSeconds * 1e9;
    this.multiConn = config.maxConnections !== 1;
    this.traces = connectionTraces(context);
    this.#watches = listening.fds.map((fd) =>
      context.loop.watch(fd, EPOLL.IN, () => this.#accept(fd))
    );
  }

  /** The exports. */
  get exports(): ExportDirectory {
    return this;
  }

  /** The socket file or the descriptors' own addresses, for people. */
  get address(): SocketAddressValue {
    return this.#config.address;
  }

  /** Where it listens: the ports in use when port 0 was asked for. */
  localAddresses(): ReturnType<Context["sys"]["getsockname"]>[] {
    return this.#listening.fds.map((fd) => this.#context.sys.getsockname(fd));
  }

  find(name: string): NbdExport | undefined {
    return this.#exports.get(name);
  }

  list(): Iterable<NbdExport> {
    return this.#exports.values();
  }

  /** Clients, for status. */
  clients(): ClientStatus[] {
    return [...this.#connections].map(({ peer, target, counters, unsent }) => ({
      peer,
      export: target?.name,
      counters,
      unsent,
    }));
  }

  /** Offers an export; its name is free. */
  addExport(added: NbdExport): void {
    this.#exports.set(added.name, added);
  }

  /** Lets clients wait until `release`. */
  hold(): void {
    this.#held = true;
    this.#pause();
  }

  /** Accepts those whom `hold` has let wait, and who comes. */
  release(): void {
    this.#held = false;
    this.#resume();
  }

  /** Whether a client uses the export. */
  inUse(target: NbdExport): boolean {
    for (const connection of this.#connections) if (connection.target === target) return true;
    return false;
  }

  /** Withdraws an export: its clients are dropped. Resolves when their requests have finished. */
  async removeExport(target: NbdExport): Promise<void> {
    this.#exports.delete(target.name);
    for (const connection of this.#connections) {
      if (connection.target === target) connection.shutdown();
    }
    await target.remote?.stop();
    await this.#until(() => !this.inUse(target));
  }

  /** Stops listening and drops all clients. The exports were removed before. */
  async stop(): Promise<void> {
    this.stopListening();
    for (const connection of this.#connections) connection.shutdown();
    await this.#until(() => this.#connections.size === 0);
  }

  /** Stops listening, and removes the socket file. Idempotent. */
  stopListening(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#retry?.cancel();
    for (const watch of this.#watches) watch.close();
    closeListening(this.#context.sys, this.#listening);
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      await new Promise<void>((resolve) => this.#waiters.add(resolve));
    }
  }

  #accept(fd: number): void {
    for (let i = 0; i < ACCEPT_BATCH && this.#accepting; i++) {
      const client = this.#context.sys.accept(fd);
      if (client === -Errno.EAGAIN || client === -Errno.EINTR) return;
      if (client < 0) {
        // The client went away in the meantime, or the process ran out of something: try again later.
        this.#context.log.warn(`NBD server: cannot accept a client: ${errnoText(-client)}`);
        this.#pause();
        this.#retry = this.#context.loop.timer(ACCEPT_RETRY_NS, () => {
          this.#retry = undefined;
          this.#resume();
        });
        return;
      }
      this.#welcome(client);
    }
  }

  #welcome(fd: number): void {
    const { sys } = this.#context;
    const tcp = sys.setsockopt(fd, SOL.TCP, TCP.NODELAY, 1) >= 0;
    // The kernel sizes TCP's buffers by itself, those of Unix sockets never: 208 KiB make each large reply wait.
    if (!tcp) sys.setsockopt(fd, SOL.SOCKET, SO.SNDBUF, SEND_BUFFER);
    const { keepAlive } = this.#listening;
    if (keepAlive !== undefined) setKeepAlive(sys, fd, keepAlive);
    const peer = `client ${++this.#clients}${origin(sys, fd)}`;
    const connection = this.#connect(fd, peer);
    if (connection !== undefined) this.#connections.add(connection);
    this.#limit();
  }

  /** Undefined: the machine has no room for the client, which finds its connection closed. */
  #connect(fd: number, peer: string): Connection | undefined {
    const context = this.#context;
    let transport: SocketTransport | undefined;
    try {
      transport = new SocketTransport(context, fd);
      return new Connection(context, transport, this, peer);
    } catch (error) {
      if (transport === undefined) context.sys.close(fd);
      else transport.close();
      if (!(error instanceof SysError)) throw error;
      context.log.warn(`NBD server: cannot serve ${peer}: ${error.message}`);
      return undefined;
    }
  }

  #limit(): void {
    const { maxConnections } = this.#config;
    if (maxConnections > 0 && this.#connections.size >= maxConnections) this.#pause();
    else this.#resume();
  }

  #pause(): void {
    this.#accepting = false;
    for (const watch of this.#watches) watch.set(0);
  }

  #resume(): void {
    if (this.#accepting || this.#held || this.#stopped || this.#retry !== undefined) return;
    const { maxConnections } = this.#config;
    if (maxConnections > 0 && this.#connections.size >= maxConnections) return;
    this.#accepting = true;
    for (const watch of this.#watches) watch.set(EPOLL.IN);
  }

  // --- what connections tell ---

  entered(_connection: Connection, target: NbdExport): boolean {
    return this.#exports.get(target.name) === target;
  }

  leaves({ target }: Negotiated): boolean {
    return target.remote?.thread !== undefined;
  }

  leave(connection: Connection, chosen: Negotiated, fd: number, bytes: Uint8Array): void {
    const { target, framing } = chosen;
    const { peer } = connection;
    this.#connections.delete(connection);
    const contexts = chosen.contexts.map(({ id }) => id);
    const thread = target.remote?.thread;
    if (thread === undefined) {
      // The thread has gone, or the node has come home, in the meantime.
      const transport = new SocketTransport(this.#context, fd);
      const arrival = { chosen, bytes };
      this.#connections.add(new Connection(this.#context, transport, this, peer, arrival));
      return;
    }
    const client = { fd, peer, framing, contexts, bytes };
    this.#connections.add(target.remote!.take(thread, target, this, client));
  }

  failed(connection: Connection, reason: string): void {
    const second = Math.floor(this.#context.sys.monotonicNs() / 1e9);
    if (second !== this.#failureSecond) {
      this.#failureSecond = second;
      this.#failures = 0;
    }
    if (++this.#failures > FAILURES_PER_SECOND) return;
    this.#context.log.error(`option negotiation failed: ${reason} (${connection.peer})`);
  }

  closed(connection: Connection | RemoteClient): void {
    this.#connections.delete(connection);
    const { target, counters } = connection;
    if (target !== undefined && counters !== undefined) target.counters.add(counters);
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const wake of waiters) wake();
    this.#resume();
  }

  /** Asks IOThreads for the counters of the clients that they serve. */
  async refresh(): Promise<void> {
    for (const { remote } of this.#exports.values()) await remote?.refresh();
  }

  /** Counters of an export: of the clients it had and has. */
  counters(target: NbdExport): Counters {
    const sum = target.counters.copy();
    for (const connection of this.#connections) {
      if (connection.target === target && connection.counters !== undefined) {
        sum.add(connection.counters);
      }
    }
    return sum;
  }
}

/** Who a client is, for people: where it calls from, or the process at the other end of a Unix socket. */
function origin(sys: Sys, fd: number): string {
  const address = sys.getpeername(fd);
  if (typeof address === "number") return "";
  if (address.family !== "unix") return ` (${addressText(address)})`;
  // The first member of struct ucred; 0 for a process that this one's namespace does not have.
  const pid = sys.getsockopt(fd, SOL.SOCKET, SO.PEERCRED);
  return pid > 0 ? ` (process ${pid})` : "";
}
