/**
 * libdeflate's inflate: about twice as fast as zlib's, for streams that lie in memory as a whole. Bound when it is
 * first needed, and done without where the system does not have it.
 *
 * It stores at most `room` bytes, whatever the stream says. It knows two answers only: the stream makes exactly
 * `room` bytes, or it does not. What is wrong then is for zlib to say; a stream that is to be cut off after `room`
 * bytes, or whose end is missing, is not wrong for zlib. Rules of the format that nothing depends on are not checked
 * here where zlib does (codes that are never to be used): such a stream is decoded, to what other decoders may
 * refuse.
 */
import { Wide } from "./wide.ts";

/** Where Linux distributions have it: 0 is the version of its binary interface. */
export const LIBDEFLATE = "libdeflate.so.0";

/** What is used of it. */
export const LIBDEFLATE_SYMBOLS = {
  libdeflate_alloc_decompressor: { parameters: [], result: "pointer" },
  libdeflate_free_decompressor: { parameters: ["pointer"], result: "void" },
  // decompressor, input and its length, output and its length, where to store how much was made (null: all of it)
  libdeflate_deflate_decompress: {
    parameters: ["pointer", "usize", "usize", "usize", "usize", "pointer"],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

/** One decompressor, for one stream at a time. */
export class Libdeflate {
  readonly #wide = new Wide();
  readonly #library: Deno.DynamicLibrary<typeof LIBDEFLATE_SYMBOLS>;
  readonly #decompressor: Deno.PointerValue;

  private constructor(library: Deno.DynamicLibrary<typeof LIBDEFLATE_SYMBOLS>) {
    this.#library = library;
    this.#decompressor = library.symbols.libdeflate_alloc_decompressor();
  }

  /** Undefined where there is no such library. `name`: what the system calls it. */
  static open(name: string = LIBDEFLATE): Libdeflate | undefined {
    let library: Deno.DynamicLibrary<typeof LIBDEFLATE_SYMBOLS>;
    try {
      library = Deno.dlopen(name, LIBDEFLATE_SYMBOLS);
    } catch {
      return undefined;
    }
    const opened = new Libdeflate(library);
    if (opened.#decompressor !== null) return opened;
    library.close();
    return undefined;
  }

  /** Whether the raw deflate stream in the `length` bytes at `input` makes exactly the `room` bytes at `output`. */
  decode(input: number, length: number, output: number, room: number): boolean {
    const wide = this.#wide;
    return this.#library.symbols.libdeflate_deflate_decompress(
      this.#decompressor,
      wide.of(input),
      wide.of(length),
      wide.of(output),
      wide.of(room),
      null,
    ) === 0;
  }

  /** Gives its memory back. */
  close(): void {
    this.#library.symbols.libdeflate_free_decompressor(this.#decompressor);
    this.#library.close();
  }
}
