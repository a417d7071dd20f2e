/** Writes that come out of a pipe: who takes them, and what they leave behind. */
import assert from "node:assert/strict";
import { BlockdevRef } from "../qmp/schema/blockdev.ts";
import { struct } from "../qmp/schema/core.ts";
import { testGraph } from "./testing.ts";
import { defineDriver, type DriverDefinition, type FormatInstance, Perm } from "./types.ts";

const SIZE = 8192;

/** A graph of "f", which takes pipes unless told otherwise, and "w", a window of all but its first 512 bytes. */
async function setUp(common: Record<string, unknown> = {}, needed: number = Perm.write) {
  const state = { takes: true, fixed: true, result: (length: number) => length };
  const log: string[] = [];
  const file = defineDriver({
    name: "file",
    kind: "protocol",
    options: struct("BlockdevOptionsPiped", {}),
    open: () => ({
      kind: "io",
      size: SIZE,
      read() {},
      write() {},
      flush: () => void log.push("flush"),
      takesPipe: () => state.takes,
      writeFromPipe(offset, pipe, length) {
        log.push(`${length} at ${offset} of pipe ${pipe}`);
        return state.result(length);
      },
      close() {},
    }),
  }) as DriverDefinition<never>;
  const window = defineDriver({
    name: "part",
    kind: "format",
    options: struct("BlockdevOptionsPart", { file: BlockdevRef }),
    async open(open): Promise<FormatInstance> {
      const child = await open.child("file", { role: ["data"] });
      return {
        kind: "format",
        size: SIZE - 512,
        get fixed() {
          return state.fixed;
        },
        locate: (start, length, out) => out.inChild(child, start + 512, length),
        reserve: (start, length, plan) => plan.inChild(child, start + 512, length),
        close() {},
      };
    },
  }) as DriverDefinition<never>;
  const made = testGraph({}, [file, window]);
  await made.add({ driver: "file", "node-name": "f" });
  await made.add({ driver: "part", "node-name": "w", file: "f", ...common } as never);
  const options = { describe: "an unnamed block device", needed, shared: Perm.all };
  const backend = await made.graph.backend("w", options);
  const end = async () => {
    await backend.detach();
    await made.graph.closeAll();
  };
  return { ...made, state, log, backend, end };
}

Deno.test("a write out of a pipe goes down to the file, marks what it changed in all nodes, and is flushed", async () => {
  const { graph, log, state, backend, end } = await setUp();
  const marked: string[] = [];
  for (const name of ["f", "w"]) {
    const mark = (offset: number, length: number) => marked.push(`${name} ${offset}+${length}`);
    Object.assign(graph.find(name)!, { bitmaps: { mark } });
  }
  assert.equal(backend.takesPipe!(0, 1024), true);
  assert.equal(backend.writeFromPipe!(0, 7, 1024), 1024);
  assert.deepEqual(marked, ["f 512+1024", "w 0+1024"]);
  assert.deepEqual(["f", "w"].map((name) => graph.find(name)!.writeHighest), [1536, 1024]);
  await backend.flush();
  await backend.flush();
  assert.deepEqual(log, ["1024 at 512 of pipe 7", "flush"]);
  // What has failed may have been written in part.
  state.result = () => -28;
  assert.equal(backend.writeFromPipe!(2048, 7, 512), -28);
  assert.deepEqual(marked.slice(2), ["f 2560+512", "w 2048+512"]);
  assert.equal(graph.find("w")!.writeHighest, 1024);
  await backend.flush();
  assert.equal(log.at(-1), "flush");
  for (const name of ["f", "w"]) Object.assign(graph.find(name)!, { bitmaps: undefined });
  await end();
});

Deno.test("writes out of a pipe are counted as their user says", async () => {
  const { backend, end } = await setUp();
  backend.writeFromPipe!(0, 7, 512);
  backend.writeFromPipe!(512, 7, 512);
  backend.countWrite!(1024);
  assert.deepEqual(backend.statistics.write, { operations: 1, bytes: 1024, failed: 0 });
  await end();
});

Deno.test("whoever looks at what is written, or must not be written to, takes no pipe", async () => {
  const { graph, context, state, backend, end } = await setUp();
  const takes = (offset = 0, length = 512) => backend.takesPipe!(offset, length);
  assert.equal(takes(0, SIZE - 512), true);
  assert.equal(takes(0, SIZE - 511), false, "beyond the end");
  assert.equal(takes(-512, 512), false);
  state.takes = false;
  assert.equal(takes(), false, "the file");
  state.takes = true;
  state.fixed = false;
  assert.equal(takes(), false, "a format whose data moves");
  state.fixed = true;
  const trace = context.trace("bdrv_co_pwritev_part");
  trace.enabled = true;
  assert.equal(takes(), false, "a trace of writes");
  trace.enabled = false;
  graph.find("f")!.writeThreshold = 4096;
  assert.equal(takes(), false, "a write threshold");
  graph.find("f")!.writeThreshold = 0;
  const drained = await graph.drain("w");
  assert.equal(takes(), false, "a drain");
  drained.end();
  assert.equal(takes(), true);
  await end();
  for (const common of [{ "read-only": true }, { "detect-zeroes": "on" }]) {
    const other = await setUp(common, "read-only" in common ? Perm.consistentRead : Perm.write);
    assert.equal(other.backend.takesPipe!(0, 512), false, JSON.stringify(common));
    await other.end();
  }
});
