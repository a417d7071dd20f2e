/** The block graph of one context: names, ownership, references, and changes as transactions. */
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { BackendOptions, BlockBackend } from "./backend_types.ts";
import type { BlockNodeInfo } from "./types.ts";
import type { DrainedSection, GraphParts, NodeView, RequestInFlight } from "./graph_types.ts";

export class BlockGraph {
  constructor(_parts: GraphParts) {
    throw new Error("being written");
  }
  /** Opens a node (with its inline children) by validated options. CommandError refuses. */
  add(_options: BlockdevOptionsValue, _how: { monitorOwned: boolean }): Promise<NodeView> {
    throw new Error("being written");
  }
  /** blockdev-del. */
  del(_name: string): Promise<void> {
    throw new Error("being written");
  }
  /** blockdev-reopen. */
  reopen(_list: readonly BlockdevOptionsValue[]): Promise<void> {
    throw new Error("being written");
  }
  /** The node of that name, if any. */
  find(_name: string): NodeView | undefined {
    throw new Error("being written");
  }
  /** The node of that name; throws `Cannot find device='D' nor node-name='N'`. */
  lookup(_device: string | undefined, _nodeName: string | undefined): NodeView {
    throw new Error("being written");
  }
  /** All nodes, newest first. */
  nodes(): readonly NodeView[] {
    throw new Error("being written");
  }
  /** Attaches a user. Throws CommandError with QEMU's conflict text. */
  backend(_node: BlockNodeInfo | string, _options: BackendOptions): Promise<BlockBackend> {
    throw new Error("being written");
  }
  /** block_resize. */
  resize(_node: BlockNodeInfo | string, _size: number): Promise<void> {
    throw new Error("being written");
  }
  /** Holds back requests of the backends above `node` (all, if not given) and waits for those in flight. */
  drain(_node?: BlockNodeInfo | string): Promise<DrainedSection> {
    throw new Error("being written");
  }
  /** Requests that have not completed, oldest first. */
  requests(): readonly RequestInFlight[] {
    throw new Error("being written");
  }
  /** Flushes and closes every node. All backends must be detached. */
  closeAll(): Promise<void> {
    throw new Error("being written");
  }
}
