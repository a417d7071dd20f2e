import assert from "node:assert/strict";
import type { FileStat, Memory, Sys } from "../sys/mod.ts";
import { MappedMemory } from "./mapped.ts";

const HUGE = 2 * 1024 * 1024;

Deno.test("memory of huge pages is mapped, guarded and unmapped by whole ones", () => {
  const done: string[] = [];
  const note = (what: string, { address, length }: Pick<Memory, "address" | "length">) =>
    done.push(`${what} ${address / HUGE} ${length / HUGE}`);
  const sys = {
    fstat: () => ({ kind: "file", blockSize: HUGE, size: 4 * HUGE }) as FileStat,
    map(_fd: number, offset: number, length: number) {
      note("map", { address: offset, length });
      const memory = { address: 8 * HUGE, length, unmap: () => note("unmap", memory) };
      return memory as unknown as Memory;
    },
    guard(memory: Memory) {
      note("guard", memory);
      return { lost: false, release: () => {} };
    },
    viewAt: () => new Uint8Array(),
  } as unknown as Sys;
  const area = MappedMemory.map(sys, 3, HUGE + 4096, 8192, "log");
  assert.equal(area.shared.address, 8 * HUGE + 4096);
  area.unmap();
  assert.deepEqual(done, ["map 1 1", "guard 8 1", "unmap 8 1"]);
});
