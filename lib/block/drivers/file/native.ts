/** aio=native: the kernel's own asynchronous I/O (io_submit(2), linux/aio_abi.h). Wants O_DIRECT to be asynchronous. */
import {
  type Context,
  type Memory,
  type SyscallNumbers,
  syscallNumbers,
} from "../../../sys/mod.ts";
import { DEPTH, KernelQueue, type QueuedRequest } from "./queue.ts";

// struct iocb
const IOCB = 64;
const IOCB_DATA = 0;
const IOCB_OPCODE = 16;
const IOCB_FD = 20;
const IOCB_BUFFER = 24;
const IOCB_BYTES = 32;
const IOCB_OFFSET = 40;
const IOCB_FLAGS = 56;
const IOCB_EVENTFD = 60;
const FLAG_EVENTFD = 1;
const PREAD = 0;
const PWRITE = 1;
const PREADV = 7;
const PWRITEV = 8;

// struct io_event
const EVENT = 32;
const EVENT_DATA = 0;
const EVENT_RESULT = 16;

// One piece of memory: iocbs, pointers to them, events, the context's id, the eventfd's count.
const POINTERS_AT = DEPTH * IOCB;
const EVENTS_AT = POINTERS_AT + DEPTH * 8;
const ID_AT = EVENTS_AT + DEPTH * EVENT;
const COUNT_AT = ID_AT + 8;
const BYTES = COUNT_AT + 8;

/** libaio as an engine. */
export class NativeQueue extends KernelQueue {
  readonly name = "native";
  readonly #memory: Memory;
  readonly #numbers: SyscallNumbers;
  readonly #id: number;
  readonly #eventfd: number;

  private constructor(
    context: Context,
    maxBatch: number,
    memory: Memory,
    id: number,
    eventfd: number,
  ) {
    super(context, maxBatch);
    this.#memory = memory;
    this.#numbers = syscallNumbers(context.sys.arch);
    this.#id = id;
    this.#eventfd = eventfd;
    this.listen(eventfd);
  }

  /** Sets a queue up; -errno where the kernel refuses. */
  static create(context: Context, maxBatch: number): NativeQueue | number {
    const { sys } = context;
    const memory = sys.allocate(BYTES);
    const eventfd = sys.eventfd(0);
    const idAt = memory.address + ID_AT;
    const rc = eventfd < 0 ? eventfd : sys.raw(syscallNumbers(sys.arch).io_setup, DEPTH, idAt);
    if (rc < 0) {
      if (eventfd >= 0) sys.close(eventfd);
      memory.unmap();
      return rc;
    }
    const id = Number(memory.view.getBigUint64(ID_AT, true));
    return new NativeQueue(context, maxBatch, memory, id, eventfd);
  }

  protected fill(slot: number, request: QueuedRequest): void {
    const { view } = this.#memory;
    const { iov, segments } = request;
    const at = slot * IOCB;
    const single = segments === undefined;
    const opcode = request.write ? (single ? PWRITE : PWRITEV) : (single ? PREAD : PREADV);
    view.setBigUint64(at + IOCB_DATA, BigInt(slot), true);
    view.setUint16(at + IOCB_OPCODE, opcode, true);
    view.setInt32(at + IOCB_FD, request.fd, true);
    view.setBigUint64(at + IOCB_BUFFER, BigInt(segments?.address ?? iov.addresses[0]!), true);
    view.setBigUint64(at + IOCB_BYTES, BigInt(single ? iov.total : iov.count), true);
    view.setBigInt64(at + IOCB_OFFSET, BigInt(request.offset), true);
    view.setUint32(at + IOCB_FLAGS, FLAG_EVENTFD, true);
    view.setInt32(at + IOCB_EVENTFD, this.#eventfd, true);
  }

  protected submit(slots: readonly number[]): number {
    const { address, view } = this.#memory;
    slots.forEach((slot, i) => {
      view.setBigUint64(POINTERS_AT + i * 8, BigInt(address + slot * IOCB), true);
    });
    const { sys } = this.context;
    return sys.raw(this.#numbers.io_submit, this.#id, slots.length, address + POINTERS_AT);
  }

  protected reap(): void {
    const { sys } = this.context;
    const { address, view } = this.#memory;
    sys.read(this.#eventfd, address + COUNT_AT, 8);
    for (;;) {
      const events = address + EVENTS_AT;
      const count = sys.raw(this.#numbers.io_getevents, this.#id, 0, DEPTH, events, 0);
      for (let i = 0; i < count; i++) {
        const at = EVENTS_AT + i * EVENT;
        const slot = Number(view.getBigUint64(at + EVENT_DATA, true));
        this.complete(slot, Number(view.getBigInt64(at + EVENT_RESULT, true)));
      }
      if (count < DEPTH) return;
    }
  }

  protected release(): void {
    const { sys } = this.context;
    sys.raw(this.#numbers.io_destroy, this.#id);
    sys.close(this.#eventfd);
    this.#memory.unmap();
  }
}
