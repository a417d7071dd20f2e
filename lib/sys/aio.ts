/** aio=native: the kernel's AIO calls (io_submit(2)), with completions announced on an eventfd. */
import { type SyscallNumbers, syscallNumbers } from "./constants.ts";
import { Errno } from "./errno.ts";
import {
  type EngineRefused,
  KernelQueue,
  QUEUE_DEPTH,
  type QueueContext,
  type QueueOptions,
  type QueueRequest,
  refused,
} from "./kernel_queue.ts";
import { getI64, getU64, putU64 } from "./layout.ts";
import type { Memory, Sys } from "./types.ts";

/** linux/aio_abi.h */
const CMD = { PREAD: 0, PWRITE: 1, FDSYNC: 3, PREADV: 7, PWRITEV: 8 } as const;
const IOCB_FLAG_RESFD = 1;
const IOCB_SIZE = 64;
const EVENT_SIZE = 32;
/** The ring that the kernel maps at the context's address: id, nr, head, tail, magic (u32 each). */
const RING_HEAD = 2;
const RING_TAIL = 3;
const RING_MAGIC = 4;
const MAGIC = 0xa10a10a1;

/** Where things lie in the native memory of an engine. */
const POINTERS_AT = QUEUE_DEPTH * IOCB_SIZE;
const EVENTS_AT = POINTERS_AT + QUEUE_DEPTH * 8;
const TIMEOUT_AT = EVENTS_AT + QUEUE_DEPTH * EVENT_SIZE;
const SIZE = TIMEOUT_AT + 16;

const HINTS: Record<number, string> = {
  [Errno.EAGAIN]: "too many AIO contexts: raise the sysctl fs.aio-max-nr",
  [Errno.ENOSYS]: "the kernel was built without CONFIG_AIO, or a seccomp filter hides it",
  [Errno.EPERM]: "forbidden here: a container's seccomp filter",
};

/** AsyncIo over io_submit. Truly asynchronous only on files opened with O_DIRECT. */
export class AioIo extends KernelQueue {
  readonly engine = "native";
  readonly #numbers: SyscallNumbers;
  readonly #ctx: number;
  readonly #memory: Memory;
  readonly #ring: Uint32Array | undefined;

  /** Use `openAio`. `ctx`: the kernel's aio_context_t. */
  constructor(context: QueueContext, eventFd: number, ctx: number, options?: QueueOptions) {
    super(context, eventFd, options);
    this.#numbers = syscallNumbers(context.sys.arch);
    this.#ctx = ctx;
    this.#memory = this.sys.allocate(SIZE);
    const ring = this.sys.viewAt(ctx, 32);
    const words = new Uint32Array(ring.buffer, ring.byteOffset, 8);
    this.#ring = words[RING_MAGIC] === MAGIC ? words : undefined;
    this.attach();
  }

  /** As AsyncIo; file systems without asynchronous fsync get one on the thread pool. */
  override async fdatasync(fd: number): Promise<number> {
    const rc = await super.fdatasync(fd);
    return rc === -Errno.EINVAL ? await this.sys.pool.fdatasync(fd) : rc;
  }

  protected override fill(slot: number, request: QueueRequest): void {
    const { view } = this.#memory;
    const at = slot * IOCB_SIZE;
    for (let word = 0; word < IOCB_SIZE; word += 4) view.setUint32(at + word, 0, true);
    view.setUint32(at, slot, true);
    view.setInt32(at + 20, request.fd, true);
    view.setUint32(at + 56, IOCB_FLAG_RESFD, true);
    view.setInt32(at + 60, this.eventFd, true);
    if (request.op === "fdatasync") {
      view.setUint16(at + 16, CMD.FDSYNC, true);
    } else {
      const single = request.count === 1;
      const read = request.op === "readv";
      const opcode = single ? (read ? CMD.PREAD : CMD.PWRITE) : (read ? CMD.PREADV : CMD.PWRITEV);
      view.setUint16(at + 16, opcode, true);
      putU64(view, at + 24, request.address);
      putU64(view, at + 32, single ? request.length : request.count);
      putU64(view, at + 40, request.offset);
    }
  }

  protected override submit(slots: readonly number[], count: number): number {
    const { view, address } = this.#memory;
    for (let i = 0; i < count; i++) {
      putU64(view, POINTERS_AT + 8 * i, address + slots[i]! * IOCB_SIZE);
    }
    return this.sys.raw(this.#numbers.io_submit, this.#ctx, count, address + POINTERS_AT);
  }

  protected override reap(): boolean {
    let any = false;
    while (!this.#empty()) {
      const { view, address } = this.#memory;
      const count = this.sys.raw(
        this.#numbers.io_getevents,
        this.#ctx,
        0,
        QUEUE_DEPTH,
        address + EVENTS_AT,
        address + TIMEOUT_AT, // zero: does not wait
      );
      if (count <= 0) break;
      any = true;
      for (let i = 0; i < count; i++) {
        const at = EVENTS_AT + i * EVENT_SIZE;
        this.complete(getU64(view, at), getI64(view, at + 16));
      }
    }
    return any;
  }

  /** Looks into the kernel's ring: no call when nothing has completed. */
  #empty(): boolean {
    const ring = this.#ring;
    return ring !== undefined && Atomics.load(ring, RING_HEAD) === Atomics.load(ring, RING_TAIL);
  }

  protected override dispose(): void {
    this.sys.raw(this.#numbers.io_destroy, this.#ctx);
    this.#memory.unmap();
  }
}

/** Kernel AIO for `context`, or why not. */
export function openAio(
  context: QueueContext,
  options?: QueueOptions,
): AioIo | EngineRefused {
  const { sys } = context;
  const ctx = setup(sys);
  if (ctx < 0) return refused("io_setup", -ctx, HINTS);
  const eventFd = sys.eventfd(0);
  if (eventFd < 0) {
    sys.raw(syscallNumbers(sys.arch).io_destroy, ctx);
    return refused("eventfd", -eventFd, HINTS);
  }
  return new AioIo(context, eventFd, ctx, options);
}

/** io_setup: the context's address, or -errno. */
function setup(sys: Sys): number {
  const out = sys.allocate(8);
  const rc = sys.raw(syscallNumbers(sys.arch).io_setup, QUEUE_DEPTH, out.address);
  const ctx = getU64(out.view, 0);
  out.unmap();
  return rc < 0 ? rc : ctx;
}

/** Whether kernel AIO can be had: undefined, or why not. */
export function probeAio(sys: Sys): EngineRefused | undefined {
  const ctx = setup(sys);
  if (ctx < 0) return refused("io_setup", -ctx, HINTS);
  sys.raw(syscallNumbers(sys.arch).io_destroy, ctx);
  return undefined;
}
