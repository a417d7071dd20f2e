/** A cluster's compression, from native memory to native memory: zlib's raw deflate, or zstd. */
import type { Codec, CodecKind, Sys } from "../../../sys/mod.ts";
import { Libdeflate, openCodec } from "../../../sys/mod.ts";
import { takeZstdFrame } from "./zstd_frame.ts";

/** Header field compression_type, by name. */
export type CompressionType = "zlib" | "zstd";

const DECODERS: Readonly<Record<CompressionType, CodecKind>> = {
  zlib: "inflate",
  zstd: "zstd-decode",
};
const ENCODERS: Readonly<Record<CompressionType, CodecKind>> = {
  zlib: "deflate",
  zstd: "zstd-encode",
};

/** Encodes and decodes clusters of one image, one at a time, on the calling thread. */
export class ClusterCoder {
  #decoder: Codec | undefined;
  /** Null where the system has none. */
  #libdeflate: Libdeflate | null | undefined;
  #encoder: Codec | undefined;

  constructor(
    private readonly sys: Sys,
    private readonly type: CompressionType,
    private readonly clusterSize: number,
  ) {}

  /**
   * Decodes the stream in the `length` bytes at `input` to the cluster at `output`; may change bytes of the input.
   * What follows the stream is ignored, and so is what it holds beyond a cluster, as the original does. Undefined
   * when all went well, else what is wrong with it.
   */
  decode(input: number, length: number, output: number): string | undefined {
    if (this.type === "zlib" && this.#inflateWhole(input, length, output)) return undefined;
    const source = this.sys.viewAt(input, length);
    const target = this.sys.viewAt(output, this.clusterSize);
    this.#decoder ??= openCodec(DECODERS[this.type]);
    const done = this.type === "zlib"
      ? this.#decoder.run(source, target)
      : decodeFrames(this.#decoder, source, target);
    if (done === this.clusterSize) return undefined;
    if (done < 0) return `is not a valid ${this.type} stream`;
    return `ends after ${done} of ${this.clusterSize} bytes`;
  }

  /** The fast way, for streams that make exactly a cluster. */
  #inflateWhole(input: number, length: number, output: number): boolean {
    if (this.#libdeflate === undefined) this.#libdeflate = Libdeflate.open() ?? null;
    return this.#libdeflate?.inflate(input, length, output, this.clusterSize) ?? false;
  }

  /** Encodes the cluster at `input` to `output`, which has room for a cluster; 0 when it does not become smaller. */
  encode(input: number, output: number): number {
    this.#encoder ??= openCodec(ENCODERS[this.type]);
    const length = this.#encoder.run(
      this.sys.viewAt(input, this.clusterSize),
      this.sys.viewAt(output, this.clusterSize),
    );
    return length > 0 && length < this.clusterSize ? length : 0;
  }

  /** Gives back the memory of the coders. */
  close(): void {
    this.#libdeflate?.close();
    this.#libdeflate = undefined;
    this.#decoder?.close();
    this.#encoder?.close();
    this.#decoder = undefined;
    this.#encoder = undefined;
  }
}

/** Decodes one frame after the other until `target` is full. */
function decodeFrames(decoder: Codec, source: Uint8Array, target: Uint8Array): number {
  let from = 0;
  let done = 0;
  while (done < target.length && from < source.length) {
    const rest = source.subarray(from);
    const frame = takeZstdFrame(rest, target.length);
    // No frame where one must be is an error; after one, it is only padding.
    if (frame === undefined) return from === 0 ? -1 : done;
    if (!frame.skippable) {
      const length = decoder.run(rest.subarray(0, frame.length), target.subarray(done));
      if (length < 0) return length;
      done += length;
    }
    from += frame.length;
  }
  return done;
}
