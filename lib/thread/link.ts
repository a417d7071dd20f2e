/**
 * Requests from one context (the client) to the nodes of another (the server), in shared memory: slots that hold one
 * request each, and two rings of slot numbers, one for each direction. A slot belongs to the client from the moment it
 * takes it until it has seen its completion, and to the server in between; nobody else touches it. The rings have
 * room for all slots, so that neither side ever waits for the other to make room.
 *
 * A message carries addresses, never data.
 */
import { BlockError, IoVec } from "../base/mod.ts";
import type {
  BlockNodeInfo,
  BlockStatus,
  NodeChannel,
  NodeRequest,
  ServedNodes,
} from "../block/mod.ts";
import { MESSAGE_SEGMENTS, NodeOp } from "../block/mod.ts";

/** Requests under way at once; more wait in the client. */
const SLOTS = 128;
/** Numbers in a slot. */
const SLOT_NUMBERS = 256;
/** Where things are in a slot: of a request... */
const At = { op: 0, handle: 1, offset: 2, length: 3, flags: 4, segments: 5, first: 6 } as const;
/** ...and of its completion. */
const Done = {
  failed: 0,
  length: 1,
  bits: 2,
  offset: 3,
  file: 4,
  depth: 5,
  textLength: 1,
  text: 2,
} as const;
const TEXT_BYTES = (SLOT_NUMBERS - Done.text) * 8;
/** Bits of a block status. */
const StatusBit = { allocated: 1, data: 2, zero: 4, placed: 8 } as const;
/** words[0]: how many requests were ever submitted; words[1]: how many completed; then the two rings. */
const SUBMITTED = 0;
const COMPLETED = 1;
const SUBMISSIONS = 2;
const COMPLETIONS = SUBMISSIONS + SLOTS;

/** The shared memory of a link: plain data, to be posted to another thread. */
export interface LinkMemory {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly slots: Float64Array<SharedArrayBuffer>;
}

/** Memory for a new link. */
export function linkMemory(): LinkMemory {
  return {
    words: new Int32Array(new SharedArrayBuffer(4 * (COMPLETIONS + SLOTS))),
    slots: new Float64Array(new SharedArrayBuffer(8 * SLOTS * SLOT_NUMBERS)),
  };
}

/** A request that has no slot, or no answer, yet. */
interface Pending {
  readonly request: NodeRequest;
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/** The asking side. */
export class LinkClient implements NodeChannel {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #slots: Float64Array<SharedArrayBuffer>;
  readonly #free: number[] = [];
  readonly #pending: (Pending | undefined)[] = new Array(SLOTS).fill(undefined);
  readonly #waiting: Pending[] = [];
  readonly #ring: () => void;
  readonly #find: (handle: number) => BlockNodeInfo | undefined;
  readonly #surrender: (address: number) => void;
  #seen = 0;
  #failure: string | undefined;

  /** `ring` wakes the server; `find` knows nodes by their number; `surrender`: see BufferPool. */
  constructor(
    memory: LinkMemory,
    ring: () => void,
    find: (handle: number) => BlockNodeInfo | undefined,
    surrender: (address: number) => void,
  ) {
    this.#words = memory.words;
    this.#slots = memory.slots;
    this.#ring = ring;
    this.#find = find;
    this.#surrender = surrender;
    for (let slot = SLOTS - 1; slot >= 0; slot--) this.#free.push(slot);
  }

  /** Requests that have not been answered. */
  get inFlight(): number {
    return SLOTS - this.#free.length + this.#waiting.length;
  }

  request(request: NodeRequest): Promise<void> {
    return new Promise((resolve, reject) => {
      const pending = { request, resolve, reject };
      if (this.#failure !== undefined) reject(lost(this.#failure, request));
      else if (this.#free.length === 0) this.#waiting.push(pending);
      else {
        this.#submit(pending);
        this.#ring();
      }
    });
  }

  #submit(pending: Pending): void {
    const slot = this.#free.pop()!;
    this.#pending[slot] = pending;
    const { request } = pending;
    const base = slot * SLOT_NUMBERS;
    const slots = this.#slots;
    slots[base + At.op] = request.op;
    slots[base + At.handle] = request.handle;
    slots[base + At.offset] = request.offset;
    slots[base + At.length] = request.length;
    slots[base + At.flags] = request.flags;
    const { iov } = request;
    const count = iov?.count ?? 0;
    slots[base + At.segments] = count;
    for (let i = 0; i < count; i++) {
      slots[base + At.first + 2 * i] = iov!.addresses[i]!;
      slots[base + At.first + 2 * i + 1] = iov!.lengths[i]!;
    }
    const submitted = Atomics.load(this.#words, SUBMITTED);
    this.#words[SUBMISSIONS + (submitted >>> 0) % SLOTS] = slot;
    Atomics.store(this.#words, SUBMITTED, (submitted + 1) | 0);
  }

  /** Looks for answers. */
  poll(): void {
    const completed = Atomics.load(this.#words, COMPLETED);
    if (completed === this.#seen) return;
    while (this.#seen !== completed) {
      const slot = this.#words[COMPLETIONS + (this.#seen >>> 0) % SLOTS]!;
      this.#seen = (this.#seen + 1) | 0;
      const pending = this.#pending[slot];
      this.#pending[slot] = undefined;
      if (pending !== undefined) this.#finish(pending, slot * SLOT_NUMBERS);
      this.#free.push(slot);
    }
    let submitted = false;
    while (this.#waiting.length > 0 && this.#free.length > 0) {
      this.#submit(this.#waiting.shift()!);
      submitted = true;
    }
    if (submitted) this.#ring();
  }

  #finish({ request: { op, out }, resolve, reject }: Pending, base: number): void {
    const slots = this.#slots;
    if (slots[base + Done.failed] !== 0) return reject(readError(slots, base));
    if (out !== undefined) {
      const bits = slots[base + Done.bits]!;
      out.length = slots[base + Done.length]!;
      if (op === NodeOp.depth) out.depth = slots[base + Done.depth]!;
      out.allocated = (bits & StatusBit.allocated) !== 0;
      out.data = (bits & StatusBit.data) !== 0;
      out.zero = (bits & StatusBit.zero) !== 0;
      const file = (bits & StatusBit.placed) === 0
        ? undefined
        : this.#find(slots[base + Done.file]!);
      if (file === undefined) {
        delete out.offset;
        delete out.file;
      } else {
        out.offset = slots[base + Done.offset]!;
        out.file = file;
      }
    }
    resolve();
  }

  /** The server is gone: whatever has no answer fails, now and from now on. */
  fail(why: string): void {
    this.#failure = why;
    for (const pending of this.#pending) {
      if (pending === undefined) continue;
      const { request, reject } = pending;
      // The kernel, or a thread that inflates, may be at work there for it.
      for (let i = 0; i < (request.iov?.count ?? 0); i++) {
        this.#surrender(request.iov!.addresses[i]!);
      }
      reject(lost(why, request));
    }
    this.#pending.fill(undefined);
    for (const { request, reject } of this.#waiting.splice(0)) reject(lost(why, request));
  }
}

/** A request in its slot's objects, which serve one after the other. */
interface SlotRequest extends NodeRequest {
  readonly iov: IoVec;
  readonly out: BlockStatus;
}

/** The answering side. */
export class LinkServer {
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #slots: Float64Array<SharedArrayBuffer>;
  readonly #ring: () => void;
  readonly #nodes: Pick<ServedNodes, "execute" | "handleOf">;
  /** One for each slot. */
  readonly #requests: SlotRequest[] = [];
  #seen = 0;

  /** `ring` wakes the client. */
  constructor(
    memory: LinkMemory,
    ring: () => void,
    nodes: Pick<ServedNodes, "execute" | "handleOf">,
  ) {
    this.#words = memory.words;
    this.#slots = memory.slots;
    this.#ring = ring;
    this.#nodes = nodes;
    for (let slot = 0; slot < SLOTS; slot++) {
      const out = { length: 0, allocated: false, data: false, zero: false };
      const iov = new IoVec();
      this.#requests.push({ op: 0, handle: 0, offset: 0, length: 0, flags: 0, iov, out });
    }
  }

  /** Looks for requests. */
  poll(): void {
    const submitted = Atomics.load(this.#words, SUBMITTED);
    let answered = false;
    while (this.#seen !== submitted) {
      const slot = this.#words[SUBMISSIONS + (this.#seen >>> 0) % SLOTS]!;
      this.#seen = (this.#seen + 1) | 0;
      answered = this.#serve(slot) || answered;
    }
    if (answered) this.#ring();
  }

  /** Whether it was answered at once. */
  #serve(slot: number): boolean {
    const base = slot * SLOT_NUMBERS;
    const slots = this.#slots;
    const request = this.#requests[slot]!;
    request.op = slots[base + At.op]!;
    request.handle = slots[base + At.handle]!;
    request.offset = slots[base + At.offset]!;
    request.length = slots[base + At.length]!;
    request.flags = slots[base + At.flags]!;
    const iov = request.iov.reset();
    const count = Math.min(slots[base + At.segments]!, MESSAGE_SEGMENTS);
    for (let i = 0; i < count; i++) {
      iov.add(slots[base + At.first + 2 * i]!, slots[base + At.first + 2 * i + 1]!);
    }
    try {
      const result = this.#nodes.execute(request);
      if (result !== undefined) {
        result.then(
          () => this.#done(slot, request),
          (error) => this.#failed(slot, error),
        ).then(() => this.#ring());
        return false;
      }
      this.#done(slot, request);
    } catch (error) {
      this.#failed(slot, error);
    }
    return true;
  }

  #done(slot: number, { op, out }: SlotRequest): void {
    const base = slot * SLOT_NUMBERS;
    const slots = this.#slots;
    if (op === NodeOp.status || op === NodeOp.depth) {
      let bits = (out.allocated ? StatusBit.allocated : 0) | (out.data ? StatusBit.data : 0) |
        (out.zero ? StatusBit.zero : 0);
      if (out.offset !== undefined && out.file !== undefined) {
        bits |= StatusBit.placed;
        slots[base + Done.offset] = out.offset;
        slots[base + Done.file] = this.#nodes.handleOf(out.file);
      }
      slots[base + Done.length] = out.length;
      slots[base + Done.depth] = out.depth ?? 0;
      slots[base + Done.bits] = bits;
    }
    slots[base + Done.failed] = 0;
    this.#complete(slot);
  }

  #failed(slot: number, error: unknown): void {
    writeError(this.#slots, slot * SLOT_NUMBERS, error);
    this.#complete(slot);
  }

  #complete(slot: number): void {
    const completed = Atomics.load(this.#words, COMPLETED);
    this.#words[COMPLETIONS + (completed >>> 0) % SLOTS] = slot;
    Atomics.store(this.#words, COMPLETED, (completed + 1) | 0);
  }
}

function lost(why: string, { op, offset }: NodeRequest): BlockError {
  const name = Object.entries(NodeOp).find(([, value]) => value === op)?.[0] ?? "request";
  return new BlockError("EIO", why, { op: name, offset });
}

/** Errors travel as JSON; what is longer than a slot is cut. */
function writeError(slots: Float64Array<SharedArrayBuffer>, base: number, error: unknown): void {
  const known = error instanceof BlockError
    ? error
    : new BlockError("EIO", error instanceof Error ? error.message : String(error));
  const { errno, message, node, op, offset } = known;
  const text = JSON.stringify({ errno, message: message.slice(0, 200), node, op, offset });
  const bytes = new TextEncoder().encode(text).subarray(0, TEXT_BYTES);
  new Uint8Array(slots.buffer, (base + Done.text) * 8, bytes.length).set(bytes);
  slots[base + Done.textLength] = bytes.length;
  slots[base + Done.failed] = 1;
}

function readError(slots: Float64Array<SharedArrayBuffer>, base: number): BlockError {
  const length = slots[base + Done.textLength]!;
  const bytes = new Uint8Array(slots.buffer, (base + Done.text) * 8, length).slice();
  const { errno, message, ...context } = JSON.parse(new TextDecoder().decode(bytes));
  return new BlockError(errno, message, context);
}
