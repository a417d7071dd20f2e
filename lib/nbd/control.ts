/** The daemon's one NBD server and its exports: what `--nbd-server`, `--export nbd` and QMP's commands do. */
import { CommandError } from "../base/mod.ts";
import type { DirtyBitmap } from "../block/bitmaps/mod.ts";
import { type BlockBackend, type BlockGraph, Perm } from "../block/mod.ts";
import type {
  ExportInstance,
  ExportRegistry,
  ExportSurroundings,
  ExportType,
} from "../export/mod.ts";
import type { BlockExportOptionsValue, NbdServerOptionsValue } from "../qmp/schema/export.ts";
import type { Context } from "../sys/mod.ts";
import type { ExportedBitmap, NbdExportOptions } from "./export.ts";
import type { NbdServer } from "./server.ts";
import { MAX_STRING } from "./wire.ts";

type BlockNode = NonNullable<ReturnType<BlockGraph["find"]>>;
type Edge = BlockNode["children"][number];
type BitmapReference = NonNullable<NbdOptions["bitmaps"]>[number];
type NbdOptions = Extract<BlockExportOptionsValue, { type: "nbd" }>;

/** Between two looks whether a thread's news has come. */
const NEWS_NS = 100_000;

/** Holds the server. Register it as an export type. */
export class NbdControl implements ExportType {
  readonly type = "nbd";
  readonly needs = Perm.none;
  readonly unshared = Perm.resize;
  readonly allowsInactive = true;
  readonly #context: Context;
  readonly #graph: BlockGraph;
  readonly #registry: ExportRegistry;
  #server: NbdServer | undefined;
  /** Whether clients of a server wait until `release`. */
  #held = false;
  /** A start or stop under way; never rejects. */
  #busy: Promise<unknown> | undefined;

  constructor(parts: { context: Context; graph: BlockGraph; exports: ExportRegistry }) {
    this.#context = parts.context;
    this.#graph = parts.graph;
    this.#registry = parts.exports;
    parts.exports.register(this);
  }

  /** The running server. */
  get server(): NbdServer | undefined {
    return this.#server;
  }

  /** A server that is started lets its clients wait until `release`. */
  hold(): void {
    this.#held = true;
  }

  /** From now on clients are served. */
  release(): void {
    this.#held = false;
    this.#server?.release();
  }

  /** nbd-server-start and `--nbd-server`. */
  async start(options: NbdServerOptionsValue): Promise<void> {
    if (this.#server !== undefined || this.#busy !== undefined) {
      throw new CommandError("NBD server already running");
    }
    const credentials = options["tls-creds"];
    if (credentials !== undefined) {
      throw new CommandError(`No TLS credentials with id '${credentials}'`);
    }
    if (options["tls-authz"] !== undefined) {
      this.#context.log.warn("nbd-server: tls-authz has no effect without tls-creds");
    }
    await this.#alone(async () => {
      const code = await import("./server.ts");
      const { DEFAULT_HANDSHAKE_SECONDS, DEFAULT_MAX_CONNECTIONS, NbdServer } = code;
      this.#server = await NbdServer.start(this.#context, {
        address: options.addr,
        maxConnections: options["max-connections"] ?? DEFAULT_MAX_CONNECTIONS,
        handshakeSeconds: options["handshake-max-seconds"] ?? DEFAULT_HANDSHAKE_SECONDS,
      });
      if (this.#held) this.#server.hold();
    });
  }

  /** Runs a start or stop; others are refused meanwhile. */
  async #alone(act: () => Promise<void>): Promise<void> {
    const done = act();
    this.#busy = done.catch(() => undefined);
    try {
      await done;
    } finally {
      this.#busy = undefined;
    }
  }

  /** nbd-server-stop: removes all NBD exports, then stops. */
  async stop(): Promise<void> {
    const server = this.#running();
    if (this.#busy !== undefined) throw new CommandError("NBD server not running");
    await this.#alone(async () => {
      await this.#registry.closeAll("nbd");
      await server.stop();
      this.#server = undefined;
    });
  }

  /** At the end of the daemon: as `stop`, and fine when there is no server. */
  async close(): Promise<void> {
    while (this.#busy !== undefined) await this.#busy;
    if (this.#server !== undefined) await this.stop();
  }

  #running(): NbdServer {
    if (this.#server === undefined) throw new CommandError("NBD server not running");
    return this.#server;
  }

  precheck(options: BlockExportOptionsValue): void {
    if (options.type === this.type) this.#check(options);
  }

  #check(options: NbdOptions): { server: NbdServer; name: string; bitmaps: DirtyBitmap[] } {
    const server = this.#running();
    if (this.#busy !== undefined) throw new CommandError("NBD server not running");
    const name = options.name ?? options["node-name"];
    const { description } = options;
    if (byteLength(name) > MAX_STRING) throw new CommandError(`export name '${name}' too long`);
    if (description !== undefined && byteLength(description) > MAX_STRING) {
      throw new CommandError(`description '${description}' too long`);
    }
    if (server.find(name) !== undefined) {
      throw new CommandError(`NBD server already has export named '${name}'`);
    }
    const bitmaps = (options.bitmaps ?? []).map((bitmap) => this.#bitmap(options, bitmap));
    return { server, name, bitmaps };
  }

  /** A bitmap to be exported: of a certain node, or the first of that name from the exported node on down. */
  #bitmap(options: NbdOptions, wanted: BitmapReference): DirtyBitmap {
    const exported = this.#graph.find(options["node-name"]);
    let bitmap: DirtyBitmap | undefined;
    if (typeof wanted === "string") {
      for (const node of chainOf(exported)) if ((bitmap = node.bitmaps?.find(wanted))) break;
      if (bitmap === undefined) throw new CommandError(`Bitmap '${wanted}' is not found`);
    } else {
      const node = this.#graph.find(wanted.node);
      if (node === undefined) throw new CommandError(`Node '${wanted.node}' not found`);
      bitmap = node.bitmaps?.find(wanted.name);
      if (bitmap === undefined) throw new CommandError(`Dirty bitmap '${wanted.name}' not found`);
    }
    bitmap.check({ readOnly: true });
    const unchanging = options.writable !== true && typeof wanted === "string";
    if (unchanging && exported?.readOnly === false && bitmap.recording) {
      throw new CommandError(`Enabled bitmap '${bitmap.name}' incompatible with readonly export`);
    }
    return bitmap;
  }

  async create(
    backend: BlockBackend,
    given: BlockExportOptionsValue,
    around: ExportSurroundings,
  ): Promise<ExportInstance> {
    const { NbdExport } = await import("./export.ts");
    const { RemoteExport } = await import("./remote.ts");
    // From here on nothing else runs: what is checked holds.
    const options = given as NbdOptions; // the registry chose us by its type
    const { server, name, bitmaps } = this.#check(options);
    if (!backend.inserted) {
      throw new CommandError("Failed to determine the NBD export's length: No medium found");
    }
    const { description } = options;
    const described: NbdExportOptions = {
      name,
      ...(description === undefined ? {} : { description }),
      writable: options.writable ?? false,
      writethrough: options.writethrough ?? false,
      allocationDepth: options["allocation-depth"] ?? false,
    };
    const { sys, loop } = this.#context;
    const exported: ExportedBitmap[] = bitmaps.map(({ name, bits }) => ({
      name,
      bits,
      // The thread that resized them has said so already.
      renew: () => loop.sleep(NEWS_NS),
    }));
    const target = new NbdExport(backend, described, exported);
    const parts = { node: backend.node.name, export: described, bitmaps: exported };
    target.remote = new RemoteExport(around, parts, (fd) => sys.close(fd));
    for (const bitmap of bitmaps) bitmap.users++;
    server.addExport(target);
    return {
      get inUse() {
        return server.inUse(target);
      },
      shutdown: async () => {
        await server.removeExport(target);
        for (const bitmap of bitmaps) bitmap.users--;
      },
      statistics: () => ({ ...server.counters(target) }),
    };
  }
}

/** A node, and below it what its contents come from where it has none of its own. */
function* chainOf(node: BlockNode | undefined): Iterable<BlockNode> {
  while (node !== undefined) {
    yield node;
    // raw passes through, but is a format.
    const role = node.definition.kind === "filter" ? "filtered" : "cow";
    const below: Edge | undefined = node.children.find((edge) => edge.role.includes(role));
    node = below?.node;
  }
}

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}
