/** A child node as check sees it: bytes in plain arrays. */
import { IoVec, type MaybePromise, MiB } from "../../../../base/mod.ts";
import type { Context } from "../../../../sys/mod.ts";
import type { BlockStatus } from "../../../mod.ts";
import type { CheckedNode } from "../../checks.ts";
import type { CheckFile } from "./types.ts";

/** Bytes that are moved at once. */
const PIECE = MiB;

/** `node`, through buffers of `context`. */
export function childFile(context: Context, node: CheckedNode): CheckFile {
  return new ChildFile(context, node);
}

class ChildFile implements CheckFile {
  readonly #status: BlockStatus = { length: 0, allocated: false, data: false, zero: false };
  constructor(private readonly context: Context, private readonly node: CheckedNode) {}

  get size(): number {
    return this.node.size;
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    const there = Math.max(0, Math.min(into.length, this.node.size - offset));
    into.fill(0, there);
    const { buffers } = this.context;
    for (let done = 0; done < there; done += PIECE) {
      const length = Math.min(PIECE, there - done);
      const buffer = buffers.acquire(length);
      try {
        await this.node.read(offset + done, IoVec.of(buffer.address, length), 0);
        into.set(buffer.bytes.subarray(0, length), done);
      } finally {
        buffers.release(buffer);
      }
    }
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    const { context: { buffers }, node } = this;
    const end = offset + bytes.length;
    if (end > node.size) await node.truncate(end, { exact: false, preallocation: "off" });
    for (let done = 0; done < bytes.length; done += PIECE) {
      const length = Math.min(PIECE, bytes.length - done);
      const buffer = buffers.acquire(length);
      try {
        buffer.bytes.set(bytes.subarray(done, done + length));
        await node.write(offset + done, IoVec.of(buffer.address, length), 0);
      } finally {
        buffers.release(buffer);
      }
    }
  }

  flush(): MaybePromise<void> {
    return this.node.flush();
  }

  async isHole(offset: number, length: number): Promise<boolean> {
    const status = this.#status;
    await this.node.status(offset, length, true, status);
    return status.zero && status.length >= length;
  }
}
