/** Memory that the front-end shares by a descriptor beside the guest's own: for the dirty log, the in-flight area. */
import { alignDown, alignUp } from "../base/mod.ts";
import { errnoText, type FileStat, type Memory, type MemoryGuard, type Sys } from "../sys/mod.ts";
import type { SharedMemory } from "./shared.ts";
import { ProtocolError } from "./wire.ts";

const PAGE = 4096;

/** What a file is mapped, and unmapped, in whole numbers of: huge pages, where its memory is made of them. */
export function mappedUnit({ kind, blockSize }: FileStat): number {
  return kind === "file" ? Math.max(PAGE, blockSize) : PAGE;
}

/** A part of a file, mapped; or the same in another thread, borrowed. */
export class MappedMemory {
  readonly bytes: Uint8Array;
  readonly #mapping: Memory | undefined;
  readonly #guard: MemoryGuard | undefined;

  private constructor(sys: Sys, readonly shared: SharedMemory, mapping: Memory | undefined) {
    this.#mapping = mapping;
    this.#guard = mapping === undefined ? undefined : sys.guard(mapping);
    this.bytes = sys.viewAt(shared.address, shared.size);
  }

  /** What a session in another thread has mapped, and unmaps. */
  static borrow(sys: Sys, shared: SharedMemory): MappedMemory {
    return new MappedMemory(sys, shared, undefined);
  }

  /** Maps `size` bytes at `offset` of `fd`, which stays the caller's. Throws ProtocolError, which calls it `what`. */
  static map(sys: Sys, fd: number, offset: number, size: number, what: string): MappedMemory {
    const stat = sys.fstat(fd);
    if (typeof stat === "number" || size === 0 || offset + size > stat.size) {
      throw new ProtocolError(`the ${what} of ${size} bytes is not there`);
    }
    const page = mappedUnit(stat);
    const start = alignDown(offset, page);
    const mapping = sys.map(fd, start, alignUp(offset + size - start, page), true);
    if (typeof mapping === "number") {
      throw new ProtocolError(`the ${what} cannot be mapped: ${errnoText(-mapping)}`);
    }
    return new MappedMemory(sys, { address: mapping.address + (offset - start), size }, mapping);
  }

  /** Whether the front-end took it away. */
  get lost(): boolean {
    return this.#guard?.lost ?? false;
  }

  /** Lets it go; what is borrowed is the other thread's to unmap. */
  unmap(): void {
    this.#guard?.release();
    this.#mapping?.unmap();
  }
}
