/** ringbuf (alias memory): what its frontend sends is kept, the oldest given up first; QMP reads and writes it. */
import { CommandError } from "../base/mod.ts";
import type { Context, Memory } from "../sys/mod.ts";
import { Chardev } from "./chardev.ts";

const DEFAULT_BYTES = 65536;
/** The original dies of a size that it cannot allocate; this is far above any use. */
const MAX_BYTES = 256 << 20;

/** The device. Its memory is its size, whatever is written. */
export class RingbufChardev extends Chardev {
  override readonly supportsOob = false;
  readonly #memory: Memory;
  readonly #size: number;
  /** Where the oldest byte lies, and how many there are. */
  #start = 0;
  #length = 0;

  /** `filename` is the name by which it was asked for. Throws CommandError. */
  constructor(
    context: Context,
    id: string,
    readonly filename: string,
    wanted: number | bigint = 0,
  ) {
    super(context, id);
    const size = BigInt(wanted);
    if (size < 0n || (size & (size - 1n)) !== 0n) {
      throw new CommandError("size of ringbuf chardev must be power of two");
    }
    if (size > MAX_BYTES) {
      throw new CommandError(`size of ringbuf chardev must be at most ${MAX_BYTES}`);
    }
    this.#size = wanted === 0 ? DEFAULT_BYTES : Number(wanted);
    this.#memory = context.sys.allocate(this.#size);
  }

  override get isOpen(): boolean {
    return true;
  }

  /** Takes at most `count` of the oldest bytes. */
  read(count: number): Uint8Array {
    const taken = new Uint8Array(Math.min(count, this.#length));
    const first = Math.min(taken.length, this.#size - this.#start);
    taken.set(this.#memory.bytes.subarray(this.#start, this.#start + first));
    taken.set(this.#memory.bytes.subarray(0, taken.length - first), first);
    this.#start = (this.#start + taken.length) % this.#size;
    this.#length -= taken.length;
    return taken;
  }

  /** Adds bytes from the frontend's side or from QMP. */
  override transmit(bytes: Uint8Array): void {
    const kept = bytes.subarray(Math.max(0, bytes.length - this.#size));
    const end = (this.#start + this.#length) % this.#size;
    const first = Math.min(kept.length, this.#size - end);
    this.#memory.bytes.set(kept.subarray(0, first), end);
    this.#memory.bytes.set(kept.subarray(first), 0);
    const over = Math.max(0, this.#length + kept.length - this.#size);
    this.#start = (this.#start + over) % this.#size;
    this.#length += kept.length - over;
  }

  override disconnect(): void {}

  protected release(): void {
    this.#memory.unmap();
  }
}
