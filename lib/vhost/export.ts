/**
 * The export type vhost-user-blk: listens, and gives one front-end after the other a session. The others wait in
 * the accept queue. A front-end that comes back starts from scratch; what its last session had taken and not
 * answered is in its in-flight log.
 */
import type { BlockBackend } from "../block/mod.ts";
import { addressText, type ExportInstance } from "../export/mod.ts";
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";
import {
  closeListening,
  type Context,
  EPOLL,
  Errno,
  errnoText,
  type Listening,
  listenOn,
  type Timer,
  type Watch,
} from "../sys/mod.ts";
import { BlkDevice, type BlkDeviceOptions } from "./device.ts";
import type { SessionQueue } from "./session_queue.ts";
import { Session } from "./session.ts";

/** What block-export-add says. */
export type VhostOptions = Extract<BlockExportOptionsValue, { type: "vhost-user-blk" }>;

/** Front-ends that wait while one is served. */
export const BACKLOG = 1;
/** The default of logical-block-size, in bytes. */
const MIN_BLOCK = 512;
/** Pause after accept failed (no descriptors left, for example). */
const ACCEPT_RETRY_NS = 100_000_000;
/** Most messages about one export in one second. */
const COMPLAINTS_PER_SECOND = 10;

/** Where queues run that do not run with their session. */
export interface QueuesElsewhere {
  queue(session: Session, index: number): SessionQueue;
  /** The driver changed the device's state: resolves when all queues know. */
  deviceChanged(device: BlkDevice): Promise<void>;
}

/** What the device of an export is like. */
export function deviceOptions(options: VhostOptions): BlkDeviceOptions {
  return {
    writable: options.writable ?? false,
    writethrough: options.writethrough ?? false,
    blockSize: options["logical-block-size"] ?? MIN_BLOCK,
    queues: options["num-queues"] ?? 1,
  };
}

/** An export. */
export class VhostUserBlkExport implements ExportInstance {
  /** Called when it is gone. */
  onGone: () => void = () => {};
  /** Called when a front-end has come, or has gone. */
  onUse: (inUse: boolean) => void = () => {};
  readonly address: string | undefined;
  readonly #context: Context;
  readonly #id: string;
  readonly #device: BlkDevice;
  readonly #listening: Listening;
  readonly #watches: Watch[];
  readonly #elsewhere: QueuesElsewhere | undefined;
  #session: Session | undefined;
  #sessions = 0;
  #retry: Timer | undefined;
  #stopped = false;
  #complaints = 0;
  #second = -1;

  /** Listens. Throws CommandError. */
  static async start(
    context: Context,
    backend: BlockBackend,
    options: VhostOptions,
  ): Promise<VhostUserBlkExport> {
    const listening = await listenOn(context, options.addr, BACKLOG);
    return new VhostUserBlkExport(context, backend, options, listening);
  }

  /** Owns `listening` from now on. */
  constructor(
    context: Context,
    backend: BlockBackend,
    options: VhostOptions,
    listening: Listening,
    elsewhere?: QueuesElsewhere,
  ) {
    this.#context = context;
    this.#elsewhere = elsewhere;
    this.#id = options.id;
    this.#listening = listening;
    this.address = listeningAddress(context, listening);
    this.#device = new BlkDevice(context, backend, deviceOptions(options));
    this.#watches = listening.fds.map((fd) =>
      context.loop.watch(fd, EPOLL.IN, () => this.#accept(fd))
    );
  }

  get inUse(): boolean {
    return this.#session !== undefined;
  }

  statistics(): Record<string, unknown> {
    return {
      ...this.#device.counters,
      inFlight: this.#session?.inFlight ?? 0,
      sessions: this.#sessions,
    };
  }

  /** The node's length changed: the guest is told. */
  resized(): void {
    this.#session?.configChanged();
  }

  async shutdown(): Promise<void> {
    this.#stopped = true;
    this.#retry?.cancel();
    for (const watch of this.#watches) watch.close();
    closeListening(this.#context.sys, this.#listening);
    await this.#session?.shutdown();
    this.#device.close();
    this.onGone();
  }

  /** The thread is in disorder: lets the front-end's connection go, and does nothing else. */
  abandon(): void {
    this.#session?.abandon();
  }

  /** Removes the socket file. */
  unlink(): void {
    const { path } = this.#listening;
    if (path !== undefined) this.#context.sys.unlink(path);
  }

  #accept(fd: number): void {
    if (this.#session !== undefined || this.#stopped) return;
    const client = this.#context.sys.accept(fd);
    if (client === -Errno.EAGAIN || client === -Errno.EINTR) return;
    if (client < 0) {
      this.#complain(`cannot accept a client: ${errnoText(-client)}`);
      this.#listen(false);
      this.#retry = this.#context.loop.timer(ACCEPT_RETRY_NS, () => this.#listen(true));
      return;
    }
    this.#sessions++;
    const elsewhere = this.#elsewhere;
    this.#listen(false);
    this.#session = new Session(this.#context, client, this.#device, {
      complain: (text) => this.#complain(text),
      closed: () => {
        this.#session = undefined;
        this.onUse(false);
        this.#listen(true);
      },
      ...(elsewhere === undefined ? {} : {
        queue: (session, index) => elsewhere.queue(session, index),
        deviceChanged: () => elsewhere.deviceChanged(this.#device),
      }),
    });
    this.onUse(true);
  }

  #listen(on: boolean): void {
    if (this.#stopped) return;
    for (const watch of this.#watches) watch.set(on ? EPOLL.IN : 0);
  }

  #complain(text: string): void {
    const second = Math.floor(this.#context.sys.monotonicNs() / 1e9);
    if (second !== this.#second) {
      this.#second = second;
      this.#complaints = 0;
    }
    if (++this.#complaints > COMPLAINTS_PER_SECOND) return;
    this.#context.log.error(`vhost-user-blk export '${this.#id}': ${text}`);
  }
}

/** Where it listens, in words. */
export function listeningAddress({ sys }: Context, { fds }: Listening): string | undefined {
  const texts = fds.flatMap((fd) => addressText(sys.getsockname(fd)) ?? []);
  return texts.length === 0 ? undefined : texts.join(", ");
}
