/** The nodes of a context as other contexts reach them: by number, and through their seam as any other request. */
import { assert, BlockError, chain, IoVec, type MaybePromise } from "../base/mod.ts";
import { NodeOp, type NodeRequest, StatusFlag } from "./forward.ts";
import type { BlockNode } from "./node.ts";
import type { Seam } from "./seam.ts";
import { chainDepth, chainStatus, layerStatus } from "./status.ts";
import type { BlockNodeInfo } from "./types.ts";

/** What requests without data have. */
const NO_DATA = new IoVec();

/** The nodes of one context. The graph in the main context numbers them, for all. */
export class ServedNodes {
  readonly #byHandle = new Map<number, BlockNode>();
  readonly #handles = new Map<BlockNode, number>();
  #last = 0;

  constructor(
    private readonly seam: Seam,
    private readonly find: (name: string) => BlockNode | undefined,
  ) {}

  /** A node that the main context has given the number `handle`. */
  add(node: BlockNode, handle: number): void {
    this.#byHandle.set(handle, node);
    this.#handles.set(node, handle);
  }

  /** The number of a node; in the main context a new one, if it has none. */
  handle(node: BlockNode): number {
    let handle = this.#handles.get(node);
    if (handle === undefined) this.add(node, handle = ++this.#last);
    return handle;
  }

  /** The same of what an answer says about a node. */
  handleOf(node: BlockNodeInfo): number {
    const found = this.find(node.name);
    assert(found !== undefined, "an answer names a node that is gone");
    return this.handle(found);
  }

  /** The node of that number. */
  byHandle(handle: number): BlockNode | undefined {
    return this.#byHandle.get(handle);
  }

  /** A node is gone. */
  delete(node: BlockNode): void {
    const handle = this.#handles.get(node);
    if (handle !== undefined) this.#byHandle.delete(handle);
    this.#handles.delete(node);
  }

  /** Carries out a request of another context, as NodeChannel.request. */
  execute(request: NodeRequest): MaybePromise<void> {
    const node = this.#byHandle.get(request.handle);
    if (node === undefined || node.elsewhere !== undefined) {
      throw new BlockError("EIO", "the node does not live here", { offset: request.offset });
    }
    return executeOn(this.seam, node, request);
  }
}

function executeOn(seam: Seam, node: BlockNode, request: NodeRequest): MaybePromise<void> {
  const { op, offset, length, flags, iov = NO_DATA } = request;
  switch (op) {
    case NodeOp.read:
      return seam.read(node, offset, iov, flags);
    case NodeOp.write:
      return seam.write(node, offset, iov, flags);
    case NodeOp.writeZeroes:
      return seam.writeZeroes(node, offset, length, flags);
    case NodeOp.discard:
      return seam.discard(node, offset, length);
    case NodeOp.flush:
      return seam.flush(node);
    case NodeOp.prefetch:
      return seam.prefetch(node, offset, length);
    case NodeOp.status:
      return statusOn(node, request);
    case NodeOp.depth:
      return depthOn(node, request);
    default:
      throw new BlockError("ENOTSUP", `request ${op} is not known`, { node: node.name, offset });
  }
}

function statusOn(node: BlockNode, request: NodeRequest): MaybePromise<void> {
  const { offset, length, flags } = request;
  const out = request.out!;
  const precise = (flags & StatusFlag.precise) !== 0;
  if ((flags & StatusFlag.whole) !== 0) {
    return chainStatus(node, offset, length, precise, out);
  }
  return chain(layerStatus(node, offset, length, precise, out), () => {
    // What a format has nothing of reads as zeroes, unless a layer below it provides it: the asker sees to that.
    if (!out.allocated && !out.data && node.instance.kind === "format") out.zero = true;
  });
}

async function depthOn(node: BlockNode, request: NodeRequest): Promise<void> {
  const out = request.out!;
  const found = await chainDepth(node, request.offset, request.length);
  out.depth = found.depth;
  out.length = found.length;
  out.allocated = found.depth > 0;
  delete out.offset;
  delete out.file;
}
