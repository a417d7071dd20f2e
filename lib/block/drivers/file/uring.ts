/** aio=io_uring: submission and completion rings shared with the kernel (io_uring_setup(2), linux/io_uring.h). */
import { assert } from "../../../base/mod.ts";
import {
  type Context,
  Errno,
  type Memory,
  type SyscallNumbers,
  syscallNumbers,
} from "../../../sys/mod.ts";
import { DEPTH, KernelQueue, type QueuedRequest } from "./queue.ts";

// struct io_uring_params, and the offsets that the kernel fills into it
const PARAMS = 120;
const P_SQ_ENTRIES = 0;
const P_CQ_ENTRIES = 4;
const P_FEATURES = 20;
const P_SQ_TAIL = 44;
const P_SQ_MASK = 48;
const P_SQ_ARRAY = 64;
const P_CQ_HEAD = 80;
const P_CQ_TAIL = 84;
const P_CQ_MASK = 88;
const P_CQES = 100;
/** Both rings in one mapping (5.4), no completion is dropped (5.5). */
const FEATURES = 1 | 2;
const OFF_RINGS = 0;
const OFF_SQES = 0x10000000;

// struct io_uring_sqe
const SQE = 64;
const SQE_OPCODE = 0;
const SQE_FD = 4;
const SQE_OFFSET = 8;
const SQE_ADDRESS = 16;
const SQE_LENGTH = 24;
const SQE_DATA = 32;
const READV = 1;
const WRITEV = 2;
const READ = 22;
const WRITE = 23;
/** struct io_uring_cqe: data (64 bit), result (32 bit), flags. */
const CQE = 16;

/** Where things lie in the mapped rings, in 32-bit words. */
interface Layout {
  readonly sqTail: number;
  readonly sqMask: number;
  readonly sqArray: number;
  readonly cqHead: number;
  readonly cqTail: number;
  readonly cqMask: number;
  readonly cqes: number;
}

/** io_uring as an engine. */
export class UringQueue extends KernelQueue {
  readonly name = "io_uring";
  readonly #numbers: SyscallNumbers;
  readonly #words: Uint32Array;
  #sqTail: number;
  #cqHead: number;

  private constructor(
    context: Context,
    maxBatch: number,
    readonly ring: number,
    readonly rings: Memory,
    readonly sqes: Memory,
    readonly layout: Layout,
  ) {
    super(context, maxBatch);
    this.#numbers = syscallNumbers(context.sys.arch);
    const { buffer, byteOffset, byteLength } = rings.bytes;
    this.#words = new Uint32Array(buffer, byteOffset, byteLength >> 2);
    this.#sqTail = Atomics.load(this.#words, layout.sqTail);
    this.#cqHead = Atomics.load(this.#words, layout.cqHead);
    this.listen(ring);
  }

  /** Sets a ring up; -errno where the kernel, or what confines us, refuses. */
  static create(context: Context, maxBatch: number): UringQueue | number {
    const { sys } = context;
    const params = sys.allocate(PARAMS);
    try {
      const numbers = syscallNumbers(sys.arch);
      const ring = sys.raw(numbers.io_uring_setup, DEPTH, params.address);
      if (ring < 0) return ring;
      const mapped = mapRings(context, ring, params.view);
      if (typeof mapped === "number") {
        sys.close(ring);
        return mapped;
      }
      return new UringQueue(context, maxBatch, ring, mapped.rings, mapped.sqes, mapped.layout);
    } finally {
      params.unmap();
    }
  }

  protected fill(slot: number, request: QueuedRequest): void {
    const { view } = this.sqes;
    const { iov, segments } = request;
    // Entry `slot` is ours until its completion: there are as many entries as slots.
    const at = slot * SQE;
    const single = segments === undefined;
    const opcode = request.write ? (single ? WRITE : WRITEV) : (single ? READ : READV);
    view.setUint32(at + SQE_OPCODE, opcode, true); // flags and priority 0 with it
    view.setInt32(at + SQE_FD, request.fd, true);
    view.setBigUint64(at + SQE_OFFSET, BigInt(request.offset), true);
    view.setBigUint64(at + SQE_ADDRESS, BigInt(segments?.address ?? iov.addresses[0]!), true);
    view.setUint32(at + SQE_LENGTH, single ? iov.total : iov.count, true);
    view.setBigUint64(at + SQE_DATA, BigInt(slot), true);
  }

  protected submit(slots: readonly number[]): number {
    const { sqMask, sqArray, sqTail } = this.layout;
    const words = this.#words;
    for (const slot of slots) {
      words[sqArray + (this.#sqTail & words[sqMask]!)] = slot;
      this.#sqTail = (this.#sqTail + 1) >>> 0;
    }
    Atomics.store(words, sqTail, this.#sqTail);
    const { sys } = this.context;
    const rc = sys.raw(this.#numbers.io_uring_enter, this.ring, slots.length, 0, 0, 0, 0);
    // What was not taken is taken back (the kernel looks only during the call): it will be put in again, or fail.
    const left = slots.length - Math.max(rc, 0);
    if (left > 0) {
      this.#sqTail = (this.#sqTail - left) >>> 0;
      Atomics.store(words, sqTail, this.#sqTail);
    }
    return rc;
  }

  protected reap(): void {
    const { cqHead, cqTail, cqMask, cqes } = this.layout;
    const words = this.#words;
    const mask = words[cqMask]!;
    const tail = Atomics.load(words, cqTail);
    while (this.#cqHead !== tail) {
      const at = cqes + (this.#cqHead & mask) * (CQE / 4);
      const slot = words[at]!;
      const rc = words[at + 2]! | 0;
      this.#cqHead = (this.#cqHead + 1) >>> 0;
      Atomics.store(words, cqHead, this.#cqHead);
      assert(slot < DEPTH);
      this.complete(slot, rc);
    }
  }

  protected release(): void {
    this.sqes.unmap();
    this.rings.unmap();
    this.context.sys.close(this.ring);
  }
}

function mapRings(
  context: Context,
  ring: number,
  params: DataView,
): { rings: Memory; sqes: Memory; layout: Layout } | number {
  const word = (at: number) => params.getUint32(at, true);
  if ((word(P_FEATURES) & FEATURES) !== FEATURES) return -Errno.ENOSYS;
  const sqEntries = word(P_SQ_ENTRIES);
  assert(sqEntries >= DEPTH);
  const end = Math.max(word(P_SQ_ARRAY) + sqEntries * 4, word(P_CQES) + word(P_CQ_ENTRIES) * CQE);
  const rings = context.sys.map(ring, OFF_RINGS, end, true);
  if (typeof rings === "number") return rings;
  const sqes = context.sys.map(ring, OFF_SQES, sqEntries * SQE, true);
  if (typeof sqes === "number") {
    rings.unmap();
    return sqes;
  }
  const index = (at: number) => word(at) >> 2;
  const masks = new Uint32Array(rings.bytes.buffer, rings.bytes.byteOffset, rings.length >> 2);
  assert(masks[index(P_SQ_MASK)] === sqEntries - 1, "io_uring rings are not where they were said");
  const layout = {
    sqTail: index(P_SQ_TAIL),
    sqMask: index(P_SQ_MASK),
    sqArray: index(P_SQ_ARRAY),
    cqHead: index(P_CQ_HEAD),
    cqTail: index(P_CQ_TAIL),
    cqMask: index(P_CQ_MASK),
    cqes: index(P_CQES),
  };
  return { rings, sqes, layout };
}
