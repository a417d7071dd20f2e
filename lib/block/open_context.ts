/** What a driver learns of its node, be it opened or reopened. */
import { CommandError } from "../base/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Context } from "../sys/mod.ts";
import { RequestEpochs } from "./epochs.ts";
import type { FactsRound } from "./facts.ts";
import type { BlockNode, CommonOptions } from "./node.ts";
import { driverOptions } from "./options.ts";
import type { NamedChild, OpenContext } from "./driver_types.ts";
import type { Child, ChildRole } from "./types.ts";

/** What this needs of the graph. */
interface NodeGraph {
  readonly context: Context;
  emit(event: string, data: Record<string, unknown>): void;
}

/** All but the children. */
export abstract class NodeContext implements OpenContext {
  readonly context: Context;
  readonly options: Readonly<Record<string, unknown>>;

  constructor(
    protected readonly graph: NodeGraph,
    protected readonly node: BlockNode,
    options: BlockdevOptionsValue,
  ) {
    this.context = graph.context;
    this.options = driverOptions(options);
  }

  /** The common options as they are to be; degrading changes them. */
  protected abstract get common(): CommonOptions;
  abstract namedChild(
    name: string,
    edge: { role: readonly ChildRole[] },
    named: NamedChild | undefined,
  ): Promise<Child | undefined>;
  abstract nameOf(named: NamedChild, round?: FactsRound): Promise<string>;
  abstract optionalChild(
    name: string,
    edge: { role: readonly ChildRole[] },
  ): Promise<Child | undefined>;

  get nodeName(): string {
    return this.node.name;
  }
  get readOnly(): boolean {
    return this.common.readOnly;
  }
  get autoReadOnly(): boolean {
    return this.common.autoReadOnly;
  }
  get cache(): { readonly direct: boolean; readonly noFlush: boolean } {
    const { direct, noFlush } = this.common;
    return { direct, noFlush };
  }
  get discard(): "ignore" | "unmap" {
    return this.common.discard;
  }
  get active(): boolean {
    return this.common.active;
  }

  async child(name: string, edge: { role: readonly ChildRole[] }): Promise<Child> {
    const child = await this.optionalChild(name, edge);
    if (child === undefined) {
      throw new CommandError(`A block device must be specified for "${name}"`);
    }
    return child;
  }

  degradeToReadOnly(message: string): void {
    const { common } = this;
    if (common.readOnly) return;
    if (!common.autoReadOnly) throw new CommandError(message);
    common.readOnly = true;
  }

  trackRequests(): () => Promise<void> | undefined {
    const epochs = this.node.epochs ??= new RequestEpochs();
    return () => epochs.settled();
  }

  emit(event: string, data: Record<string, unknown>): void {
    this.graph.emit(event, data);
  }
}
