import assert from "node:assert/strict";
import { Histogram, measured, median, medianError, percentile } from "./stats.ts";

Deno.test("median is the middle value, or the mean of the two middle ones", () => {
  assert.equal(median([9, 1, 5]), 5);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([7]), 7);
  assert.ok(Number.isNaN(median([])));
});

Deno.test("median leaves its argument as it was", () => {
  const values = [3, 1, 2];
  median(values);
  assert.deepEqual(values, [3, 1, 2]);
});

Deno.test("percentile is the nearest rank", () => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i);
  assert.equal(percentile(values, 0.5), 50);
  assert.equal(percentile(values, 0.99), 99);
  assert.equal(percentile(values, 1), 100);
  assert.equal(percentile(values, 0), 1);
});

Deno.test("the error of a median shrinks with the slices, and a slice that was held up hardly counts", () => {
  const calm = [98, 99, 100, 101, 102];
  assert.ok(medianError(calm) < 0.01);
  assert.equal(medianError([10, ...calm.slice(1)]), medianError(calm));
  const wild = [60, 80, 100, 120, 140];
  assert.ok(medianError(wild) > 0.15);
  assert.ok(medianError([...wild, ...wild, ...wild, ...wild]) < medianError(wild));
});

Deno.test("a row takes the slices asked for, and more only while a server's rate varies", () => {
  const slices = (...rates: number[]) => rates.map((rate) => ({ rate }));
  const calm = slices(98, 99, 100, 101, 102);
  const wild = slices(60, 80, 100, 120, 140);
  assert.equal(measured([calm.slice(1)], 5), false);
  assert.equal(measured([calm, calm], 5), true);
  assert.equal(measured([calm, wild], 5), false);
  assert.equal(measured([[...calm, ...calm, ...calm], [...wild, ...wild, ...wild]], 5), true);
  assert.equal(measured([], 5), true);
});

Deno.test("a histogram's percentiles are right to 2 percent over nine powers of ten", () => {
  for (const scale of [1, 10, 1e3, 1e5, 1e7, 1e9]) {
    const histogram = new Histogram();
    const values = Array.from({ length: 1000 }, (_, i) => (i + 1) * scale);
    for (const value of values) histogram.record(value);
    for (const p of [0.01, 0.5, 0.9, 0.99, 1]) {
      const exact = percentile(values, p);
      const found = histogram.percentile(p);
      assert.ok(
        Math.abs(found - exact) <= exact * 0.02,
        `${p} of ${scale}: ${found}, not ${exact}`,
      );
    }
    assert.equal(histogram.total, 1000);
    assert.equal(histogram.max, 1000 * scale);
  }
});

Deno.test("a histogram forgets everything at reset", () => {
  const histogram = new Histogram();
  histogram.record(5);
  histogram.reset();
  assert.equal(histogram.total, 0);
  assert.ok(Number.isNaN(histogram.percentile(0.5)));
});
