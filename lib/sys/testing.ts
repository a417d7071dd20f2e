/** For tests of decoders that are given native memory. */
import assert from "node:assert/strict";
import { type Codec, openCodec } from "./compress.ts";
import type { Libdeflate } from "./libdeflate.ts";
import { LinuxSys, type Memory } from "./mod.ts";

const PAGE = 4096;
/** Bytes that streams are to make. */
export const ROOM = 2 * PAGE;
const INPUT = 8 * PAGE;

/** A library's decoder and the runtime's, and memory whose next page nobody may touch: a byte too far ends the process. */
export class GuardedStreams implements Disposable {
  readonly sys = new LinuxSys();
  readonly #slow: Codec;
  readonly #libc = Deno.dlopen("libc.so.6", {
    mprotect: { parameters: ["usize", "usize", "i32"], result: "i32" },
  });
  readonly #input: Memory;
  readonly #output: Memory;
  readonly #expected = new Uint8Array(ROOM);

  constructor(
    private readonly fast: Pick<Libdeflate, "decode" | "close">,
    kind: "inflate" | "zstd-decode",
  ) {
    this.#slow = openCodec(kind);
    this.#input = this.#guarded(INPUT);
    this.#output = this.#guarded(ROOM);
  }

  #guarded(length: number): Memory {
    const memory = this.sys.allocate(length + PAGE);
    const guard = BigInt(memory.address + length);
    assert.equal(this.#libc.symbols.mprotect(guard, BigInt(PAGE), 0), 0);
    return memory;
  }

  /** What both make of a stream that ends where its memory does. */
  run(stream: Uint8Array): { filled: boolean; done: number; alike: boolean } {
    const from = INPUT - stream.length;
    this.#input.bytes.set(stream, from);
    const filled = this.fast.decode(
      this.#input.address + from,
      stream.length,
      this.#output.address,
      ROOM,
    );
    const done = this.#slow.run(stream, this.#expected);
    const made = this.#output.bytes.subarray(0, ROOM);
    return { filled, done, alike: filled && made.every((byte, at) => byte === this.#expected[at]) };
  }

  [Symbol.dispose](): void {
    this.fast.close();
    this.#slow.close();
    this.#input.unmap();
    this.#output.unmap();
    this.#libc.close();
    this.sys.dispose();
  }
}

/** A random number below a limit. */
export type Below = (limit: number) => number;

/** Changes bits and bytes of a copy, most of them where the codes are described, and cuts it off at times. */
export function broken(stream: Uint8Array, below: Below): Uint8Array {
  const bytes = stream.slice(0, below(5) === 0 ? 1 + below(stream.length) : stream.length);
  for (let changes = below(4); changes > 0; changes--) {
    const at = below(below(2) === 0 ? Math.min(bytes.length, 80) : bytes.length);
    bytes[at] = below(2) === 0 ? bytes[at]! ^ 1 << below(8) : below(256);
  }
  return bytes;
}
