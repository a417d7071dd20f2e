/**
 * A vhost-user-blk export whose queues run in several IOThreads, one after the other in turn. The session (messages,
 * guest memory, in-flight log) runs in the main context; so does the export's attachment that holds the permissions.
 * The node lives in one thread, the first if it is free to; from the others requests are forwarded to it.
 */
import type { BlockBackend } from "../block/mod.ts";
import type { ExportInstance, ExportSurroundings } from "../export/mod.ts";
import { closeListening, type Context, type Listening } from "../sys/mod.ts";
import type { IoThread, RemotePart } from "../thread/mod.ts";
import { type VhostOptions, VhostUserBlkExport } from "./export.ts";
import type { QueueBroken, QueuePartOptions } from "./queue_part.ts";
import { type QueueEnd, type QueueStart, type QueueThread, RemoteQueue } from "./remote_queue.ts";
import type { SessionQueue } from "./session_queue.ts";
import type { Session } from "./session.ts";

/** What is made where. */
export interface ThreadsExportParts {
  readonly context: Context;
  readonly backend: BlockBackend;
  readonly around: ExportSurroundings;
  readonly threads: readonly IoThread[];
  readonly options: VhostOptions;
  readonly listening: Listening;
}

/** The queues of the export in one thread. */
class Place implements QueueThread {
  readonly thread: IoThread;
  readonly #queues = new Map<number, RemoteQueue>();
  readonly #failed: () => void;
  #part: RemotePart | undefined;
  #use: { release(): void } | undefined;
  statistics: Record<string, number> = {};

  constructor(thread: IoThread, failed: () => void) {
    this.thread = thread;
    this.#failed = failed;
  }

  async open(around: ExportSurroundings, options: QueuePartOptions): Promise<void> {
    this.#use = await around.use(this.thread);
    this.#part = await this.thread.start("vhost-user-blk", options, {
      told: (_method, told) => {
        const { id, reason } = told as QueueBroken;
        this.#queues.get(id)?.broke(id, reason);
      },
      lost: () => this.#failed(),
    });
  }

  async start(given: QueueStart, queue: RemoteQueue): Promise<string | undefined> {
    this.#queues.set(given.id, queue);
    const refusal = await this.call("start", given) as string | undefined;
    if (refusal !== undefined) this.#queues.delete(given.id); // nobody will stop it
    return refusal;
  }

  async stop(id: number, abandon: boolean): Promise<QueueEnd | undefined> {
    this.#queues.delete(id);
    return await this.call("stop", { id, abandon }) as QueueEnd | undefined;
  }

  call(method: string, args: unknown): Promise<unknown> {
    return this.#part!.call(method, args);
  }

  async close(): Promise<void> {
    await this.#part?.stop();
    this.#use?.release();
  }
}

/** An export with queues in several threads. */
export class ThreadsVhostExport implements ExportInstance {
  /** Called when it is gone. */
  onGone: () => void = () => {};
  readonly #places: readonly Place[];
  readonly #export: VhostUserBlkExport;

  private constructor(parts: ThreadsExportParts, places: readonly Place[]) {
    this.#places = places;
    let lastId = 0;
    const nextId = () => ++lastId;
    this.#export = new VhostUserBlkExport(
      parts.context,
      parts.backend,
      parts.options,
      parts.listening,
      {
        queue: (session: Session, index: number): SessionQueue =>
          new RemoteQueue(session, places[index % places.length]!, index, nextId),
        deviceChanged: async (device) => {
          const { state } = device;
          await Promise.allSettled(places.map((place) => place.call("device", state)));
        },
      },
    );
  }

  /** Starts it. Throws CommandError; `listening` is then closed. */
  static async start(parts: ThreadsExportParts): Promise<ThreadsVhostExport> {
    const { around, options, backend } = parts;
    const places = parts.threads.map((thread) => new Place(thread, () => around.failed()));
    const given: QueuePartOptions = { node: backend.node.name, options, queuesOnly: true };
    try {
      for (const place of places) await place.open(around, given);
    } catch (error) {
      for (const place of places) await place.close();
      closeListening(parts.context.sys, parts.listening);
      throw error;
    }
    return new ThreadsVhostExport(parts, places);
  }

  get inUse(): boolean {
    return this.#export.inUse;
  }

  get address(): string | undefined {
    return this.#export.address;
  }

  statistics(): Record<string, unknown> {
    const total: Record<string, unknown> = { ...this.#export.statistics() };
    for (const { statistics } of this.#places) {
      for (const [name, value] of Object.entries(statistics)) {
        total[name] = (total[name] as number ?? 0) + value;
      }
    }
    return total;
  }

  async refresh(): Promise<void> {
    await Promise.allSettled(this.#places.map(async (place) => {
      place.statistics = await place.call("statistics", undefined) as Record<string, number>;
    }));
  }

  /** The guest is told once all threads know of the new length: they hear of it before they answer. */
  resized(): void {
    const asked = this.#places.map((place) => place.call("statistics", undefined));
    void Promise.allSettled(asked).then(() => this.#export.resized());
  }

  async shutdown(): Promise<void> {
    await this.#export.shutdown();
    for (const place of this.#places) await place.close();
    this.onGone();
  }

  /** Removes the socket file. */
  unlink(): void {
    this.#export.unlink();
  }
}
