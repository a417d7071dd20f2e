import assert from "node:assert/strict";
import { Errno, SEEK } from "../../../sys/mod.ts";
import type { BlockStatus } from "../../mod.ts";
import { Extents } from "./extents.ts";

/** A file made of data regions, with its end. */
class Regions {
  calls = 0;
  broken = false;
  constructor(public data: [number, number][], public size: number) {}
  lseek(_fd: number, offset: number, whence: number): number {
    this.calls++;
    if (this.broken) return -Errno.EINVAL;
    if (offset >= this.size) return -Errno.ENXIO;
    const inside = this.data.find(([start, end]) => offset >= start && offset < end);
    if (whence === SEEK.HOLE) return inside?.[1] ?? offset;
    if (inside) return offset;
    const next = this.data.find(([start]) => start > offset);
    return next?.[0] ?? -Errno.ENXIO;
  }
}

function ask(extents: Extents, offset: number, length: number, size: number): BlockStatus {
  const out = { length: 0, allocated: false, data: false, zero: false };
  extents.status(offset, length, size, out);
  return out;
}

Deno.test("data and holes are told apart, up to where they end", () => {
  const file = new Regions([[4096, 8192]], 16384);
  const extents = new Extents(file, 3);
  const shape = (offset: number) => {
    const { data, zero, length } = ask(extents, offset, 16384 - offset, 16384);
    return { data, zero, length };
  };
  assert.deepEqual(shape(0), { data: false, zero: true, length: 4096 });
  assert.deepEqual(shape(4096), { data: true, zero: false, length: 4096 });
  assert.deepEqual(shape(5000), { data: true, zero: false, length: 3192 });
  assert.deepEqual(shape(8192), { data: false, zero: true, length: 8192 });
});

Deno.test("a data region is looked up once, until a part of it may have become a hole", () => {
  const file = new Regions([[0, 65536]], 65536);
  const extents = new Extents(file, 3);
  for (let at = 0; at < 65536; at += 512) ask(extents, at, 512, 65536);
  assert.equal(extents.lookups, 1);
  file.data = [[0, 4096], [8192, 65536]];
  extents.forget(4096, 4096);
  assert.equal(ask(extents, 4096, 4096, 65536).zero, true);
});

Deno.test("a hole that another process makes is called data, a hole it fills is never called zero", () => {
  const file = new Regions([[0, 8192]], 16384);
  const extents = new Extents(file, 3);
  ask(extents, 0, 8192, 16384);
  assert.equal(ask(extents, 8192, 8192, 16384).zero, true);
  file.data = [[4096, 16384]];
  assert.equal(ask(extents, 0, 4096, 16384).data, true);
  assert.equal(ask(extents, 8192, 8192, 16384).data, true);
});

Deno.test("what lies beyond the end of the file is zero; data at the end goes on to the alignment", () => {
  const file = new Regions([[0, 1000]], 1000);
  const extents = new Extents(file, 3);
  assert.equal(ask(extents, 0, 1024, 1000).length, 1000);
  assert.equal(ask(extents, 1000, 24, 1000).zero, true);
  extents.alignment = 512;
  assert.equal(ask(extents, 0, 1024, 1000).length, 1024);
});

Deno.test("where the file system cannot tell, everything is data and it is not asked again", () => {
  const file = new Regions([], 4096);
  file.broken = true;
  const extents = new Extents(file, 3);
  for (let i = 0; i < 5; i++) assert.equal(ask(extents, 0, 4096, 4096).data, true);
  assert.equal(file.calls, 1);
});

Deno.test("the memory is bounded: a checkerboard larger than it stays right", () => {
  const data: [number, number][] = [];
  for (let at = 0; at < 100; at++) data.push([at * 8192, at * 8192 + 4096]);
  const extents = new Extents(new Regions(data, 819200), 3);
  for (let round = 0; round < 2; round++) {
    for (let at = 0; at < 200; at++) {
      const { data, length } = ask(extents, at * 4096, 819200 - at * 4096, 819200);
      assert.equal(data, at % 2 === 0);
      assert.equal(length, 4096);
    }
  }
});
