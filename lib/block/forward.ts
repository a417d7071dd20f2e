/**
 * A node that lives in another context, as its users here see it. Requests go there as small messages that carry
 * addresses only: memory belongs to the process, so that the driver over there moves the data to or from the place
 * where it is wanted. Checks, alignment, limits and order are the business of the seam in the node's own context.
 */
import { BlockError, IoVec, type MaybePromise } from "../base/mod.ts";
import type { BlockStatus, IoInstance, Limits } from "./types.ts";
import { RequestFlag } from "./types.ts";

/** What a message asks for. */
export const NodeOp = {
  read: 1,
  write: 2,
  writeZeroes: 3,
  discard: 4,
  flush: 5,
  status: 6,
  prefetch: 7,
  /** Status through all layers, with the layer. */
  depth: 8,
} as const;

/** Most segments of one message; longer lists travel in several. */
export const MESSAGE_SEGMENTS = 120;

/** Flags of NodeOp.status, which has no others. */
export const StatusFlag = {
  precise: 1,
  /** Through all layers. */
  whole: 2,
} as const;

/** One request to a node of another context. Offsets and lengths are in bytes. */
export interface NodeRequest {
  /** Of NodeOp. */
  op: number;
  /** The node's number, the same in all contexts. */
  handle: number;
  offset: number;
  length: number;
  /** Of RequestFlag; of StatusFlag for block status. */
  flags: number;
  /** The data of reads and writes, in MESSAGE_SEGMENTS segments at most. */
  iov: IoVec | undefined;
  /** What NodeOp.status and depth fill. */
  out: BlockStatus | undefined;
}

/** The way to the nodes of another context. */
export interface NodeChannel {
  /** Sends one request; resolves when it is done, rejects with a BlockError. Its memory stays in place until then. */
  request(request: NodeRequest): Promise<void>;
}

/** What is known of a node elsewhere. */
export interface NodeFacts {
  /** Bytes; as its driver says, not rounded. */
  readonly size: number;
  readonly limits: Limits;
  /** Whether there is a medium. */
  readonly inserted: boolean;
}

/** Stands for a node that lives in another context. Every request is sent there as it is. */
export class ForwardInstance implements IoInstance {
  readonly kind = "io";
  readonly forwards = true;
  /** The other side does with all flags what has to be done. */
  readonly supportedFlags = RequestFlag.fua;
  readonly depth: IoInstance["depth"];
  #facts: NodeFacts;

  constructor(
    readonly channel: NodeChannel,
    /** The node's number, the same in all contexts. */
    readonly handle: number,
    facts: NodeFacts,
    /** Whether block status is to be that of the whole chain: here the node shows no children. */
    readonly whole: boolean,
  ) {
    this.#facts = facts;
    if (whole) this.depth = (...request) => this.#depth(...request);
  }

  get size(): number {
    return this.#facts.size;
  }
  get limits(): Limits {
    return this.#facts.limits;
  }
  inserted(): boolean {
    return this.#facts.inserted;
  }
  /** The node changed over there. */
  update(facts: NodeFacts): void {
    this.#facts = facts;
  }

  read(offset: number, iov: IoVec, flags: number): Promise<void> {
    return this.#transfer(NodeOp.read, offset, iov, flags);
  }
  write(offset: number, iov: IoVec, flags: number): Promise<void> {
    return this.#transfer(NodeOp.write, offset, iov, flags);
  }
  writeZeroes(offset: number, length: number, flags: number): Promise<void> {
    return this.#send(NodeOp.writeZeroes, offset, length, flags);
  }
  discard(offset: number, length: number): Promise<void> {
    return this.#send(NodeOp.discard, offset, length);
  }
  flush(): Promise<void> {
    return this.#send(NodeOp.flush, 0, 0);
  }
  status(offset: number, length: number, precise: boolean, out: BlockStatus): Promise<void> {
    const flags = (precise ? StatusFlag.precise : 0) | (this.whole ? StatusFlag.whole : 0);
    return this.#send(NodeOp.status, offset, length, flags, undefined, out);
  }
  prefetch(offset: number, length: number): Promise<void> {
    return this.#send(NodeOp.prefetch, offset, length);
  }
  /** Only the main context, which owns the graph, closes what lives elsewhere (MovedInstance). */
  close(): MaybePromise<void> {}

  async #depth(offset: number, length: number, out: BlockStatus): Promise<number> {
    await this.#send(NodeOp.depth, offset, length, 0, undefined, out);
    return out.depth ?? 0;
  }

  #send(
    op: number,
    offset: number,
    length: number,
    flags = 0,
    iov?: IoVec,
    out?: BlockStatus,
  ): Promise<void> {
    const { handle } = this;
    return this.channel.request({ op, handle, offset, length, flags, iov, out });
  }

  #transfer(op: number, offset: number, iov: IoVec, flags: number): Promise<void> {
    if (iov.count <= MESSAGE_SEGMENTS) {
      return this.#send(op, offset, iov.total, flags, iov);
    }
    return this.#inParts(op, offset, iov, flags);
  }

  async #inParts(op: number, offset: number, iov: IoVec, flags: number): Promise<void> {
    const parts: Promise<void>[] = [];
    for (let from = 0, at = offset; from < iov.count; from += MESSAGE_SEGMENTS) {
      const part = new IoVec();
      const end = Math.min(from + MESSAGE_SEGMENTS, iov.count);
      for (let i = from; i < end; i++) part.add(iov.addresses[i]!, iov.lengths[i]!);
      parts.push(this.#send(op, at, part.total, flags, part));
      at += part.total;
    }
    // All must have ended, however they ended: their memory is in use until then.
    const failed = (await Promise.allSettled(parts)).find((one) => one.status === "rejected");
    if (failed !== undefined) throw failed.reason;
  }
}

/** Stands for a node whose IOThread has failed: nothing of it can be reached any more. */
export class LostInstance implements IoInstance {
  readonly kind = "io";
  constructor(readonly name: string, readonly thread: string, private readonly known: NodeFacts) {}

  get size(): number {
    return this.known.size;
  }
  get limits(): Limits {
    return this.known.limits;
  }
  read(offset: number): never {
    throw this.#lost("read", offset);
  }
  write(offset: number): never {
    throw this.#lost("write", offset);
  }
  writeZeroes(offset: number): never {
    throw this.#lost("write-zeroes", offset);
  }
  discard(offset: number): never {
    throw this.#lost("discard", offset);
  }
  flush(): never {
    throw this.#lost("flush", 0);
  }
  truncate(): never {
    throw this.#lost("truncate", 0);
  }
  close(): void {}

  #lost(op: string, offset: number): BlockError {
    return new BlockError("EIO", `the node was lost when IOThread '${this.thread}' failed`, {
      node: this.name,
      op,
      offset,
    });
  }
}
