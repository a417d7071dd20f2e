import assert from "node:assert/strict";
import { SizeClassPool } from "../sys/buffers.ts";
import { LinuxSys } from "../sys/mod.ts";
import { Output } from "./output.ts";
import { AGAIN, type Transport } from "./transport.ts";

const KIB = 1024;
const PAGE = 4096;

/** An output whose client takes nothing. */
class Bench implements Disposable {
  readonly #sys = new LinuxSys();
  readonly #pool = new SizeClassPool((length) => this.#sys.allocate(length));
  readonly output: Output;

  constructor() {
    const none = () => AGAIN;
    this.output = new Output(this.#pool, { send: none, sendv: none } as unknown as Transport);
  }

  /** Queues a reply; the address of its data. */
  reply(header: number, length: number, alignment: number): number {
    const { output } = this;
    output.reserve(header + length, header, alignment);
    const data = output.address + header;
    output.commit(header + length);
    return data;
  }

  [Symbol.dispose](): void {
    this.output.close();
    assert.equal(this.#pool.inUse, 0, "buffers were not given back");
    this.#pool.trim();
    this.#sys.dispose();
  }
}

for (const header of [16, 28, 32]) {
  Deno.test(`data of long replies begins at one place in a page, whatever comes before: headers of ${header}`, () => {
    for (const [alignment, place] of [[64, 64], [512, 512], [PAGE, 0]] as const) {
      using bench = new Bench();
      for (let at = 0; at < 20; at++) {
        bench.reply(header, 100 * at + 1, 1);
        for (const kib of [32, 64, 256, 1024]) {
          assert.equal(bench.reply(header, kib * KIB, alignment) % PAGE, place);
        }
      }
    }
  });

  Deno.test(`where a long reply is sent from is never just behind the kernel's place in a page: headers of ${header}`, () => {
    using bench = new Bench();
    for (let at = 0; at < 20; at++) {
      const from = bench.reply(header, 64 * KIB, 64) - header;
      for (const done of [0, 16_064]) {
        // The kernel's place is the beginning of a page.
        const ahead = PAGE - (from + done) % PAGE;
        assert.ok(ahead > 44 && ahead < PAGE, `${ahead}`);
      }
    }
  });
}

Deno.test("short replies lie one behind the other", () => {
  using bench = new Bench();
  const first = bench.reply(16, 4 * KIB, 1);
  for (let at = 1; at < 50; at++) {
    assert.equal(bench.reply(16, 4 * KIB, 1), first + at * (4 * KIB + 16));
  }
});
