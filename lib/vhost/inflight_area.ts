/** The memory of GET_INFLIGHT_FD and SET_INFLIGHT_FD: the in-flight regions of all queues, one after the other. */
import { alignDown, alignUp } from "../base/mod.ts";
import { errnoText, type Memory, type MemoryGuard, type Sys } from "../sys/mod.ts";
import { type InflightRegion, inflightRegion, inflightSize } from "./inflight.ts";
import { MAX_QUEUE_SIZE } from "./ring.ts";
import type { SharedInflight } from "./shared.ts";
import { type InflightDescription, ProtocolError } from "./wire.ts";

const PAGE = 4096;

/** An area, mapped. */
export class InflightArea {
  readonly #shared: SharedInflight;
  readonly #mapping: Memory | undefined;
  readonly #guard: MemoryGuard | undefined;
  readonly #bytes: Uint8Array;

  private constructor(sys: Sys, shared: SharedInflight, mapping: Memory | undefined) {
    this.#shared = shared;
    this.#mapping = mapping;
    this.#guard = mapping === undefined ? undefined : sys.guard(mapping);
    this.#bytes = sys.viewAt(shared.address, shared.size);
  }

  /** The area of a session in another thread, which unmaps it. */
  static borrow(sys: Sys, shared: SharedInflight): InflightArea {
    return new InflightArea(sys, shared, undefined);
  }

  /** For `borrow`. */
  share(): SharedInflight {
    return this.#shared;
  }

  /** Makes one for `queues` queues of `queueSize`; `fd` is the caller's to close. Throws ProtocolError. */
  static make(
    sys: Sys,
    queues: number,
    queueSize: number,
    packed: boolean,
  ): { fd: number; description: InflightDescription } {
    check(queues, queueSize);
    const size = alignUp(queues * inflightSize(queueSize, packed), PAGE);
    const fd = sys.memfd("vhost-inflight");
    if (fd < 0) throw new ProtocolError(`memfd_create: ${errnoText(-fd)}`);
    const rc = sys.ftruncate(fd, size);
    if (rc < 0) {
      sys.close(fd);
      throw new ProtocolError(`ftruncate: ${errnoText(-rc)}`);
    }
    return { fd, description: { size, offset: 0, queues, queueSize } };
  }

  /** Maps the area in `fd`, which stays the caller's. Throws ProtocolError. */
  static map(sys: Sys, fd: number, description: InflightDescription): InflightArea {
    const { size, offset, queues, queueSize } = description;
    check(queues, queueSize);
    const stat = sys.fstat(fd);
    if (typeof stat === "number" || size === 0 || offset + size > stat.size) {
      throw new ProtocolError(`an in-flight area of ${size} bytes that is not there`);
    }
    const start = alignDown(offset, PAGE);
    const mapping = sys.map(fd, start, alignUp(offset + size - start, PAGE), true);
    if (typeof mapping === "number") {
      throw new ProtocolError(`the in-flight area cannot be mapped: ${errnoText(-mapping)}`);
    }
    const address = mapping.address + (offset - start);
    return new InflightArea(sys, { address, size, description }, mapping);
  }

  /** The region of queue `index`, which has `size` descriptors. Throws ProtocolError if it does not fit. */
  region(index: number, size: number, packed: boolean): InflightRegion {
    const { queues, queueSize, size: total } = this.#shared.description;
    const bytes = inflightSize(queueSize, packed);
    if (index >= queues || size > queueSize || (index + 1) * bytes > total) {
      throw new ProtocolError(`the in-flight area has no room for queue ${index} of ${size}`);
    }
    const at = index * bytes;
    return inflightRegion(this.#bytes.subarray(at, at + bytes), size, packed);
  }

  /** The front-end was told the state of queue `index`: its region says nothing any more. */
  retire(index: number, size: number, packed: boolean): void {
    const { queues, queueSize } = this.#shared.description;
    if (index < queues && size > 0 && size <= queueSize) this.region(index, size, packed).retire();
  }

  /** Whether the front-end took it away. */
  get lost(): boolean {
    return this.#guard?.lost ?? false;
  }

  close(): void {
    this.#guard?.release();
    this.#mapping?.unmap();
  }
}

function check(queues: number, queueSize: number): void {
  if (queues === 0 || queueSize === 0 || queueSize > MAX_QUEUE_SIZE) {
    throw new ProtocolError(`an in-flight area for ${queues} queues of ${queueSize}`);
  }
}
