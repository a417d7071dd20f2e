import assert from "node:assert/strict";
import zlib from "node:zlib";
import { FIELDS, Format, programUrl, SLOTS, type Start, Word } from "./inflate_program.ts";
import { LIBDEFLATE, LIBDEFLATE_SYMBOLS } from "./libdeflate.ts";
import { LIBZSTD, LIBZSTD_SYMBOLS } from "./libzstd.ts";
import { LinuxSys } from "./mod.ts";

const ROOM = 4096;

/** Run in the thread before its program: the order to end comes just after `index` has been looked at, once. */
function endAfter(index: number): void {
  const load = Atomics.load;
  let given = false;
  Atomics.load = ((words: Int32Array, at: number) => {
    const value = load(words, at);
    if (at === index && words.length > 4 && !given) {
      given = true;
      Atomics.store(words, 2, 1);
      Atomics.add(words, 0, 1);
    }
    return value;
  }) as typeof Atomics.load;
}

for (const word of ["posted", "taken", "stop"] as const) {
  Deno.test(`a thread that is told to end carries out no job that was not posted: ${word}`, async () => {
    const sys = new LinuxSys();
    const stream = zlib.deflateRawSync(new Uint8Array(ROOM).fill(7));
    const input = sys.allocate(stream.length);
    input.bytes.set(stream);
    const output = sys.allocate(ROOM);
    const bell = sys.eventfd(0);
    const words = new Int32Array(new SharedArrayBuffer(4 * (Word.results + SLOTS)));
    const jobs = new BigUint64Array(new SharedArrayBuffer(8 * FIELDS * SLOTS));
    // What an earlier job left in the slot.
    jobs.set([input.address, stream.length, output.address, ROOM, Format.deflate].map(BigInt));
    const program = decodeURIComponent(programUrl().replace(/^[^,]*,/, ""));
    const text = `(${endAfter})(${Word[word]});${program}`;
    const url = `data:text/javascript,${encodeURIComponent(text)}`;
    const worker = new Worker(url, { type: "module" });
    const done = Promise.withResolvers<void>();
    worker.onmessage = ({ data }) => data === "done" && done.resolve();
    const libdeflate = { name: LIBDEFLATE, symbols: LIBDEFLATE_SYMBOLS };
    const libzstd = { name: LIBZSTD, symbols: LIBZSTD_SYMBOLS };
    worker.postMessage({ words, jobs, bell, libdeflate, libzstd } satisfies Start);
    await done.promise;
    worker.terminate();
    assert.equal(words[Word.taken], 0);
    assert.ok(output.bytes.subarray(0, ROOM).every((byte) => byte === 0));
    sys.close(bell);
    input.unmap();
    output.unmap();
    sys.dispose();
  });
}
