/** The memory of GET_INFLIGHT_FD and SET_INFLIGHT_FD: the in-flight regions of all queues, one after the other. */
import { alignUp } from "../base/mod.ts";
import { errnoText, type Sys } from "../sys/mod.ts";
import { type InflightRegion, inflightRegion, inflightSize } from "./inflight.ts";
import { MappedMemory } from "./mapped.ts";
import { MAX_QUEUE_SIZE } from "./ring.ts";
import type { SharedInflight } from "./shared.ts";
import { type InflightDescription, ProtocolError } from "./wire.ts";

const PAGE = 4096;

/** An area, mapped. */
export class InflightArea {
  private constructor(
    readonly memory: MappedMemory,
    readonly description: InflightDescription,
  ) {}

  /** The area of a session in another thread, which unmaps it. */
  static borrow(sys: Sys, shared: SharedInflight): InflightArea {
    return new InflightArea(MappedMemory.borrow(sys, shared), shared.description);
  }

  /** For `borrow`. */
  share(): SharedInflight {
    return { ...this.memory.shared, description: this.description };
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
    const memory = MappedMemory.map(sys, fd, offset, size, "in-flight area");
    return new InflightArea(memory, description);
  }

  /** The region of queue `index`, which has `size` descriptors. Throws ProtocolError if it does not fit. */
  region(index: number, size: number, packed: boolean): InflightRegion {
    const { queues, queueSize, size: total } = this.description;
    const bytes = inflightSize(queueSize, packed);
    if (index >= queues || size > queueSize || (index + 1) * bytes > total) {
      throw new ProtocolError(`the in-flight area has no room for queue ${index} of ${size}`);
    }
    const at = index * bytes;
    return inflightRegion(this.memory.bytes.subarray(at, at + bytes), size, packed);
  }

  /** The front-end was told the state of queue `index`: its region says nothing any more. */
  retire(index: number, size: number, packed: boolean): void {
    const { queues, queueSize } = this.description;
    if (index < queues && size > 0 && size <= queueSize) this.region(index, size, packed).retire();
  }
}

function check(queues: number, queueSize: number): void {
  if (queues === 0 || queueSize === 0 || queueSize > MAX_QUEUE_SIZE) {
    throw new ProtocolError(`an in-flight area for ${queues} queues of ${queueSize}`);
  }
}
