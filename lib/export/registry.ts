/**
 * Block exports of all types: their common life cycle. A type brings a definition; the registry checks ids,
 * attaches to the node, and says when an export is gone.
 */
import { CommandError, isIdentifier, type MaybePromise } from "../base/mod.ts";
import type { BlockBackend, BlockGraph, NodeView } from "../block/mod.ts";
import { Perm } from "../block/mod.ts";
import type { EventSink } from "../qmp/schema/core.ts";
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";

/** A running export, as its type made it. */
export interface ExportInstance {
  /** Whether a client uses it: then it is not removed in mode "safe". */
  readonly inUse: boolean;
  /** No new clients, and those there are hang up. Resolves when the last one is gone. */
  shutdown(): Promise<void>;
  /** Counters for status and metrics. */
  statistics?(): Record<string, unknown>;
  /** The node's length changed. */
  resized?(size: number): void;
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
  /** Begins to serve. Throws CommandError; the registry then lets go of `backend`. */
  create(
    backend: BlockBackend,
    options: BlockExportOptionsValue,
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
  ) {}
}

/** All exports of a daemon. */
export class ExportRegistry {
  readonly #graph: BlockGraph;
  readonly #events: EventSink;
  readonly #types = new Map<string, ExportType>();
  /** In order of creation. */
  readonly #exports = new Map<string, BlockExport>();
  /** Exports that are being made, by id. */
  readonly #making = new Map<string, Promise<BlockExport>>();

  constructor(parts: { graph: BlockGraph; events: EventSink }) {
    this.#graph = parts.graph;
    this.#events = parts.events;
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
    if (options.iothread !== undefined) {
      throw new CommandError(`iothread "${options.iothread}" not found`);
    }
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
    const writable = options.writable ?? false;
    let instance: ExportInstance | undefined;
    const backend = await this.#graph.backend(node, {
      describe: "an unnamed block device",
      needed: Perm.consistentRead | (writable ? Perm.write : 0) | type.needs,
      shared: Perm.all & ~type.unshared,
      allowInactive,
      onResize: (size) => instance?.resized?.(size),
    });
    try {
      instance = await type.create(backend, options);
    } catch (error) {
      await backend.detach();
      throw error;
    }
    const made = new BlockExport(options.id, type.type, backend, instance);
    this.#exports.set(made.id, made);
    return made;
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
    await found.backend.detach();
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
   * Removes all exports (of one type), those being made included: clients are dropped, requests finish.
   * Oldest first.
   */
  async closeAll(type?: ExportType["type"]): Promise<void> {
    await Promise.allSettled(this.#making.values());
    for (const found of this.list()) {
      if (type === undefined || found.type === type) await this.#remove(found);
    }
  }
}
