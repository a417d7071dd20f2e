import assert from "node:assert/strict";
import { chance } from "../../base/mod.ts";
import { Bits } from "./bits.ts";

/** A byte for each granule: what Bits is to be. */
class Model {
  granules: boolean[];
  constructor(public size: number, readonly granularity: number) {
    this.granules = new Array<boolean>(Math.ceil(size / granularity)).fill(false);
  }
  set(offset: number, length: number): void {
    this.granules.forEach((_, i) => {
      const at = i * this.granularity;
      if (at < offset + length && at + this.granularity > offset && length > 0) {
        this.granules[i] = true;
      }
    });
  }
  clear(offset: number, length: number): void {
    this.granules.forEach((_, i) => {
      const at = i * this.granularity;
      const end = Math.min(at + this.granularity, this.size);
      if (at >= offset && end <= offset + length) this.granules[i] = false;
    });
  }
  resize(size: number): void {
    const count = Math.ceil(size / this.granularity);
    while (this.granules.length < count) this.granules.push(false);
    this.granules.length = count;
    this.size = size;
  }
}

function same(bits: Bits, model: Model): void {
  const own = model.granules.map((_, i) => bits.has(i * model.granularity));
  assert.deepEqual(own, model.granules);
  assert.equal(bits.count, model.granules.filter(Boolean).length);
  const runs: [number, number][] = [];
  model.granules.forEach((dirty, i) => {
    if (!dirty) return;
    const at = i * model.granularity;
    const end = Math.min(at + model.granularity, model.size);
    const last = runs.at(-1);
    if (last !== undefined && last[0] + last[1] === at) last[1] += end - at;
    else runs.push([at, end - at]);
  });
  const found: [number, number][] = [];
  bits.each(0, model.size, (offset, length) => found.push([offset, length]));
  assert.deepEqual(found, runs);
}

for (const granularity of [512, 4096, 65536]) {
  Deno.test(`bits of ${granularity} bytes do as a list of granules does, whatever is done to them`, () => {
    const pick = chance(granularity);
    for (let round = 0; round < 60; round++) {
      const size = pick(200) * granularity + pick(granularity);
      const bits = new Bits(size, granularity);
      const model = new Model(size, granularity);
      for (let step = 0; step < 30; step++) {
        const offset = pick(size + granularity);
        const length = pick(3) === 0 ? pick(size + 1) : pick(3 * granularity);
        const what = pick(12);
        if (what < 6) { for (const one of [bits, model]) one.set(offset, length); }
        else if (what < 10) { for (const one of [bits, model]) one.clear(offset, length); }
        else if (what === 10) {
          const next = pick(200) * granularity + pick(granularity);
          for (const one of [bits, model]) one.resize(next);
        } else {
          const other = new Bits(model.size, [512, 4096, 65536][pick(3)]!);
          other.set(offset, length);
          bits.merge(other);
          other.each(0, model.size, (at, run) => model.set(at, run));
        }
        same(bits, model);
      }
      const copy = new Bits(model.size, granularity);
      const { bytes } = bits;
      copy.set(0, size);
      copy.load(0, bytes.subarray(0, 4));
      copy.load(4, bytes.subarray(4));
      same(copy, model);
    }
  });
}

Deno.test("memory is whole 64-bit words, and what is loaded past the end is ignored", () => {
  assert.equal(new Bits(0, 512).memory, 0);
  assert.equal(new Bits(1, 512).memory, 8);
  assert.equal(new Bits(512 * 64, 512).memory, 8);
  assert.equal(new Bits(512 * 65, 512).memory, 16);
  const bits = new Bits(512 * 33, 512);
  bits.load(0, new Uint8Array(100).fill(0xff));
  assert.equal(bits.count, 33);
  assert.deepEqual([...bits.bytes], [255, 255, 255, 255, 1, 0, 0, 0]);
});

Deno.test("parts of the memory that are alike are found", () => {
  const bits = new Bits(512 * 8 * 100, 512);
  assert.equal(bits.uniform(0, 64), 0);
  assert.equal(bits.uniform(64, 64), 0, "past the end there is nothing");
  bits.set(0, 512 * 8 * 100);
  assert.equal(bits.uniform(0, 64), 0xff);
  assert.equal(bits.uniform(64, 64), undefined, "it ends inside");
  bits.clear(512 * 8 * 63, 512);
  assert.equal(bits.uniform(0, 64), undefined);
  assert.equal(bits.uniform(0, 60), 0xff);
  bits.clear(0, 512 * 8);
  assert.equal(bits.uniform(0, 4), undefined);
});

Deno.test("next finds the first granule of a kind, cut to the range", () => {
  const bits = new Bits(1 << 20, 65536);
  bits.set(70_000, 1);
  assert.equal(bits.next(true, 0, 1 << 20), 65536);
  assert.equal(bits.next(true, 80_000, 1 << 20), 80_000);
  assert.equal(bits.next(false, 80_000, 1 << 20), 131072);
  assert.equal(bits.next(true, 131072, 1 << 20), 1 << 20);
  assert.equal(bits.next(true, 0, 1000), 1000);
  // Behind the end, where a larger node may be looked at, everything is clean.
  assert.equal(bits.next(true, 131072, 1 << 21), 1 << 21);
  assert.equal(bits.next(true, 1 << 20, 1 << 21), 1 << 21);
  assert.equal(bits.next(false, 1 << 20, 1 << 21), 1 << 20);
  bits.set(0, 1 << 20);
  assert.equal(bits.next(false, 0, 1 << 20), 1 << 20);
  assert.equal(bits.next(false, 0, 1 << 21), 1 << 20);
  bits.clearAll();
  assert.equal(bits.count, 0);
});

Deno.test("offsets beyond 2^32 are told apart", () => {
  const bits = new Bits(2 ** 40, 65536);
  bits.set(2 ** 39 + 65536, 1);
  assert.equal(bits.has(65536), false);
  assert.equal(bits.has(2 ** 39 + 65536), true);
  assert.equal(bits.next(true, 0, 2 ** 40), 2 ** 39 + 65536);
  bits.clear(2 ** 39, 2 ** 20);
  assert.equal(bits.count, 0);
});

Deno.test("whoever has the memory of bits that are resized finds so before it can miss anything", () => {
  const bits = new Bits(1 << 20, 65536);
  bits.set(0, 1);
  const other = Bits.of(bits.state);
  const third = Bits.of(bits.state);
  bits.resize(1 << 20);
  assert.equal(other.replaced, false, "nothing has changed");
  // Within the same words, and beyond them.
  for (const size of [(1 << 20) + 65536, 1 << 24, 1 << 19]) {
    bits.resize(size);
    assert.deepEqual([bits.replaced, other.replaced, other.count], [false, true, 1]);
    other.adopt(bits.state);
    bits.set(size - 1, 1);
    assert.deepEqual([other.replaced, other.size, other.has(size - 1)], [false, size, true]);
    bits.clear(65536, size);
  }
  third.keep();
  assert.deepEqual([third.replaced, third.count, third.has(0)], [false, 1, true]);
});
