/**
 * An NBD export in an IOThread: clients that have finished their handshake in the main context go on here, each with
 * its descriptor and what it had sent already.
 */
import { Bits, type BitsState } from "../block/bitmaps/mod.ts";
import type { BlockBackend } from "../block/mod.ts";
import { Perm } from "../block/mod.ts";
import type { PartHost, ThreadPart, ThreadPartKind } from "../thread/mod.ts";
import { Connection, type ConnectionHost, type ConnectionTraces } from "./connection.ts";
import {
  type Counters,
  type ExportDirectory,
  type ExportedBitmap,
  NbdExport,
  type NbdExportOptions,
  type Unsent,
} from "./export.ts";
import { connectionTraces } from "./traces.ts";
import { SocketTransport } from "./transport.ts";
import type { Framing } from "./wire.ts";

/** What the part is started with. */
export interface NbdPartOptions {
  readonly node: string;
  readonly export: NbdExportOptions;
  /** Bitmaps that it offers, in their order. */
  readonly bitmaps: readonly { readonly name: string; readonly bits: BitsState }[];
}

/** A client that moves here. */
export interface ClientHandOver {
  /** Its number, for what is said of it later. */
  readonly client: number;
  readonly fd: number;
  readonly peer: string;
  readonly framing: Framing;
  /** Ids of the metadata contexts that it chose. */
  readonly contexts: readonly number[];
  /** What it had sent beyond the handshake. */
  readonly bytes: Uint8Array;
}

/** Counters as they are posted. */
export type PlainCounters = Pick<
  Counters,
  "requests" | "errors" | "bytesRead" | "bytesWritten" | "inFlight"
>;

/** What there is to know of each client, by number. */
export type ClientCounters = readonly (readonly [
  client: number,
  counters: PlainCounters,
  unsent: Unsent,
])[];

/** The counters alone, to be posted. */
function plainCounters(counters: PlainCounters): PlainCounters {
  const { requests, errors, bytesRead, bytesWritten, inFlight } = counters;
  return { requests, errors, bytesRead, bytesWritten, inFlight };
}

/** Starts NBD exports in threads. */
export const nbdPart: ThreadPartKind = {
  kind: "nbd",
  start: (host, options) => new NbdThreadPart(host, options as NbdPartOptions),
};

const NOTHING: ExportDirectory = { find: () => undefined, list: () => [], multiConn: true };

/** A bitmap of a node that may run in another thread. When it is resized there the main context is asked for it. */
class RemoteBitmap implements ExportedBitmap {
  readonly name: string;
  readonly bits: Bits;
  readonly #ask: () => void;
  #waiting: PromiseWithResolvers<void> | undefined;

  constructor({ name, bits }: NbdPartOptions["bitmaps"][number], ask: () => void) {
    this.name = name;
    this.bits = Bits.of(bits);
    this.#ask = ask;
  }

  renew(): Promise<void> {
    if (this.#waiting === undefined) {
      this.#waiting = Promise.withResolvers();
      this.#ask();
    }
    return this.#waiting.promise;
  }

  /** The main context's answer. */
  renewed(state: BitsState): void {
    this.bits.adopt(state);
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }
}

class NbdThreadPart implements ThreadPart, ConnectionHost {
  readonly exports = NOTHING;
  readonly handshakeNs = 0;
  readonly traces: ConnectionTraces;
  readonly #host: PartHost;
  readonly #backend: BlockBackend;
  readonly #target: NbdExport;
  readonly #bitmaps: readonly RemoteBitmap[];
  readonly #clients = new Map<Connection, number>();
  #empty: (() => void) | undefined;

  constructor(host: PartHost, options: NbdPartOptions) {
    this.#host = host;
    this.traces = connectionTraces(host.context);
    this.#backend = host.attach(options.node, {
      describe: "an unnamed block device",
      needed: Perm.consistentRead | (options.export.writable ? Perm.write : 0),
      shared: Perm.all & ~Perm.resize,
    });
    this.#bitmaps = options.bitmaps.map((bitmap, i) =>
      new RemoteBitmap(bitmap, () => host.tell("bits", i))
    );
    this.#target = new NbdExport(this.#backend, options.export, this.#bitmaps);
  }

  call(method: string, args: unknown): unknown {
    switch (method) {
      case "client":
        return this.#welcome(args as ClientHandOver);
      case "shutdown":
        return this.#find(args as number)?.shutdown();
      case "bits": {
        const [index, state] = args as readonly [number, BitsState];
        return this.#bitmaps[index]?.renewed(state);
      }
      default:
        return this.#counters();
    }
  }

  #welcome({ client, fd, peer, framing, contexts, bytes }: ClientHandOver): void {
    const { context } = this.#host;
    const chosen = {
      target: this.#target,
      framing,
      contexts: this.#target.contexts.filter(({ id }) => contexts.includes(id)),
    };
    const transport = new SocketTransport(context, fd);
    const connection = new Connection(context, transport, this, peer, { chosen, bytes });
    this.#clients.set(connection, client);
  }

  #find(client: number): Connection | undefined {
    for (const [connection, number] of this.#clients) if (number === client) return connection;
    return undefined;
  }

  #counters(): ClientCounters {
    return [...this.#clients].flatMap(([{ counters, unsent }, client]) =>
      counters === undefined ? [] : [[client, plainCounters(counters), unsent] as const]
    );
  }

  async stop(): Promise<void> {
    for (const connection of this.#clients.keys()) connection.shutdown();
    if (this.#clients.size > 0) await new Promise<void>((resolve) => this.#empty = resolve);
    await this.#backend.detach();
  }

  abandon(): void {
    for (const connection of this.#clients.keys()) connection.abort();
  }

  // --- what connections tell ---

  entered(): boolean {
    return true;
  }

  failed(): void {}

  closed(connection: Connection): void {
    const client = this.#clients.get(connection);
    this.#clients.delete(connection);
    const { counters } = connection;
    if (client !== undefined && counters !== undefined) {
      this.#host.tell("closed", [client, plainCounters(counters)]);
    }
    if (this.#clients.size === 0) this.#empty?.();
  }
}
