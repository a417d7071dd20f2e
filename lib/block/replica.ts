/**
 * The part of the graph that lives in one IOThread: nodes with their drivers, and stand-ins for nodes that live
 * elsewhere and are used here. Names, permissions and every change of structure are decided by the graph in the main
 * context, whose calls arrive one after the other; this follows. Users here (exports) attach to nodes as they do in
 * the main context, and requests of other contexts arrive through `served`.
 */
import { assert, CommandError, type MaybePromise } from "../base/mod.ts";
import type { Context } from "../sys/mod.ts";
import { closeForNow, openAgain } from "./again.ts";
import { Attachments } from "./attachments.ts";
import { Backend } from "./backend.ts";
import type { BackendOptions, BlockBackend } from "./backend_types.ts";
import {
  type BitmapChange,
  bitmapsOf,
  bitmapStates,
  changeBitmap,
  storeBitmaps,
} from "./bitmaps/mod.ts";
import type { Section } from "./drain.ts";
import { FactsRound } from "./facts.ts";
import { ForwardInstance, type NodeChannel, type NodeFacts } from "./forward.ts";
import type { DriverRegistry } from "./graph_types.ts";
import { NameGenerator } from "./names.ts";
import { BlockNode, Edge } from "./node.ts";
import { link, unlink } from "./open.ts";
import { driverOptions } from "./options.ts";
import { type InternalSnapshot, serveSnapshots, type SnapshotRequest } from "./snapshots.ts";
import { Seam } from "./seam.ts";
import { ServedNodes } from "./serve_node.ts";
import { resetStatistics, usersStatistics } from "./statistics.ts";
import type {
  ForwardSpec,
  NodeRecord,
  NodeSpec,
  PermissionNews,
  ReplicaCalls,
  ReplicaNews,
  ThreadReport,
} from "./thread_types.ts";
import type { ImageFacts, PermissionChange, TruncateOptions } from "./types.ts";

/** What a replica is made of. */
export interface ReplicaParts {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly news: ReplicaNews;
  /** The way to the nodes of the context of that name. */
  channel(place: string): NodeChannel;
}

/** The nodes of one IOThread. */
export class ReplicaGraph implements ReplicaCalls {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly seam: Seam;
  readonly names: NameGenerator;
  readonly all: Set<BlockNode> = new Set();
  readonly served: ServedNodes;
  readonly #parts: ReplicaParts;
  readonly #nodes = new Map<string, BlockNode>();
  readonly #users = new Attachments();
  readonly #holds = new Map<number, Section>();
  readonly #pending = new Map<string, PermissionChange>();

  constructor(parts: ReplicaParts) {
    this.#parts = parts;
    this.context = parts.context;
    this.drivers = parts.drivers;
    this.names = new NameGenerator(parts.context.sys);
    this.seam = new Seam(parts.context, {
      thresholdExceeded: (node, exceeded) => {
        const threshold = node.writeThreshold;
        node.writeThreshold = 0;
        parts.news.thresholdExceeded(node.name, exceeded, threshold);
      },
      resized: (node) => this.changed(node),
    });
    this.served = new ServedNodes(this.seam, (name) => this.find(name));
  }

  find(name: string): BlockNode | undefined {
    return this.#nodes.get(name);
  }

  #get(name: string): BlockNode {
    const node = this.#nodes.get(name);
    if (node === undefined) throw new CommandError(`Node '${name}' does not run in this IOThread`);
    return node;
  }

  // --- what the owner of the graph asks ---

  async open(spec: NodeSpec): Promise<NodeFacts> {
    const node = this.#ensure(spec);
    node.permissions = { ...spec.permissions };
    for (const child of spec.children) {
      const edge = new Edge(
        this.seam,
        node,
        child.name,
        child.role,
        this.#get(child.node),
        child.owned,
      );
      edge.needed = child.needed;
      edge.shared = child.shared;
      link(edge);
    }
    node.bitmaps = bitmapsOf(spec.bitmaps);
    try {
      await openAgain(this, node, spec.record, spec.quiesced);
    } catch (error) {
      node.bitmaps = undefined;
      for (const edge of [...node.children]) unlink(edge);
      this.#forgetUnused(node);
      throw error;
    }
    return factsOf(node);
  }

  async release(name: string): Promise<NodeRecord> {
    const node = this.#get(name);
    const record = await closeForNow(this, node);
    node.bitmaps = undefined;
    for (const edge of [...node.children]) unlink(edge);
    record.counted = structuredClone(node.counted);
    resetStatistics(node.counted);
    this.#forgetUnused(node);
    return record;
  }

  forward(specs: readonly ForwardSpec[]): void {
    for (const spec of specs) {
      const node = this.#ensure(spec);
      const channel = this.#parts.channel(spec.place);
      node.instance = new ForwardInstance(channel, spec.handle, spec.facts, true);
      node.drained = 0;
      node.writeThreshold = 0;
      this.changed(node);
    }
  }

  forget(names: readonly string[]): void {
    for (const name of names) {
      const node = this.#nodes.get(name);
      if (node !== undefined) this.#forgetUnused(node);
    }
  }

  async close(name: string): Promise<void> {
    const node = this.#get(name);
    node.closed = true;
    try {
      await node.instance.close();
    } finally {
      for (const edge of [...node.children]) unlink(edge);
      this.#forgetUnused(node);
    }
  }

  permissions(news: PermissionNews): void {
    for (const [name, needed, shared] of news.nodes) {
      const node = this.#nodes.get(name);
      if (node !== undefined) node.permissions = { needed, shared };
    }
    for (const [parent, child, needed, shared] of news.edges) {
      const edge = this.#nodes.get(parent)?.edge(child);
      if (edge === undefined) continue;
      edge.needed = needed;
      edge.shared = shared;
    }
  }

  async preparePermissions(name: string, needed: number, shared: number): Promise<void> {
    const change = await this.#get(name).instance.preparePermissions?.(needed, shared);
    if (change !== undefined) this.#pending.set(name, change);
  }

  settlePermissions(name: string, commit: boolean): void {
    const change = this.#pending.get(name);
    this.#pending.delete(name);
    if (commit) change?.commit();
    else change?.abort();
  }

  async hold(id: number, names: readonly string[] | undefined): Promise<void> {
    const wanted = names === undefined ? undefined : new Set(names);
    const section = this.#users.hold(wanted && ((node) => wanted.has(node.name)));
    this.#holds.set(id, section);
    await section.quiet();
  }

  unhold(id: number): void {
    this.#holds.get(id)?.end();
    this.#holds.delete(id);
  }

  async quiesce(name: string): Promise<void> {
    const node = this.#get(name);
    if (node.drained++ === 0) await node.instance.quiesce?.();
  }

  resume(name: string): void {
    const node = this.#nodes.get(name);
    if (node !== undefined && node.drained > 0 && --node.drained === 0) node.instance.resume?.();
  }

  async truncate(name: string, size: number, options: TruncateOptions): Promise<NodeFacts> {
    const node = this.#get(name);
    await this.seam.truncate(node, size, options);
    return factsOf(node);
  }

  facts(name: string): MaybePromise<Partial<ImageFacts>> {
    return new FactsRound().of(this.#get(name));
  }

  snapshots(
    name: string,
    request: SnapshotRequest,
  ): Promise<readonly InternalSnapshot[] | undefined> {
    return serveSnapshots(this.#get(name).instance.snapshots, request);
  }

  update(name: string, facts: NodeFacts): void {
    const node = this.#nodes.get(name);
    if (node === undefined || !(node.instance instanceof ForwardInstance)) return;
    node.instance.update(facts);
    this.changed(node);
  }

  setThreshold(name: string, threshold: number | bigint): void {
    this.#get(name).writeThreshold = threshold;
  }

  changeBitmap(name: string, bitmap: string, change: BitmapChange): void {
    const list = this.#get(name).bitmaps;
    const found = list?.find(bitmap);
    assert(list !== undefined && found !== undefined, "a bitmap that did not come along");
    changeBitmap(list, found, change);
  }

  async storeBitmaps(name: string): Promise<void> {
    await storeBitmaps(this.#get(name));
  }

  report(): ThreadReport {
    const own = [...this.#nodes.values()].filter((node) =>
      node.opened && !node.closed && !(node.instance instanceof ForwardInstance)
    );
    return {
      nodes: own.map((node) => ({
        name: node.name,
        writeHighest: node.writeHighest,
        writeThreshold: node.writeThreshold,
        statistics: node.instance.statistics?.(),
      })),
      users: [...this.#nodes.values()].map((node) => ({
        node: node.name,
        statistics: usersStatistics(node),
      })),
      requests: this.#users.requests,
    };
  }

  // --- users here ---

  /** Attaches a user in this thread; the owner of the graph has attached one for it that has the permissions. */
  attach(name: string, options: BackendOptions): BlockBackend {
    const node = this.#nodes.get(name);
    if (node === undefined) throw new CommandError(`Node '${name}' is not used in this IOThread`);
    const backend = new Backend(
      {
        setPermissions: () =>
          Promise.reject(new CommandError("permissions are changed in the main context")),
        detach: (which) => Promise.resolve(this.#users.unlink(which)),
      },
      this.seam,
      node,
      options,
    );
    this.#users.link(backend);
    return backend;
  }

  /** OpenGraph: permissions are settled elsewhere. */
  updatePermissions(): Promise<void> {
    return Promise.resolve();
  }

  /** Length or limits of `node` may have changed: users here learn of it, and the owner of the graph. */
  changed(node: BlockNode): void {
    this.#users.changed(node, (above) => {
      if (above.instance instanceof ForwardInstance) return;
      this.#parts.news.resized(above.name, factsOf(above), bitmapStates(above.bitmaps));
    });
  }

  /** A QMP event of a driver. */
  emit(event: string, data: Record<string, unknown>): void {
    this.#parts.news.emit(event, data);
  }

  /** Closes nothing and gives back what the thread holds: the last call. */
  dispose(): void {
    this.seam.close();
  }

  /** The node of that name, made if it is new here. */
  #ensure({ name, handle, options, common }: NodeSpec | ForwardSpec): BlockNode {
    const known = this.#nodes.get(name);
    if (known !== undefined) {
      known.options = options;
      known.common = { ...common };
      return known;
    }
    const definition = this.drivers.find(options.driver);
    assert(definition !== undefined, `no driver '${options.driver}' in this thread`);
    const node = new BlockNode(name, definition, options, { ...common });
    this.#nodes.set(name, node);
    this.served.add(node, handle);
    this.all.add(node);
    return node;
  }

  #forgetUnused(node: BlockNode): void {
    if (node.parents.length > 0) return;
    this.#nodes.delete(node.name);
    this.served.delete(node);
    this.all.delete(node);
  }
}

/** What others are to know of a node. */
export function factsOf(node: BlockNode): NodeFacts {
  return { size: node.instance.size, limits: node.limits, inserted: node.inserted };
}

/** Options without their inline children: what a thread needs of them. */
export function flatOptions(node: BlockNode): BlockNode["options"] {
  const children = new Set(node.children.map((edge) => edge.name));
  const own = Object.entries(driverOptions(node.options)).filter(([key]) => !children.has(key));
  return { ...Object.fromEntries(own), driver: node.driver } as BlockNode["options"];
}
