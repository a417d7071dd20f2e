/**
 * Block exports of all types: their common life cycle. A type brings a definition; the registry checks ids,
 * attaches to the node, and says when an export is gone.
 */
import { CommandError, isIdentifier, type MaybePromise } from "../base/mod.ts";
import type { BlockBackend, BlockGraph, NodeView } from "../block/mod.ts";
import { Perm } from "../block/mod.ts";
import type { EventSink } from "../qmp/schema/core.ts";
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";
import type { IoThread } from "../thread/mod.ts";

/** A running export, as its type made it. */
export interface ExportInstance {
  /** Whether a client uses it: then it is not removed in mode "safe". */
  readonly inUse: boolean;
  /** Where it listens, as "unix:PATH", if it has an address of its own. */
  readonly address?: string | undefined;
  /** No new clients, and those there are hang up. Resolves when the last one is gone. */
  shutdown(): Promise<void>;
  /** Counters for status and metrics; of what runs in IOThreads, as of the last `refresh`. */
  statistics?(): Record<string, unknown>;
  /** Asks IOThreads for what they have counted. */
  refresh?(): Promise<void>;
  /** The node's length changed. */
  resized?(size: number): void;
}

/** Where and for how long an export is to run. */
export interface ExportSurroundings {
  /**
   * The IOThread that the export was asked to run in, where its node is not (another export keeps it where it is).
   * Undefined: it runs where its node runs (`placeOf`), which may change.
   */
  readonly thread: IoThread | undefined;
  /** More than one: the IOThreads between which the export is to divide its work (`divides`). */
  readonly threads: readonly IoThread[];
  /** The IOThread that the node runs in now; undefined: the main context. */
  placeOf(): IoThread | undefined;
  /** A user of the node in `thread`, until `release`: a part of the export can attach there then. */
  use(thread: IoThread): Promise<{ release(): void }>;
  /** The export cannot go on: it is removed. Why is in the log. */
  failed(): void;
}

/** An export type: NBD, vhost-user-blk, FUSE... */
export interface ExportType {
  readonly type: BlockExportOptionsValue["type"];
  /** What can be told to be wrong before the node is touched; throws CommandError. */
  precheck(options: BlockExportOptionsValue): void;
  /** Permissions beyond reading and (when writable) writing, and those that are not shared. */
  readonly needs: number;
  readonly unshared: number;
  /** Does nothing but read while the node is inactive. */
  readonly allowsInactive?: boolean;
  /** Can divide its work between several IOThreads. */
  readonly divides?: boolean;
  /** Begins to serve. Throws CommandError; the registry then lets go of `backend`. */
  create(
    backend: BlockBackend,
    options: BlockExportOptionsValue,
    around: ExportSurroundings,
  ): MaybePromise<ExportInstance>;
}

/** An export in the registry. */
export class BlockExport {
  shuttingDown = false;
  /** Settled when it is gone. */
  gone: Promise<void> | undefined;
  constructor(
    readonly id: string,
    readonly type: ExportType["type"],
    readonly backend: BlockBackend,
    readonly instance: ExportInstance,
    /** Where it runs, if not where its node does. */
    readonly thread: IoThread | undefined,
    private readonly placeOf: () => IoThread | undefined,
  ) {}

  /** The IOThread that it runs in now; undefined: the main context. */
  get iothread(): IoThread | undefined {
    return this.thread ?? this.placeOf();
  }
}

/** The IOThreads of the daemon. */
export interface ThreadDirectory {
  find(name: string): IoThread | undefined;
}

/** All exports of a daemon. */
export class ExportRegistry {
  readonly #graph: BlockGraph;
  readonly #events: EventSink;
  readonly #threads: ThreadDirectory | undefined;
  readonly #types = new Map<string, ExportType>();
  /** In order of creation. */
  readonly #exports = new Map<string, BlockExport>();
  /** Exports that are being made, by id. */
  readonly #making = new Map<string, Promise<BlockExport>>();

  constructor(parts: { graph: BlockGraph; events: EventSink; threads?: ThreadDirectory }) {
    this.#graph = parts.graph;
    this.#events = parts.events;
    this.#threads = parts.threads;
  }

  /** Makes a type known. */
  register(type: ExportType): void {
    this.#types.set(type.type, type);
  }

  /** All exports, oldest first. */
  list(): readonly BlockExport[] {
    return [...this.#exports.values()];
  }

  /** By id. */
  find(id: string): BlockExport | undefined {
    return this.#exports.get(id);
  }

  /** block-export-add. Throws CommandError with QEMU's wording. */
  async add(options: BlockExportOptionsValue): Promise<BlockExport> {
    const { id } = options;
    if (!isIdentifier(id)) throw new CommandError("Invalid block export id");
    if (this.#exports.has(id) || this.#making.has(id)) {
      throw new CommandError(`Block export id '${id}' is already in use`);
    }
    const type = this.#types.get(options.type);
    if (type === undefined) {
      throw new CommandError("No driver found for the requested export type");
    }
    const node = this.#graph.lookup(undefined, options["node-name"]);
    this.#threadsFor(options, type);
    if (node.readOnly && options.writable) {
      throw new CommandError("Cannot export read-only node as writable");
    }
    try {
      const making = this.#make(type, node, options);
      this.#making.set(id, making);
      return await making;
    } finally {
      this.#making.delete(id);
    }
  }

  async #make(
    type: ExportType,
    node: NodeView,
    options: BlockExportOptionsValue,
  ): Promise<BlockExport> {
    type.precheck(options);
    const allowInactive = options["allow-inactive"] ?? false;
    if (allowInactive && type.allowsInactive !== true) {
      throw new CommandError("Export type does not support inactive exports");
    }
    if (!allowInactive && !node.active) await this.#graph.setActive(node, true);
    const threads = this.#threadsFor(options, type);
    if (threads.length > 1) await Promise.all(threads.map((one) => one.ready));
    const [asked] = threads;
    const before = this.#placeOf(node);
    const thread = asked === undefined ? undefined : await this.#moveTo(node, asked, options);
    const writable = options.writable ?? false;
    let instance: ExportInstance | undefined;
    let backend: BlockBackend | undefined;
    try {
      backend = await this.#graph.backend(node, {
        describe: "an unnamed block device",
        needed: Perm.consistentRead | (writable ? Perm.write : 0) | type.needs,
        shared: Perm.all & ~type.unshared,
        allowInactive,
        fixedPlace: options["fixed-iothread"] ?? false,
        onResize: (size) => instance?.resized?.(size),
      });
      instance = await type.create(backend, options, {
        thread,
        threads,
        placeOf: () => this.#placeOf(node),
        use: (where) => this.#graph.use(node, where),
        failed: () => {
          const failed = this.#exports.get(options.id);
          if (failed !== undefined) this.#remove(failed);
        },
      });
    } catch (error) {
      await backend?.detach();
      if (asked !== undefined) await this.#moveBack(node, before);
      throw error;
    }
    const made = new BlockExport(
      options.id,
      type.type,
      backend,
      instance,
      thread,
      () => this.#placeOf(node),
    );
    this.#exports.set(made.id, made);
    return made;
  }

  /** The IOThreads that are asked for; the node is to run in the first. */
  #threadsFor(options: BlockExportOptionsValue, { type, divides }: ExportType): IoThread[] {
    const { iothread } = options;
    if (iothread === undefined) return [];
    const names = typeof iothread === "string" ? [iothread] : [...new Set(iothread)];
    const threads = names.map((name) => {
      const found = this.#threads?.find(name);
      if (found === undefined) throw new CommandError(`iothread "${name}" not found`);
      return found;
    });
    if (threads.length === 0) throw new CommandError("The list of iothreads must not be empty");
    if (typeof iothread !== "string" && options["fixed-iothread"] === true) {
      throw new CommandError("fixed-iothread cannot be used with a list of iothreads");
    }
    if (threads.length > 1 && divides !== true) {
      throw new CommandError(`Export type '${type}' does not support several iothreads`);
    }
    return threads;
  }

  #placeOf(node: NodeView): IoThread | undefined {
    return this.#graph.find(node.name)?.place as IoThread | undefined;
  }

  /** Moves `node` to `thread`. Where it may not go, and need not: the thread that the export runs in without it. */
  async #moveTo(
    node: NodeView,
    thread: IoThread,
    options: BlockExportOptionsValue,
  ): Promise<IoThread | undefined> {
    await thread.ready;
    try {
      await this.#graph.move(node, thread);
      return undefined;
    } catch (error) {
      if (options["fixed-iothread"] === true || thread.failed) throw error;
      return thread;
    }
  }

  /** After an export: `node` goes back to `before`, unless another user keeps it. */
  async #moveBack(node: NodeView, before: IoThread | undefined): Promise<void> {
    if (before?.failed === true) return;
    try {
      await this.#graph.moveUnused(node, before);
    } catch (error) {
      this.#graph.context.log.warn(`node '${node.name}' stays in its IOThread: ${String(error)}`);
    }
  }

  /** A thread has failed: the exports that ran in it, or whose nodes did, end. Before its nodes are lost. */
  threadFailed(thread: IoThread): void {
    for (const found of this.list()) {
      if (found.thread === thread || this.#placeOf(found.backend.node as NodeView) === thread) {
        this.#remove(found);
      }
    }
  }

  /** block-export-del: begins the removal; `BLOCK_EXPORT_DELETED` follows when clients are gone. */
  del(id: string, mode: "safe" | "hard" = "safe"): void {
    const found = this.#exports.get(id);
    if (found === undefined) throw new CommandError(`Export '${id}' is not found`);
    if (found.shuttingDown) throw new CommandError(`Export '${id}' is already shutting down`);
    if (mode === "safe" && found.instance.inUse) {
      throw new CommandError(`export '${id}' still in use`, "GenericError", [
        "Use mode='hard' to force client disconnect",
      ]);
    }
    this.#remove(found);
  }

  #remove(found: BlockExport): Promise<void> {
    found.shuttingDown = true;
    return found.gone ??= this.#removal(found);
  }

  async #removal(found: BlockExport): Promise<void> {
    await found.instance.shutdown();
    const node = found.backend.node as NodeView;
    await found.backend.detach();
    if (this.#graph.find(node.name)?.place !== undefined) await this.#moveBack(node, undefined);
    this.#exports.delete(found.id);
    this.#events.emit("BLOCK_EXPORT_DELETED", { id: found.id });
  }

  /** query-block-exports: newest first. */
  query(): {
    id: string;
    type: ExportType["type"];
    "node-name": string;
    "shutting-down": boolean;
  }[] {
    return this.list().toReversed().map(({ id, type, backend, shuttingDown }) => ({
      id,
      type,
      "node-name": backend.node.name,
      "shutting-down": shuttingDown,
    }));
  }

  /**
   * Removes all exports (of one type), those being made included: clients are dropped, requests finish. All at once,
   * so that clients of one get no more done while those of another finish; the oldest goes first where none waits.
   */
  async closeAll(type?: ExportType["type"]): Promise<void> {
    await Promise.allSettled(this.#making.values());
    const leaving = this.list().filter((found) => type === undefined || found.type === type);
    await Promise.all(leaving.map((found) => this.#remove(found)));
  }
}
