/**
 * Opening nodes by their options, with their inline children, as one transaction: either every node is
 * open, or none is left. Runs in the graph's queue: nothing else changes the graph meanwhile.
 */
import { assert, BlockError, CommandError, IoVec } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Context } from "../sys/mod.ts";
import { loadBitmaps, storeBitmaps } from "./bitmaps/mod.ts";
import { checkDepth, heights, MAX_DEPTH } from "./depth.ts";
import { FactsRound } from "./facts.ts";
import { directoryOf, JSON_PREFIX } from "./filenames.ts";
import type { DriverRegistry } from "./graph_types.ts";
import { impliedName, impliedOptions } from "./implied.ts";
import type { NameGenerator } from "./names.ts";
import { checkNodeName } from "./names.ts";
import { BlockNode, type CommonOptions, Edge } from "./node.ts";
import { NodeContext } from "./open_context.ts";
import { commonOptions, driverOptions, type Inheritance, inheritFrom } from "./options.ts";
import type { PermissionPlan } from "./permission_update.ts";
import { PROBE_LENGTH, probeFormat } from "./probe.ts";
import type { Seam } from "./seam.ts";
import type { NamedChild, OpenContext } from "./driver_types.ts";
import type { Child, ChildRole, DriverInstance } from "./types.ts";

/** What opening needs of the graph. */
export interface OpenGraph {
  readonly context: Context;
  readonly drivers: DriverRegistry;
  readonly seam: Seam;
  readonly names: NameGenerator;
  /** All nodes, those being opened included. */
  readonly all: Set<BlockNode>;
  find(name: string): BlockNode | undefined;
  /** Settles permissions where `plan` says that something has changed. */
  updatePermissions(plan: PermissionPlan): Promise<void>;
  /** Length or limits of the node may have changed. */
  changed(node: BlockNode): void;
  /** Sends a QMP event. */
  emit(event: string, data: Record<string, unknown>): void;
}

/** Links a child to its parent; permissions are the caller's business. */
export function link(edge: Edge): void {
  edge.parent.children.push(edge);
  edge.node.parents.push(edge);
}

/** Undoes `link`. */
export function unlink(edge: Edge): void {
  edge.parent.children.splice(edge.parent.children.indexOf(edge), 1);
  edge.node.parents.splice(edge.node.parents.indexOf(edge), 1);
}

/** The nodes that one transaction opens. */
export class Opening {
  /** Opened nodes, children before their parents. */
  readonly created: BlockNode[] = [];
  /** Nodes below those that are being opened do not change any more. */
  readonly height = heights();
  readonly round: FactsRound = new FactsRound();

  constructor(private readonly graph: OpenGraph) {}

  /** Opens a node. `inheritance`: of an inline child. Throws with this node and its children closed. */
  async open(
    options: BlockdevOptionsValue,
    inheritance: Inheritance | undefined,
  ): Promise<BlockNode> {
    const { graph } = this;
    const definition = graph.drivers.find(options.driver);
    if (definition === undefined) throw new CommandError(`Unknown driver '${options.driver}'`);
    const name = this.#name(options["node-name"], inheritance === undefined);
    const common = commonOptions(options, inheritance);
    const node = new BlockNode(name, definition, options, common);
    graph.all.add(node);
    const mark = this.created.length;
    const trace = graph.context.trace("bdrv_open_common");
    if (trace.enabled) trace.emit(`bs ${name} format_name "${options.driver}"`);
    try {
      const open = new NodeOpenContext(graph, this, node);
      const instance = await definition.open(open, driverOptions(options));
      node.instance = instance;
      this.created.push(node);
      degradeUnlessWritable(node, instance, open);
      // What it was to its children before it became read-only.
      if (open.degraded) await graph.updatePermissions({ nodes: new Map([[node, {}]]) });
      await loadBitmaps(node);
    } catch (error) {
      const released = this.created.includes(node) ? [] : this.#forget(node);
      await this.#closeFrom(mark, released);
      throw error;
    }
    return node;
  }

  /** Names from images on the way from the root to what is being opened now. */
  readonly #chain: string[] = [];

  /** Opens what the image of `parent` names in its header. */
  async openNamed(
    parent: BlockNode,
    role: readonly ChildRole[],
    named: NamedChild,
  ): Promise<BlockNode> {
    const directory = await directoryOfNode(parent, this.round);
    const name = impliedName(named, directory);
    if (this.#chain.includes(name)) {
      throw new CommandError(`Image '${name}' is part of its own backing chain`);
    }
    if (this.#chain.length >= MAX_DEPTH / 2) {
      throw new CommandError("The backing chain is too long");
    }
    const implied = impliedOptions(this.graph.context.sys, named, directory);
    const inheritance = inheritFrom(parent, role);
    this.#chain.push(name);
    try {
      return implied.probe
        ? await this.#probed(implied.options, inheritance, name)
        : await this.open(implied.options, inheritance);
    } finally {
      this.#chain.pop();
    }
  }

  /** Opens the node of `options` and the format above it that its first bytes show. */
  async #probed(
    options: BlockdevOptionsValue,
    inheritance: Inheritance,
    name: string,
  ): Promise<BlockNode> {
    const common = commonOptions({ driver: "raw" }, inheritance);
    const mark = this.created.length;
    const protocol = await this.open(options, { parent: common, role: ["metadata", "primary"] });
    try {
      const driver = probeFormat(await this.#firstBytes(protocol), name);
      if (this.graph.drivers.find(driver) === undefined) {
        throw new CommandError(`Unknown driver '${driver}'`);
      }
      const format = await this.open({ driver, file: protocol.name }, inheritance);
      // The protocol's node is the format's own, as if it had been described inline.
      format.options = { ...format.options, file: options };
      format.edge("file")!.owned = true;
      return format;
    } catch (error) {
      await this.#closeFrom(mark);
      throw error;
    }
  }

  async #firstBytes(node: BlockNode): Promise<Uint8Array> {
    const length = Math.min(PROBE_LENGTH, node.size);
    if (length === 0) return new Uint8Array();
    const { buffers } = this.graph.context;
    const buffer = buffers.acquire(PROBE_LENGTH);
    try {
      await this.graph.seam.read(node, 0, IoVec.of(buffer.address, length), 0);
      return buffer.bytes.slice(0, length);
    } finally {
      buffers.release(buffer);
    }
  }

  #name(given: string | undefined, root: boolean): string {
    if (given === undefined) {
      if (root) throw new CommandError("'node-name' must be specified for the root node");
      return this.graph.names.next();
    }
    checkNodeName(given);
    for (const node of this.graph.all) {
      if (node.name === given) {
        throw new CommandError(`Duplicate nodes with node-name='${given}'`);
      }
    }
    return given;
  }

  /** The node of that name: in the graph, or opened in this transaction. */
  find(name: string): BlockNode | undefined {
    return this.graph.find(name) ?? this.created.find((node) => node.name === name);
  }

  /** Takes `node` out of the graph. Returns the nodes that it was a parent of. */
  #forget(node: BlockNode): BlockNode[] {
    const edges = [...node.children];
    for (const edge of edges) unlink(edge);
    this.graph.all.delete(node);
    return edges.map((edge) => edge.node);
  }

  /** Closes what was opened from `mark` on, parents first. Nodes that lose a parent, `orphans` too, are released. */
  async #closeFrom(mark: number, orphans: readonly BlockNode[] = []): Promise<void> {
    const { graph } = this;
    const released = new Set(orphans);
    for (const node of this.created.splice(mark).reverse()) {
      try {
        await storeBitmaps(node); // opening it has marked them as in use
      } catch (error) {
        graph.context.log.warn(`lost persistent bitmaps of node '${node.name}': ${String(error)}`);
      }
      try {
        await node.instance.close();
      } catch (error) {
        graph.context.log.warn(`closing node '${node.name}': ${String(error)}`);
      }
      for (const child of this.#forget(node)) released.add(child);
      released.delete(node);
    }
    try {
      await graph.updatePermissions({ released: [...released] });
    } catch (error) {
      graph.context.log.warn(`giving up permissions: ${String(error)}`);
    }
  }
}

/** Drivers that cannot write are open read-only, or not at all. */
function degradeUnlessWritable(
  node: BlockNode,
  instance: DriverInstance,
  open: OpenContext,
): void {
  if (node.readOnly) return;
  const writes = instance.kind === "format"
    ? instance.reserve !== undefined
    : instance.write !== undefined;
  if (!writes) open.degradeToReadOnly(`${node.driver} driver does not support writes`);
}

/** Where the image file of `node` lies; undefined where its name does not say. */
async function directoryOfNode(
  node: BlockNode,
  round: FactsRound,
): Promise<string | undefined> {
  const { filename } = await node.edge("file")?.facts(round) ?? {};
  if (filename === undefined || filename.startsWith(JSON_PREFIX)) return undefined;
  return directoryOf(filename);
}

/** The same failure, said to be of the backing file. */
function ofBacking(error: unknown): unknown {
  const prefix = "Could not open backing file: ";
  // A cycle is a mistake in the parent's options, not in the file.
  if (error instanceof CommandError && !error.message.endsWith("would create a cycle")) {
    return new CommandError(prefix + error.message, error.errorClass, error.hints, {
      cause: error,
    });
  }
  if (!(error instanceof BlockError)) return error;
  return new BlockError(error.errno, prefix + error.message, { op: "open", cause: error });
}

/** What a driver is given when it opens `node`. */
export class NodeOpenContext extends NodeContext {
  readonly #writable: boolean;

  constructor(
    protected override readonly graph: OpenGraph,
    private readonly opening: Opening,
    node: BlockNode,
  ) {
    super(graph, node, node.options);
    this.#writable = !node.readOnly;
  }

  protected get common(): CommonOptions {
    return this.node.common;
  }
  get round(): FactsRound {
    return this.opening.round;
  }
  /** The node became read-only while it was opened. */
  get degraded(): boolean {
    return this.#writable && this.readOnly;
  }

  async nameOf(named: NamedChild, round: FactsRound = new FactsRound()): Promise<string> {
    try {
      return impliedName(named, await directoryOfNode(this.node, round));
    } catch {
      return named.filename; // nobody can say where it would be
    }
  }

  async namedChild(
    name: string,
    edge: { role: readonly ChildRole[] },
    named: NamedChild | undefined,
  ): Promise<Child | undefined> {
    try {
      if (this.options[name] !== undefined || named === undefined) {
        return await this.optionalChild(name, edge);
      }
      const target = await this.opening.openNamed(this.node, edge.role, named);
      return await this.#attach(name, edge.role, target, true);
    } catch (error) {
      throw name === "backing" ? ofBacking(error) : error;
    }
  }

  async optionalChild(
    name: string,
    { role }: { role: readonly ChildRole[] },
  ): Promise<Child | undefined> {
    const value = this.options[name] as string | BlockdevOptionsValue | null | undefined;
    if (value === undefined || value === null) return undefined;
    const inline = typeof value !== "string";
    const target = inline
      ? await this.opening.open(value, inheritFrom(this.node, role))
      : this.#reference(value, name);
    return await this.#attach(name, role, target, inline);
  }

  /** Makes `target` a child; what is inline goes again when that fails, with the transaction. */
  async #attach(
    name: string,
    role: readonly ChildRole[],
    target: BlockNode,
    inline: boolean,
  ): Promise<Child> {
    const { graph, node } = this;
    assert(node.edge(name) === undefined, `child ${name} opened twice`);
    checkDepth(node, target, this.opening.height);
    const edge = new Edge(graph.seam, node, name, role, target, inline);
    link(edge);
    try {
      await graph.updatePermissions({ linked: [edge] });
    } catch (error) {
      unlink(edge);
      throw error;
    }
    return edge;
  }

  #reference(name: string, child: string): BlockNode {
    // The name is not taken yet when the other children are looked for.
    if (name === this.node.name && child === "backing") {
      throw new CommandError(`Making '${name}' a ${child} child of '${name}' would create a cycle`);
    }
    const found = this.opening.find(name);
    if (found === undefined) {
      throw new CommandError(`Cannot find device='${name}' nor node-name='${name}'`);
    }
    return found;
  }
}
