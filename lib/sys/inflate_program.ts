/** What a thread that inflates runs: the text of functions that may use nothing of this module. */
import type { LIBDEFLATE_SYMBOLS } from "./libdeflate.ts";
import type { LIBZSTD_SYMBOLS } from "./libzstd.ts";

/**
 * Words that threads and their context share: how many jobs were posted, how many of them were taken, the order to
 * end, whether the bell has been rung and not been heard, how many threads sleep or are about to; then, from RESULTS
 * on, the result of each slot.
 */
export const Word = { posted: 0, taken: 1, stop: 2, rung: 3, asleep: 4, results: 5 } as const;
/** A slot's result. */
export const Result = { underWay: 0, failed: 1, filled: 2 } as const;
/** Jobs that can be under way at once: a power of two. Job n lies in slot n % SLOTS. */
export const SLOTS = 64;
/**
 * A job in `jobs`: address and length of the stream, address and length of the room for what it makes, its format.
 * As 64-bit integers they go into calls of the libraries without becoming objects (see wide.ts).
 */
export const FIELDS = 5;
/** Formats of streams, as jobs name them. */
export const Format = { deflate: 0, zstd: 1 } as const;

/** What a thread is started with. */
export interface Start {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly jobs: BigUint64Array<SharedArrayBuffer>;
  /** The eventfd on the context's loop. */
  readonly bell: number;
  /** Where one cannot be opened Node's zlib decodes. */
  readonly libdeflate: { readonly name: string; readonly symbols: typeof LIBDEFLATE_SYMBOLS };
  readonly libzstd: { readonly name: string; readonly symbols: typeof LIBZSTD_SYMBOLS };
}

/** What the program uses of Node's zlib; see compress.ts. */
interface NodeStream {
  readonly _handle: {
    writeSync(...args: [number, Uint8Array, number, number, Uint8Array, number, number]): void;
    reset(): void;
    onerror: (message: string) => void;
  };
  readonly _writeState: Uint32Array;
}

/** The Worker's own, as far as the program uses it. */
interface Scope {
  onmessage: (event: MessageEvent<Start>) => void;
  postMessage(message: string): void;
  readonly process: {
    getBuiltinModule(name: string): {
      createInflateRaw(options: object): NodeStream;
      createZstdDecompress(): NodeStream;
    };
  };
}

interface Decoder {
  /** Whether all of the room was filled. */
  decode(input: bigint, length: bigint, output: bigint, room: bigint): boolean;
  close(): void;
}

function openLibdeflate({ libdeflate: { name, symbols } }: Start): Decoder {
  const opened = Deno.dlopen(name, symbols);
  const { libdeflate_deflate_decompress: run, libdeflate_free_decompressor: free } = opened.symbols;
  const decompressor = opened.symbols.libdeflate_alloc_decompressor();
  if (decompressor === null) throw new Error("no memory");
  return {
    decode: (input, length, output, room) =>
      run(decompressor, input, length, output, room, null) === 0,
    close: () => {
      free(decompressor);
      opened.close();
    },
  };
}

function openLibzstd({ libzstd: { name, symbols } }: Start): Decoder {
  const opened = Deno.dlopen(name, symbols);
  const { ZSTD_decompressDCtx: run, ZSTD_freeDCtx: free } = opened.symbols;
  const decoder = opened.symbols.ZSTD_createDCtx();
  if (decoder === null) throw new Error("no memory");
  return {
    decode: (input, length, output, room) =>
      run(decoder, output, room, input, length) === Number(room),
    close: () => {
      free(decoder);
      opened.close();
    },
  };
}

/** Node's. */
function openNode({ process }: Scope, zstd: boolean): Decoder {
  const zlib = process.getBuiltinModule("node:zlib");
  const stream = zstd ? zlib.createZstdDecompress() : zlib.createInflateRaw({ windowBits: 15 });
  const finish = zstd ? 2 : 4;
  let broken = false;
  stream._handle.onerror = (message) => void (broken = message !== "unexpected end of file");
  const view = (address: bigint, length: bigint): Uint8Array => {
    const pointer = Deno.UnsafePointer.create(address)!;
    return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, Number(length)));
  };
  return {
    decode: (input, length, output, room) => {
      const [source, target] = [view(input, length), view(output, room)];
      broken = false;
      try {
        stream._handle.reset();
        stream._handle.writeSync(finish, source, 0, source.length, target, 0, target.length);
      } catch {
        return false;
      }
      const [outputLeft] = stream._writeState;
      return !broken && outputLeft === 0;
    },
    close: () => {},
  };
}

/** The numbers above, for the program. */
const layout = { Word, Result, SLOTS, FIELDS };
/** What opens decoders: by format, the best first. */
type Openers = readonly (readonly ((start: Start, scope: Scope) => Decoder)[])[];

/** Decodes jobs until it is told to stop. Says "ready" and "done". */
function program({ Word, Result, SLOTS, FIELDS }: typeof layout, openers: Openers): void {
  const scope = globalThis as unknown as Scope;
  const none: Decoder = { decode: () => false, close: () => {} };
  const open = (start: Start, format: number): Decoder => {
    for (const opener of openers[format]!) {
      try {
        return opener(start, scope);
      } catch {
        // the next one
      }
    }
    return none;
  };
  scope.onmessage = ({ data: start }) => {
    const { words, jobs, bell } = start;
    const libc = Deno.dlopen("libc.so.6", {
      write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    });
    const decoders: (Decoder | undefined)[] = openers.map(() => undefined);
    const one = new Uint8Array(BigUint64Array.of(1n).buffer);
    scope.postMessage("ready");
    for (;;) {
      const [next, posted] = [Atomics.load(words, Word.taken), Atomics.load(words, Word.posted)];
      // Afterwards: the order moves the count on, and there is no such job.
      if (Atomics.load(words, Word.stop) !== 0) break;
      if (next === posted) {
        // The context wakes those that it sees here; one that it does not see yet sees the changed count.
        Atomics.add(words, Word.asleep, 1);
        Atomics.wait(words, Word.posted, posted);
        Atomics.sub(words, Word.asleep, 1);
      } else if (Atomics.compareExchange(words, Word.taken, next, (next + 1) | 0) === next) {
        const slot = next & (SLOTS - 1);
        const at = slot * FIELDS;
        const format = Number(jobs[at + 4]!);
        const decoder = decoders[format] ??= open(start, format);
        const filled = decoder.decode(jobs[at]!, jobs[at + 1]!, jobs[at + 2]!, jobs[at + 3]!);
        Atomics.store(words, Word.results + slot, filled ? Result.filled : Result.failed);
        const waiting = (Atomics.load(words, Word.posted) - Atomics.load(words, Word.taken)) | 0;
        // Results leave together, but not when the queue has run empty; of a long one, every fourth rings.
        if (waiting > 1 && (waiting & 3) !== 0) continue;
        if (Atomics.exchange(words, Word.rung, 1) === 0) libc.symbols.write(bell, one, 8n);
      }
    }
    for (const decoder of decoders) decoder?.close();
    libc.close();
    scope.postMessage("done");
  };
}

/** The program as a module for a Worker. */
export function programUrl(): string {
  const usual = (zstd: boolean) => `(_, scope) => (${openNode})(scope, ${zstd})`;
  const openers = `[[${openLibdeflate}, ${usual(false)}], [${openLibzstd}, ${usual(true)}]]`;
  const text = `(${program})(${JSON.stringify(layout)}, ${openers})`;
  return `data:text/javascript,${encodeURIComponent(text)}`;
}
