/**
 * A vhost-user-blk export in an IOThread. The main context listens, so that a thread that fails leaves no socket
 * behind; front-ends are accepted and served in the thread.
 */
import { type BlockBackend, Perm } from "../block/mod.ts";
import type { ExportInstance, ExportSurroundings } from "../export/mod.ts";
import { closeListening, type Context, type Listening } from "../sys/mod.ts";
import type { IoThread, PartHost, RemotePart, ThreadPart, ThreadPartKind } from "../thread/mod.ts";
import { QueuePart, type QueuePartOptions } from "./queue_part.ts";
import { listeningAddress, type VhostOptions, VhostUserBlkExport } from "./export.ts";

/** What the part is started with. */
interface VhostPartOptions {
  readonly node: string;
  readonly options: VhostOptions;
  readonly listening: Listening;
}

/** Starts vhost-user-blk exports in threads. */
export const vhostPart: ThreadPartKind = {
  kind: "vhost-user-blk",
  start(host, options) {
    const given = options as VhostPartOptions | QueuePartOptions;
    return "queuesOnly" in given ? new QueuePart(host, given) : new VhostThreadPart(host, given);
  },
};

class VhostThreadPart implements ThreadPart {
  readonly #export: VhostUserBlkExport;
  readonly #backend: BlockBackend;

  constructor({ context, attach, tell }: PartHost, given: VhostPartOptions) {
    const { node, options, listening } = given;
    this.#backend = attach(node, {
      describe: "an unnamed block device",
      needed: Perm.consistentRead | (options.writable === true ? Perm.write : 0),
      shared: Perm.all,
      onResize: () => this.#export.resized(),
    });
    this.#export = new VhostUserBlkExport(context, this.#backend, options, listening);
    this.#export.onUse = (inUse) => tell("inUse", inUse);
  }

  call(): unknown {
    return this.#export.statistics();
  }

  async stop(): Promise<void> {
    await this.#export.shutdown();
    await this.#backend.detach();
  }

  abandon(): void {
    this.#export.abandon();
  }
}

/** A vhost-user-blk export in a thread, as the main context sees it. */
export class RemoteVhostExport implements ExportInstance {
  inUse = false;
  readonly address: string | undefined;
  /** Called when it is gone. */
  onGone: () => void = () => {};
  readonly #context: Context;
  readonly #listening: Listening;
  #part: RemotePart | undefined;
  #use: { release(): void } | undefined;
  #statistics: Record<string, unknown> = {};

  private constructor(context: Context, listening: Listening) {
    this.#context = context;
    this.#listening = listening;
    this.address = listeningAddress(context, listening);
  }

  /** Starts it. Throws CommandError; `listening` is then closed. */
  static async start(
    context: Context,
    around: ExportSurroundings,
    thread: IoThread,
    part: VhostPartOptions,
  ): Promise<RemoteVhostExport> {
    const made = new RemoteVhostExport(context, part.listening);
    try {
      made.#use = await around.use(thread);
      made.#part = await thread.start(vhostPart.kind, part, {
        told: (_method, inUse) => made.inUse = inUse as boolean,
        lost: () => {
          made.inUse = false;
          closeListening(made.#context.sys, made.#listening);
          around.failed();
        },
      });
    } catch (error) {
      made.#use?.release();
      closeListening(made.#context.sys, made.#listening);
      throw error;
    }
    return made;
  }

  statistics(): Record<string, unknown> {
    return this.#statistics;
  }

  async refresh(): Promise<void> {
    try {
      const statistics = await this.#part?.call("statistics", undefined);
      this.#statistics = statistics as Record<string, unknown>;
    } catch {
      // It is about to go.
    }
  }

  async shutdown(): Promise<void> {
    await this.#part?.stop();
    this.#use?.release();
    this.onGone();
  }

  /** Removes the socket file. */
  unlink(): void {
    const { path } = this.#listening;
    if (path !== undefined) this.#context.sys.unlink(path);
  }
}
