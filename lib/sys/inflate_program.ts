/** What a thread that inflates runs: the text of functions that may use nothing of this module. */
import type { LIBDEFLATE_SYMBOLS } from "./libdeflate.ts";

/**
 * Words that threads and their context share: how many jobs were posted, how many of them were taken, the order to
 * end, whether the bell has been rung and not been heard; then, from RESULTS on, the result of each slot.
 */
export const Word = { posted: 0, taken: 1, stop: 2, rung: 3, results: 4 } as const;
/** A slot's result. */
export const Result = { underWay: 0, failed: 1, filled: 2 } as const;
/** Jobs that can be under way at once: a power of two. Job n lies in slot n % SLOTS. */
export const SLOTS = 64;
/** A job in `jobs`: address and length of the stream, address and length of the room for what it makes. */
export const FIELDS = 4;

/** What a thread is started with. */
export interface Start {
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly jobs: Float64Array<SharedArrayBuffer>;
  /** The eventfd on the context's loop. */
  readonly bell: number;
  /** libdeflate; where it cannot be opened Node's zlib inflates. */
  readonly library: string;
  readonly symbols: typeof LIBDEFLATE_SYMBOLS;
}

/** What the program uses of Node's zlib; see compress.ts. */
interface InflateStream {
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
    getBuiltinModule(name: string): { createInflateRaw(options: object): InflateStream };
  };
}

interface Inflater {
  /** Whether all of the room was filled. */
  inflate(input: number, length: number, output: number, room: number): boolean;
  close(): void;
}

function openLibdeflate({ library, symbols }: Start): Inflater {
  const opened = Deno.dlopen(library, symbols);
  const { libdeflate_deflate_decompress: run, libdeflate_free_decompressor: free } = opened.symbols;
  const decompressor = opened.symbols.libdeflate_alloc_decompressor();
  return {
    inflate: (input, length, output, room) => {
      const [from, bytes, to, most] = [BigInt(input), BigInt(length), BigInt(output), room];
      return run(decompressor, from, bytes, to, BigInt(most), null) === 0;
    },
    close: () => {
      free(decompressor);
      opened.close();
    },
  };
}

function openZlib({ process }: Scope): Inflater {
  const FINISH = 4;
  const stream = process.getBuiltinModule("node:zlib").createInflateRaw({ windowBits: 15 });
  let broken = false;
  stream._handle.onerror = (message) => void (broken = message !== "unexpected end of file");
  const view = (address: number, length: number): Uint8Array => {
    const pointer = Deno.UnsafePointer.create(BigInt(address))!;
    return new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(pointer, length));
  };
  return {
    inflate: (input, length, output, room) => {
      const [source, target] = [view(input, length), view(output, room)];
      broken = false;
      try {
        stream._handle.reset();
        stream._handle.writeSync(FINISH, source, 0, length, target, 0, room);
      } catch {
        return false;
      }
      return !broken && stream._writeState[0] === 0;
    },
    close: () => {},
  };
}

/** The numbers above, for the program. */
const layout = { Word, Result, SLOTS, FIELDS };

/** Inflates jobs until it is told to stop. Says "ready" and "done". */
function program(
  { Word, Result, SLOTS, FIELDS }: typeof layout,
  fast: typeof openLibdeflate,
  usual: typeof openZlib,
): void {
  const scope = globalThis as unknown as Scope;
  const open = (start: Start): Inflater => {
    try {
      return fast(start);
    } catch {
      return usual(scope);
    }
  };
  scope.onmessage = ({ data: start }) => {
    const { words, jobs, bell } = start;
    const libc = Deno.dlopen("libc.so.6", {
      write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
    });
    const inflater = open(start);
    const one = new Uint8Array(BigUint64Array.of(1n).buffer);
    scope.postMessage("ready");
    for (;;) {
      const [next, posted] = [Atomics.load(words, Word.taken), Atomics.load(words, Word.posted)];
      // Afterwards: the order moves the count on, and there is no such job.
      if (Atomics.load(words, Word.stop) !== 0) break;
      if (next === posted) {
        Atomics.wait(words, Word.posted, posted);
      } else if (Atomics.compareExchange(words, Word.taken, next, (next + 1) | 0) === next) {
        const slot = next & (SLOTS - 1);
        const at = slot * FIELDS;
        const filled = inflater.inflate(jobs[at]!, jobs[at + 1]!, jobs[at + 2]!, jobs[at + 3]!);
        Atomics.store(words, Word.results + slot, filled ? Result.filled : Result.failed);
        if (Atomics.exchange(words, Word.rung, 1) === 0) libc.symbols.write(bell, one, 8n);
      }
    }
    inflater.close();
    libc.close();
    scope.postMessage("done");
  };
}

/** The program as a module for a Worker. */
export function programUrl(): string {
  const text = `(${program})(${JSON.stringify(layout)}, ${openLibdeflate}, ${openZlib})`;
  return `data:text/javascript,${encodeURIComponent(text)}`;
}
