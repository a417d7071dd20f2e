/**
 * Compression: zlib's raw deflate and zstd, as Node's zlib module has them, straight from one piece of memory
 * into another. Node's public functions collect their output on the JS heap, in buffers that they let grow; the
 * handle below them (which its own streams use) writes into the memory that it is given and never past it.
 */
import type * as Zlib from "node:zlib";
import { assert } from "../base/mod.ts";

/** The formats, by direction. Raw deflate: no zlib header. Zstd: one frame a call. */
export type CodecKind = "inflate" | "deflate" | "zstd-decode" | "zstd-encode";

/** A coder or decoder; used for one whole stream a call, any number of times. */
export interface Codec {
  /**
   * Bytes written to `output`: all of it when it is full, whether or not the stream goes on; less when the stream
   * or the input ends before. -1 where the stream breaks the rules of its format. Input that is left is ignored.
   */
  run(input: Uint8Array, output: Uint8Array): number;
  /** Gives the codec's memory back. */
  close(): void;
}

/** Node's handle below a zlib stream. `_writeState` of the stream: bytes left of the output, and of the input. */
interface Handle {
  writeSync(
    flush: number,
    input: Uint8Array,
    inputAt: number,
    inputLength: number,
    output: Uint8Array,
    outputAt: number,
    outputLength: number,
  ): void;
  reset(): void;
  close(): void;
  onerror: (message: string) => void;
}
interface Stream {
  readonly _handle: Handle;
  readonly _writeState: Uint32Array;
}

/** What Deno offers of Node's `process`. */
interface Builtins {
  getBuiltinModule(name: "node:zlib"): typeof Zlib;
}

/** Window of deflated clusters: 2^12 bytes, as readers of qcow2 images expect. Larger ones are read. */
const DEFLATE_WINDOW = 12;
const READ_WINDOW = 15;

function openStream(kind: CodecKind): Stream {
  const zlib = (globalThis as unknown as { process: Builtins }).process
    .getBuiltinModule("node:zlib");
  switch (kind) {
    case "inflate":
      return zlib.createInflateRaw({ windowBits: READ_WINDOW }) as unknown as Stream;
    case "deflate":
      return zlib.createDeflateRaw({
        windowBits: DEFLATE_WINDOW,
        memLevel: 9,
      }) as unknown as Stream;
    case "zstd-decode":
      return zlib.createZstdDecompress() as unknown as Stream;
    case "zstd-encode":
      return zlib.createZstdCompress() as unknown as Stream;
  }
}

/** Z_FINISH and ZSTD_e_end. */
const FINISH_ZLIB = 4;
const FINISH_ZSTD = 2;

class NodeCodec implements Codec {
  readonly #stream: Stream;
  readonly #finish: number;
  #broken = false;
  /** zstd's encoder keeps its tables from frame to frame, unless the last one was cut off: making them is slow. */
  readonly #keepsTables: boolean;
  #unfinished = false;

  constructor(kind: CodecKind) {
    this.#stream = openStream(kind);
    // A decoder whose output is full may still hold back what its frame makes beyond.
    this.#keepsTables = kind === "zstd-encode";
    this.#finish = kind.startsWith("zstd") ? FINISH_ZSTD : FINISH_ZLIB;
    assert(typeof this.#stream._handle.writeSync === "function", "zlib's streams have changed");
    this.#stream._handle.onerror = (message) =>
      void (this.#broken = message !== "unexpected end of file");
  }

  run(input: Uint8Array, output: Uint8Array): number {
    const { _handle: handle, _writeState: state } = this.#stream;
    if (!this.#keepsTables || this.#unfinished) handle.reset();
    this.#broken = false;
    this.#unfinished = true;
    try {
      handle.writeSync(this.#finish, input, 0, input.length, output, 0, output.length);
    } catch {
      return -1;
    }
    if (this.#broken) return -1;
    const [outputLeft, inputLeft] = state as unknown as [number, number];
    // A frame too large for the output has left its state behind.
    this.#unfinished = inputLeft > 0 || outputLeft === 0;
    return output.length - outputLeft;
  }

  close(): void {
    this.#stream._handle.close();
  }
}

/** Opens a codec. */
export function openCodec(kind: CodecKind): Codec {
  return new NodeCodec(kind);
}
