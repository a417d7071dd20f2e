/** NBD clients that are served in an IOThread, as the server in the main context sees them. */
import type { ExportSurroundings } from "../export/mod.ts";
import type { IoThread, RemotePart } from "../thread/mod.ts";
import {
  Counters,
  type ExportedBitmap,
  type NbdExport,
  type NbdExportOptions,
  NOTHING_UNSENT,
  type Unsent,
} from "./export.ts";
import type {
  ClientCounters,
  ClientHandOver,
  NbdPartOptions,
  PlainCounters,
} from "./thread_part.ts";

/** A client of the server, wherever it is served. */
export interface NbdClient {
  readonly peer: string;
  /** The export in use, once transmission has begun. */
  readonly target: NbdExport | undefined;
  readonly counters: Counters | undefined;
  readonly unsent: Unsent;
  /** Hangs up. */
  shutdown(): void;
}

/** A client that has moved to a thread. */
export class RemoteClient implements NbdClient {
  readonly counters: Counters = new Counters();
  /** As of the last `refresh`. */
  unsent: Unsent = NOTHING_UNSENT;
  part: RemotePart | undefined;
  #hangUp = false;

  constructor(readonly peer: string, readonly target: NbdExport, readonly number: number) {}

  shutdown(): void {
    this.#hangUp = true;
    this.part?.post("shutdown", this.number);
  }

  /** It is on its way to `part`. */
  arrive(part: RemotePart): void {
    this.part = part;
    if (this.#hangUp) this.shutdown();
  }

  update(counters: PlainCounters): void {
    Object.assign(this.counters, counters);
  }
}

/** One export's part in one thread. */
interface Place {
  readonly part: Promise<RemotePart>;
  readonly clients: Map<number, RemoteClient>;
}

/** What an export is made of in a thread. */
export interface RemoteOptions {
  readonly node: string;
  readonly export: NbdExportOptions;
  readonly bitmaps: readonly ExportedBitmap[];
}

/** What tells of clients that are gone. */
export interface RemoteHost {
  closed(client: RemoteClient): void;
}

/** The parts of one export in threads. */
export class RemoteExport {
  readonly #around: ExportSurroundings;
  readonly #options: RemoteOptions;
  readonly #close: (fd: number) => void;
  readonly #places = new Map<IoThread, Place>();
  #clients = 0;

  /** `close`: of a client that cannot be served any more. */
  constructor(
    around: ExportSurroundings,
    options: RemoteOptions,
    close: (fd: number) => void,
  ) {
    this.#around = around;
    this.#options = options;
    this.#close = close;
  }

  /** Where new clients are served: an IOThread, or (undefined) the main context. */
  get thread(): IoThread | undefined {
    const thread = this.#around.thread ?? this.#around.placeOf();
    return thread?.failed === true ? undefined : thread;
  }

  /** Moves a client to `thread`; it is the server's client until `host.closed`. */
  take(
    thread: IoThread,
    target: NbdExport,
    host: RemoteHost,
    client: Omit<ClientHandOver, "client">,
  ): RemoteClient {
    const number = ++this.#clients;
    const remote = new RemoteClient(client.peer, target, number);
    const place = this.#place(thread, host);
    place.clients.set(number, remote);
    place.part.then(async (part) => {
      await part.call("client", { ...client, client: number });
      remote.arrive(part);
    }).catch(() => {
      // It has not arrived, so nobody there closes it. A thread that was lost meanwhile has been told of already.
      this.#close(client.fd);
      if (place.clients.delete(number)) host.closed(remote);
    });
    return remote;
  }

  #place(thread: IoThread, host: RemoteHost): Place {
    const known = this.#places.get(thread);
    if (known !== undefined) return known;
    const clients = new Map<number, RemoteClient>();
    const closed = (number: number, counters: PlainCounters) => {
      const client = clients.get(number);
      if (client === undefined) return;
      clients.delete(number);
      client.update(counters);
      host.closed(client);
    };
    const options: NbdPartOptions = {
      ...this.#options,
      bitmaps: this.#options.bitmaps.map(({ name, bits }) => ({ name, bits: bits.state })),
    };
    const start = async () => {
      const use = await this.#around.use(thread);
      let part: RemotePart;
      try {
        part = await thread.start("nbd", options, {
          told: (method, args) => {
            if (method === "closed") return closed(...args as [number, PlainCounters]);
            // A bitmap was resized. If it is not known here yet the part finds so, and asks again.
            const index = args as number;
            part.post("bits", [index, this.#options.bitmaps[index]!.bits.state]);
          },
          lost: () => {
            this.#places.delete(thread);
            for (const client of [...clients.values()]) closed(client.number, client.counters);
            this.#around.failed();
          },
        });
      } catch (error) {
        use.release();
        this.#places.delete(thread);
        throw error;
      }
      return {
        ...part,
        stop: async () => {
          await part.stop();
          use.release();
        },
      };
    };
    const place: Place = { part: start(), clients };
    this.#places.set(thread, place);
    return place;
  }

  /** Asks the threads for what their clients did. */
  async refresh(): Promise<void> {
    for (const { part, clients } of this.#places.values()) {
      try {
        const counters = await (await part).call("counters", undefined) as ClientCounters;
        for (const [number, one, unsent] of counters) {
          const client = clients.get(number);
          if (client === undefined) continue;
          client.update(one);
          client.unsent = unsent;
        }
      } catch {
        // It is about to go.
      }
    }
  }

  /** Ends all parts: their clients hang up. */
  async stop(): Promise<void> {
    for (const { part } of [...this.#places.values()]) {
      const started = await part.catch(() => undefined);
      await started?.stop();
    }
    this.#places.clear();
  }
}
