/** aio=io_uring: the rings of io_uring(7), driven directly through shared memory. */
import { assert } from "../base/mod.ts";
import { type SyscallNumbers, syscallNumbers } from "./constants.ts";
import { Errno } from "./errno.ts";
import {
  type AsyncIo,
  type EngineRefused,
  KernelQueue,
  QUEUE_DEPTH,
  type QueueContext,
  type QueueOptions,
  type QueueRequest,
  refused,
} from "./kernel_queue.ts";
import { putU64 } from "./layout.ts";
import { silentPoints, type UringTraces, uringTraces } from "./traces.ts";
import type { Memory, Sys } from "./types.ts";

/** linux/io_uring.h */
const OP = { READV: 1, WRITEV: 2, FSYNC: 3, READ: 22, WRITE: 23 } as const;
const FSYNC_DATASYNC = 1;
const OFF_SQ_RING = 0;
const OFF_CQ_RING = 0x8000000;
const OFF_SQES = 0x10000000;
const REGISTER_EVENTFD = 4;
const SQE_SIZE = 64;
const CQE_SIZE = 16;
const PARAMS_SIZE = 120;
const SQ_OFFSETS = 40;
const CQ_OFFSETS = 80;

const HINTS: Record<number, string> = {
  [Errno.EPERM]:
    "forbidden here: a container's seccomp filter, or the sysctl kernel.io_uring_disabled",
  [Errno.ENOSYS]: "the kernel does not have it, or a seccomp filter hides it",
  [Errno.ENOMEM]: "out of locked memory: raise RLIMIT_MEMLOCK",
  [Errno.EACCES]: "forbidden by a security module",
};

/** The rings, mapped. All indices are in units of u32 words of their mapping. */
interface Rings {
  readonly fd: number;
  readonly mappings: readonly Memory[];
  readonly sq: Uint32Array;
  readonly cq: Uint32Array;
  readonly sqes: DataView;
  readonly sqTail: number;
  readonly sqMask: number;
  readonly sqArray: number;
  readonly cqHead: number;
  readonly cqTail: number;
  readonly cqMask: number;
  readonly cqes: number;
}

/** AsyncIo over io_uring. */
export class UringIo extends KernelQueue {
  readonly engine = "io_uring";
  readonly #rings: Rings;
  readonly #numbers: SyscallNumbers;
  readonly #traces: UringTraces;
  /** Our end of the submission ring. */
  #tail: number;

  /** Use `openUring`. */
  constructor(context: QueueContext, eventFd: number, rings: Rings, options?: QueueOptions) {
    super(context, eventFd, options);
    this.#rings = rings;
    this.#numbers = syscallNumbers(context.sys.arch);
    this.#tail = rings.sq[rings.sqTail]!;
    this.#traces = uringTraces(context.trace ?? silentPoints());
    const { init } = this.#traces;
    if (init.enabled) init.emit(`fd ${rings.fd}`);
    this.attach();
  }

  protected override fill(slot: number, request: QueueRequest): void {
    const { sqes } = this.#rings;
    // There are as many entries as slots: entry `slot` is ours until its request has completed.
    const at = slot * SQE_SIZE;
    const { op, count } = request;
    const trace = this.#traces.request;
    if (trace.enabled) {
      trace.emit(`slot ${slot} ${op} fd ${request.fd} offset ${request.offset} segments ${count}`);
    }
    for (let word = 0; word < SQE_SIZE; word += 4) sqes.setUint32(at + word, 0, true);
    sqes.setInt32(at + 4, request.fd, true);
    putU64(sqes, at + 8, request.offset);
    sqes.setUint32(at + 32, slot, true);
    if (op === "fdatasync") {
      sqes.setUint8(at, OP.FSYNC);
      sqes.setUint32(at + 28, FSYNC_DATASYNC, true);
    } else {
      const single = count === 1;
      const read = op === "readv";
      const opcode = single ? (read ? OP.READ : OP.WRITE) : (read ? OP.READV : OP.WRITEV);
      sqes.setUint8(at, opcode);
      putU64(sqes, at + 16, request.address);
      sqes.setUint32(at + 24, single ? request.length : count, true);
    }
  }

  protected override submit(slots: readonly number[], count: number): number {
    const { sq, sqArray, sqMask, sqTail, fd } = this.#rings;
    for (let i = 0; i < count; i++) sq[sqArray + ((this.#tail + i) & sqMask)] = slots[i]!;
    Atomics.store(sq, sqTail, (this.#tail + count) >>> 0);
    const rc = this.sys.raw(this.#numbers.io_uring_enter, fd, count, 0, 0, 0, 0);
    // What was not taken is taken back: without SQPOLL the kernel looks at the ring only during the call.
    this.#tail = (this.#tail + Math.max(rc, 0)) >>> 0;
    if (rc !== count) Atomics.store(sq, sqTail, this.#tail);
    const { submitted } = this.#traces;
    if (submitted.enabled) submitted.emit(`submitted to kernel ${rc} of ${count}`);
    return rc;
  }

  protected override reap(): boolean {
    const { cq, cqHead, cqTail, cqMask, cqes } = this.#rings;
    let head = cq[cqHead]!;
    if (head === Atomics.load(cq, cqTail)) return false;
    do {
      const at = cqes + ((head & cqMask) * CQE_SIZE) / 4;
      const slot = cq[at]!;
      const result = cq[at + 2]! | 0;
      head = (head + 1) >>> 0;
      // The entry is given back first: completing its request may submit another one, which will want an entry.
      Atomics.store(cq, cqHead, head);
      const { completion } = this.#traces;
      if (completion.enabled) completion.emit(`slot ${slot} ret ${result}`);
      this.complete(slot, result);
    } while (head !== Atomics.load(cq, cqTail));
    return true;
  }

  protected override dispose(): void {
    const { cleanup } = this.#traces;
    if (cleanup.enabled) cleanup.emit(`fd ${this.#rings.fd}`);
    for (const mapping of this.#rings.mappings) mapping.unmap();
    this.sys.close(this.#rings.fd);
  }
}

/** io_uring for `context`, or why not. */
export function openUring(
  context: QueueContext,
  options?: QueueOptions,
): UringIo | EngineRefused {
  const { sys } = context;
  const numbers = syscallNumbers(sys.arch);
  const params = sys.allocate(PARAMS_SIZE);
  try {
    const fd = sys.raw(numbers.io_uring_setup, QUEUE_DEPTH, params.address);
    if (fd < 0) return refused("io_uring_setup", -fd, HINTS);
    const rings = mapRings(sys, fd, params.view);
    if (typeof rings === "number") {
      sys.close(fd);
      return refused("mmap of the rings", -rings, HINTS);
    }
    const eventFd = sys.eventfd(0);
    let rc = eventFd;
    if (eventFd >= 0) {
      params.view.setInt32(0, eventFd, true);
      const { io_uring_register } = numbers;
      rc = sys.raw(io_uring_register, fd, REGISTER_EVENTFD, params.address, 1);
    }
    if (rc >= 0) return new UringIo(context, eventFd, rings, options);
    if (eventFd >= 0) sys.close(eventFd);
    for (const mapping of rings.mappings) mapping.unmap();
    sys.close(fd);
    return refused("io_uring_register", -rc, HINTS);
  } finally {
    params.unmap();
  }
}

function mapRings(sys: Sys, fd: number, params: DataView): Rings | number {
  const word = (at: number) => params.getUint32(at, true);
  const sqEntries = word(0);
  assert(sqEntries >= QUEUE_DEPTH);
  const cqEntries = word(4);
  const sqSize = word(SQ_OFFSETS + 24) + sqEntries * 4;
  const cqSize = word(CQ_OFFSETS + 20) + cqEntries * CQE_SIZE;
  const mappings: Memory[] = [];
  for (
    const [offset, size] of [
      [OFF_SQ_RING, sqSize],
      [OFF_CQ_RING, cqSize],
      [OFF_SQES, sqEntries * SQE_SIZE],
    ] as const
  ) {
    const mapped = sys.map(fd, offset, size, true);
    if (typeof mapped === "number") {
      for (const mapping of mappings) mapping.unmap();
      return mapped;
    }
    mappings.push(mapped);
  }
  const [sqRing, cqRing, sqes] = mappings as [Memory, Memory, Memory];
  const sq = new Uint32Array(sqRing.bytes.buffer, 0, sqSize >> 2);
  const cq = new Uint32Array(cqRing.bytes.buffer, 0, cqSize >> 2);
  return {
    fd,
    mappings,
    sq,
    cq,
    sqes: sqes.view,
    sqTail: word(SQ_OFFSETS + 4) / 4,
    sqMask: sq[word(SQ_OFFSETS + 8) / 4]!,
    sqArray: word(SQ_OFFSETS + 24) / 4,
    cqHead: word(CQ_OFFSETS) / 4,
    cqTail: word(CQ_OFFSETS + 4) / 4,
    cqMask: cq[word(CQ_OFFSETS + 8) / 4]!,
    cqes: word(CQ_OFFSETS + 20) / 4,
  };
}

/** Whether io_uring can be had: undefined, or why not. */
export function probeUring(sys: Sys): EngineRefused | undefined {
  const params = sys.allocate(PARAMS_SIZE);
  const fd = sys.raw(syscallNumbers(sys.arch).io_uring_setup, 1, params.address);
  params.unmap();
  if (fd < 0) return refused("io_uring_setup", -fd, HINTS);
  sys.close(fd);
  return undefined;
}

/** Whether an engine was refused. */
export function isRefused(engine: AsyncIo | EngineRefused): engine is EngineRefused {
  return "reason" in engine;
}
