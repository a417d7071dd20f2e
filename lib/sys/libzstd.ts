/**
 * libzstd's decoder in one call: about 1.6 times as fast as the stream that the runtime offers, since it decodes to
 * where the content is wanted, without a window of its own. Bound when it is first needed, and done without where the
 * system does not have it.
 *
 * It stores at most `room` bytes and takes no memory by what the frame says. It is asked about one frame of the
 * present format at a time, whose beginning and end the caller has found: the library would also decode formats of
 * the time before version 1, and take several frames. What is wrong with a frame is for the runtime's decoder to say.
 * The size of the window is not checked here: a frame that refers to content further back, which is there, is decoded
 * where other decoders may refuse it.
 */
import { Wide } from "./wide.ts";

/** Where Linux distributions have it: 1 is the version of its binary interface. */
export const LIBZSTD = "libzstd.so.1";

/** What is used of it. */
export const LIBZSTD_SYMBOLS = {
  ZSTD_createDCtx: { parameters: [], result: "pointer" },
  ZSTD_freeDCtx: { parameters: ["pointer"], result: "void" },
  // decoder, output and its length, input and its length: bytes made, or a negative code (of which the low half does)
  ZSTD_decompressDCtx: {
    parameters: ["pointer", "usize", "usize", "usize", "usize"],
    result: "i32",
  },
} as const satisfies Deno.ForeignLibraryInterface;

/** One decoder, for one frame at a time. */
export class Libzstd {
  readonly #wide = new Wide();
  readonly #library: Deno.DynamicLibrary<typeof LIBZSTD_SYMBOLS>;
  readonly #decoder: Deno.PointerValue;

  private constructor(library: Deno.DynamicLibrary<typeof LIBZSTD_SYMBOLS>) {
    this.#library = library;
    this.#decoder = library.symbols.ZSTD_createDCtx();
  }

  /** Undefined where there is no such library. `name`: what the system calls it. */
  static open(name: string = LIBZSTD): Libzstd | undefined {
    let library: Deno.DynamicLibrary<typeof LIBZSTD_SYMBOLS>;
    try {
      library = Deno.dlopen(name, LIBZSTD_SYMBOLS);
    } catch {
      return undefined;
    }
    const opened = new Libzstd(library);
    if (opened.#decoder !== null) return opened;
    library.close();
    return undefined;
  }

  /** Whether the frame in the `length` bytes at `input` makes exactly the `room` bytes at `output`. */
  decode(input: number, length: number, output: number, room: number): boolean {
    const wide = this.#wide;
    return this.#library.symbols.ZSTD_decompressDCtx(
      this.#decoder,
      wide.of(output),
      wide.of(room),
      wide.of(input),
      wide.of(length),
    ) === room;
  }

  /** Gives its memory back. */
  close(): void {
    this.#library.symbols.ZSTD_freeDCtx(this.#decoder);
    this.#library.close();
  }
}
