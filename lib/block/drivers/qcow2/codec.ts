/** A cluster's compression, from native memory to native memory: zlib's raw deflate, or zstd. */
import type { Codec, CodecKind, Memory, StreamFormat, Sys } from "../../../sys/mod.ts";
import { Libdeflate, Libzstd, openCodec } from "../../../sys/mod.ts";
import { takeZstdFrame } from "./zstd_frame.ts";

/** Header field compression_type, by name. */
export type CompressionType = "zlib" | "zstd";

const DECODERS: Readonly<Record<CompressionType, CodecKind>> = {
  zlib: "inflate",
  zstd: "zstd-decode",
};
/** The streams, for threads that inflate. */
export const STREAMS: Readonly<Record<CompressionType, StreamFormat>> = {
  zlib: "deflate",
  zstd: "zstd",
};
const ENCODERS: Readonly<Record<CompressionType, CodecKind>> = {
  zlib: "deflate",
  zstd: "zstd-encode",
};

type FastDecoder = Pick<Libzstd, "decode" | "close">;

function openFast(type: CompressionType): FastDecoder | undefined {
  return type === "zlib" ? Libdeflate.open() : Libzstd.open();
}

/** Encodes and decodes clusters of one image, one at a time, on the calling thread. */
export class ClusterCoder {
  #decoder: Codec | undefined;
  /** The fast decoder; null where the system has none. */
  #fast: FastDecoder | null | undefined;
  #encoder: Codec | undefined;

  constructor(
    private readonly sys: Sys,
    private readonly type: CompressionType,
    private readonly clusterSize: number,
  ) {}

  /**
   * Decodes the stream in the first `length` bytes of `input` to the cluster at `output`; may change bytes of the input.
   * What follows the stream is ignored, and so is what it holds beyond a cluster, as the original does. Undefined
   * when all went well, else what is wrong with it.
   */
  decode(input: Memory, length: number, output: number): string | undefined {
    const single = this.single(input, length);
    if (single !== undefined && this.#decodeWhole(input.address, single, output)) return undefined;
    const target = this.sys.viewAt(output, this.clusterSize);
    this.#decoder ??= openCodec(DECODERS[this.type]);
    const done = this.type === "zlib"
      ? this.#decoder.run(input.bytes.subarray(0, length), target)
      : decodeFrames(this.#decoder, input, length, target);
    if (done === this.clusterSize) return undefined;
    if (done < 0) return `is not a valid ${this.type} stream`;
    return `ends after ${done} of ${this.clusterSize} bytes`;
  }

  /**
   * How many of the first `length` bytes of `input` are to be decoded as one stream, if that is likely to make a
   * cluster; undefined: there is none, or another one in front. May change bytes of the input, as `decode`.
   */
  single(input: Memory, length: number): number | undefined {
    if (this.type === "zlib") return length;
    const frame = takeZstdFrame(input.view, 0, length, this.clusterSize);
    return frame === undefined || frame.skippable ? undefined : frame.length;
  }

  /** The fast way, for streams that make exactly a cluster. */
  #decodeWhole(input: number, length: number, output: number): boolean {
    if (this.#fast === undefined) this.#fast = openFast(this.type) ?? null;
    return this.#fast?.decode(input, length, output, this.clusterSize) ?? false;
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
    this.#fast?.close();
    this.#fast = undefined;
    this.#decoder?.close();
    this.#encoder?.close();
    this.#decoder = undefined;
    this.#encoder = undefined;
  }
}

/** Decodes one frame after the other in the first `length` bytes of `input` until `target` is full. */
function decodeFrames(decoder: Codec, input: Memory, length: number, target: Uint8Array): number {
  let from = 0;
  let done = 0;
  while (done < target.length && from < length) {
    const frame = takeZstdFrame(input.view, from, length, target.length);
    // No frame where one must be is an error; after one, it is only padding.
    if (frame === undefined) return from === 0 ? -1 : done;
    const end = from + frame.length;
    if (!frame.skippable) {
      const made = decoder.run(input.bytes.subarray(from, end), target.subarray(done));
      if (made < 0) return made;
      done += made;
    }
    from = end;
  }
  return done;
}
