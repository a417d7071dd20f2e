/**
 * Data that passes our memory by: which ranges are located in a file, which writes may come out of a pipe, and what those
 * leave behind.
 */
import assert from "node:assert/strict";
import { BlockError, type MaybePromise } from "../base/mod.ts";
import { BlockdevRef } from "../qmp/schema/blockdev.ts";
import { struct } from "../qmp/schema/core.ts";
import { Errno } from "../sys/mod.ts";
import type { BlockBackend } from "./backend_types.ts";
import type { BlockGraph } from "./graph.ts";
import type { FilePages } from "./pages_types.ts";
import { ioError, testGraph } from "./testing.ts";
import { defineDriver, type DriverDefinition, type OpenContext } from "./driver_types.ts";
import { type Child, type FormatInstance, type IoInstance, Perm } from "./types.ts";

const SIZE = 8192;
/** What the window writes as one. */
const UNIT = 1024;

/** Those of a file that says no to whatever `own` does not answer. */
function filePages(own: Partial<FilePages>): FilePages {
  return {
    locate: () => false,
    pipeUnit: () => 0,
    writeFromPipe: () => -Errno.EINVAL,
    inPageCache: () => undefined,
    dropPages: () => {},
    ...own,
  };
}

/** A file that does nothing but what `own` and `more` say. */
function pagedFile(
  name: string,
  own: Partial<FilePages>,
  more: Partial<IoInstance> = {},
): DriverDefinition<never> {
  return defineDriver({
    name,
    kind: "protocol",
    options: struct("BlockdevOptionsPaged", {}),
    open: () => ({ kind: "io", size: SIZE, read() {}, pages: filePages(own), close() {}, ...more }),
  }) as DriverDefinition<never>;
}

/** A format over the child "file". */
function format(
  name: string,
  make: (
    file: Child,
    open: OpenContext,
  ) => MaybePromise<Omit<FormatInstance, "kind" | "close">>,
): DriverDefinition<never> {
  return defineDriver({
    name,
    kind: "format",
    options: struct("BlockdevOptionsFormat", { file: BlockdevRef }),
    async open(open): Promise<FormatInstance> {
      const made = await make(await open.child("file", { role: ["data"] }), open);
      return Object.assign(made, { kind: "format" as const, close() {} });
    },
  }) as DriverDefinition<never>;
}

/** A user of the node `name`. */
function user(graph: BlockGraph, name: string, needed: number): Promise<BlockBackend> {
  return graph.backend(name, { describe: "an unnamed block device", needed, shared: Perm.all });
}

/** A graph of "f", which takes pipes unless told otherwise, and "w", a window of all but its first 512 bytes. */
async function setUp(common: Record<string, unknown> = {}, needed: number = Perm.write) {
  const state = {
    takes: true,
    pipes: true,
    /** What the file answers, and what it still takes then. */
    result: (length: number): number => length,
    located: true,
    reserve: undefined as FormatInstance["reserve"] | undefined,
  };
  const log: string[] = [];
  const file = pagedFile("file", {
    pipeUnit: () => state.takes ? 1 : 0,
    writeFromPipe(offset, pipe, length) {
      log.push(`${length} at ${offset} of pipe ${pipe}`);
      return state.result(length);
    },
  }, {
    write: (offset, iov) => void log.push(`${iov.total} at ${offset}`),
    flush: () => void log.push("flush"),
  });
  const window = format("part", (child) => ({
    size: SIZE - 512,
    limits: { writeZeroesAlignment: UNIT },
    get pipesTo() {
      return state.pipes ? child : undefined;
    },
    locate: (start, length, out) =>
      state.located ? out.inChild(child, start + 512, length) : out.unallocated(undefined, length),
    reserve(start, length, plan) {
      if (state.reserve === undefined) return plan.inChild(child, start + 512, length);
      return state.reserve.call(child as never, start, length, plan);
    },
  }));
  const made = testGraph({}, [file, window]);
  await made.add({ driver: "file", "node-name": "f" });
  await made.add({ driver: "part", "node-name": "w", file: "f", ...common } as never);
  const backend = await user(made.graph, "w", needed);
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
  assert.equal(backend.pages!.pipeUnit(0, 1024), 1);
  assert.equal(backend.pages!.writeFromPipe(0, 7, 1024), 1024);
  assert.deepEqual(marked, ["f 512+1024", "w 0+1024"]);
  assert.deepEqual(["f", "w"].map((name) => graph.find(name)!.writeHighest), [1536, 1024]);
  await backend.flush();
  await backend.flush();
  assert.deepEqual(log, ["1024 at 512 of pipe 7", "flush"]);
  // What has failed may have been written in part.
  state.result = () => -28;
  assert.equal(backend.pages!.writeFromPipe(2048, 7, 512), -28);
  assert.deepEqual(marked.slice(2), ["f 2560+512", "w 2048+512"]);
  assert.equal(graph.find("w")!.writeHighest, 1024);
  await backend.flush();
  assert.equal(log.at(-1), "flush");
  for (const name of ["f", "w"]) Object.assign(graph.find(name)!, { bitmaps: undefined });
  await end();
});

Deno.test("writes out of a pipe are counted as their user says", async () => {
  const { backend, end } = await setUp();
  backend.pages!.writeFromPipe(0, 7, 512);
  backend.pages!.writeFromPipe(512, 7, 512);
  backend.pages!.countWrite(1024);
  assert.deepEqual(backend.statistics.write, { operations: 1, bytes: 1024, failed: 0 });
  await end();
});

Deno.test("whoever looks at what is written, or must not be written to, takes no pipe", async () => {
  const { graph, context, state, backend, end } = await setUp();
  const takes = (offset = 0, length = 512) => backend.pages!.pipeUnit(offset, length) > 0;
  assert.equal(takes(0, SIZE - 512), true);
  assert.equal(takes(0, SIZE - 511), false, "beyond the end");
  assert.equal(takes(-512, 512), false);
  state.takes = false;
  assert.equal(takes(), false, "the file");
  state.takes = true;
  state.pipes = false;
  assert.equal(takes(), false, "a format that says so");
  state.pipes = true;
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
    assert.equal(other.backend.pages!.pipeUnit(0, 512), 0, JSON.stringify(common));
    await other.end();
  }
});

Deno.test("parts end where they are written as one, unless the data has its place already", async () => {
  const { state, backend, end } = await setUp();
  assert.equal(backend.pages!.pipeUnit(0, 4096), 1);
  state.located = false;
  assert.equal(backend.pages!.pipeUnit(0, 4096), UNIT);
  await end();
});

/** Plans units one by one, each behind what is free, with a log of what becomes of them. */
function planner(log: string[], options: { copy?: number; wait?: Promise<void> } = {}) {
  return function (this: Child, start, length, plan) {
    const planned = Math.min(length, UNIT - start % UNIT);
    const fill = () => {
      if (options.copy === start) plan.copy(start - 512, this, start, 512);
      plan.inChild(this, start + 512, planned);
      plan.onCommit(() => void log.push(`commit ${start}`));
      plan.onAbandon(() => void log.push(`abandon ${start}`));
    };
    return options.wait === undefined ? fill() : options.wait.then(fill);
  } as NonNullable<FormatInstance["reserve"]>;
}

Deno.test("what a format plans is committed when the data of it has come out of the pipe, part by part", async () => {
  const { state, log, backend, end } = await setUp();
  state.reserve = planner(log);
  state.result = (length) => Math.min(length, 600);
  assert.equal(backend.pages!.writeFromPipe(512, 7, 1536), 1536);
  assert.deepEqual(log.splice(0), [
    "512 at 1024 of pipe 7",
    "commit 512",
    "1024 at 1536 of pipe 7",
    "424 at 2136 of pipe 7",
    "commit 1024",
  ]);
  await end();
});

Deno.test("what must be waited for, or copied, is given up; a drain waits for what was begun", async () => {
  const { graph, state, log, backend, end } = await setUp();
  state.reserve = planner(log, { copy: 1024 });
  assert.equal(backend.pages!.writeFromPipe(0, 7, 4096), 1024);
  assert.deepEqual(log.splice(0), ["1024 at 512 of pipe 7", "commit 0", "abandon 1024"]);
  assert.equal(backend.pages!.writeFromPipe(1024, 7, 3072), -Errno.EAGAIN);
  assert.deepEqual(log.splice(0), ["abandon 1024"]);
  const { promise, resolve } = Promise.withResolvers<void>();
  state.reserve = planner(log, { wait: promise });
  assert.equal(backend.pages!.writeFromPipe(0, 7, 4096), -Errno.EAGAIN);
  assert.deepEqual([log.length, backend.inFlight], [0, 1]);
  const drain = graph.drain("w").then((section) => {
    log.push("drained");
    section.end();
  });
  resolve();
  await drain;
  assert.deepEqual(log.splice(0), ["abandon 0", "drained"]);
  assert.deepEqual(backend.statistics.write, { operations: 0, bytes: 0, failed: 0 });
  await end();
});

Deno.test("a file that fails: what left the pipe for a place that is given up is lost, and nothing else", async () => {
  const { graph, state, log, backend, end } = await setUp();
  state.reserve = planner(log);
  let calls = 0;
  state.result = () => ++calls > 1 ? -Errno.ENOSPC : UNIT;
  assert.equal(backend.pages!.writeFromPipe(0, 7, 4096), UNIT);
  assert.equal(log.at(-1), "abandon 1024");
  assert.equal(backend.pages!.writeFromPipe(1024, 7, 3072), -Errno.ENOSPC);
  calls = 0;
  state.result = () => ++calls > 1 ? -Errno.ENOSPC : 512;
  log.length = 0;
  const marked: string[] = [];
  const mark = (offset: number, length: number) => marked.push(`${offset}+${length}`);
  Object.assign(graph.find("w")!, { bitmaps: { mark } });
  assert.throws(() => backend.pages!.writeFromPipe(0, 7, 4096), { errno: "ENOSPC" });
  Object.assign(graph.find("w")!, { bitmaps: undefined });
  assert.deepEqual(marked, ["0+4096"], "some may have been written");
  assert.deepEqual(log.splice(0), ["1024 at 512 of pipe 7", "512 at 1024 of pipe 7", "abandon 0"]);
  // Where nothing is given up, as much was written.
  state.reserve = undefined;
  calls = 0;
  assert.equal(backend.pages!.writeFromPipe(0, 7, 4096), 512);
  state.reserve = () => {
    throw new BlockError("EIO", "broken");
  };
  assert.throws(() => backend.pages!.writeFromPipe(0, 7, 4096), { message: /broken/ });
  await end();
});

Deno.test("only a range that one file holds, and that is known at once, is located in the file", async () => {
  const pages = pagedFile("pages", {
    locate(offset, _length, _known, out) {
      out.fd = 7;
      out.offset = offset;
      return true;
    },
  });
  const late = Promise.withResolvers<void>();
  const parts = format("parts", (file) => {
    const answers: FormatInstance["locate"][] = [
      (start, length, out) => out.inChild(file, start + 512, length),
      (start, length, out) => out.inChild(file, start, length / 2),
      (_start, length, out) => out.zero(length),
      (_start, length, out) => out.unallocated(undefined, length),
      () => late.promise,
      () => {
        throw ioError("EIO");
      },
    ];
    return {
      size: 3072,
      fixed: true,
      locate: (start, length, out) => answers[start / 512]!(start, length, out),
    };
  });
  const made = testGraph({}, [pages, parts]);
  await made.add({
    driver: "parts",
    "node-name": "p",
    "read-only": true,
    file: { driver: "pages" },
  });
  const backend = await user(made.graph, "p", Perm.consistentRead);
  const out = { fd: -1, offset: -1 };
  const found = [0, 1, 2, 3, 4, 5].map((i) => backend.pages!.locate(i * 512, 512, true, out));
  assert.deepEqual(found, [true, false, false, false, false, false]);
  assert.deepEqual(out, { fd: 7, offset: 512 });
  late.reject(ioError("EIO")); // is nobody's any more
  await backend.detach();
  await made.graph.closeAll();
});

Deno.test("a format whose data moves says itself whether it may be sent, and not about its backing file", async () => {
  let tells: boolean | undefined = true;
  const pages = pagedFile("pages", { locate: () => true, inPageCache: () => tells });
  const asked: string[] = [];
  let agrees = true;
  const moving = format("moving", async (file, open) => {
    const backing = await open.optionalChild("backing", { role: ["cow"] });
    return {
      size: 4096,
      locate(start, length, out) {
        if (start < 1024) out.inChild(file, start + 1024, length);
        else out.unallocated(backing, length);
      },
      sending(at, length) {
        asked.push(`${open.nodeName} ${length} at ${at}, ${file.inPageCache(at, length)}`);
        return agrees;
      },
    };
  });
  const made = testGraph({}, [pages, moving]);
  const below = { driver: "moving", "node-name": "b", file: { driver: "pages" } };
  await made.add(
    {
      driver: "moving",
      "node-name": "m",
      "read-only": true,
      file: { driver: "pages" },
      backing: below,
    } as never,
  );
  const backend = await user(made.graph, "m", Perm.consistentRead);
  const out = { fd: -1, offset: -1 };
  const find = (offset: number) => backend.pages!.locate(offset, 512, true, out);
  assert.equal(find(512), true);
  agrees = false;
  tells = undefined;
  assert.equal(find(512), false);
  assert.deepEqual(asked, ["m 512 at 1536, true", "m 512 at 1536, undefined"]);
  asked.length = 0;
  assert.equal(find(1024), false, "nothing below the backing file either");
  assert.deepEqual(asked, []);
  await backend.detach();
  await made.graph.closeAll();
});

Deno.test("what is in the page cache is asked of the file below formats whose data stays, and of no other", async () => {
  const asked: string[] = [];
  const file = pagedFile("pages", {
    inPageCache: (offset, length) => asked.push(`cached ${offset}+${length}`) > 0,
    dropPages: (offset, length) => void asked.push(`drop ${offset}+${length}`),
  });
  let fixed = true;
  let children: Child[] = [];
  const shift = format("shift", (child) => {
    children = [child, ...children];
    return {
      size: child.size - 1024,
      get fixed() {
        return fixed;
      },
      locate: (start, length, out) =>
        start < 2048 ? out.inChild(child, start + 1024, length) : out.zero(length),
    };
  });
  const made = testGraph({}, [file, shift]);
  const below = { driver: "shift", file: { driver: "shift", file: { driver: "pages" } } };
  await made.add({ ...below, "node-name": "s", "read-only": true } as never);
  const [top] = children; // of the upper one
  assert.equal(top!.inPageCache(0, 512), true);
  await top!.dropPages(512, 1024);
  assert.deepEqual(asked, ["cached 1024+512", "drop 1536+1024"]);
  asked.length = 0;
  assert.equal(top!.inPageCache(2048, 512), undefined, "it lies in no file");
  await top!.dropPages(2048, 512);
  fixed = false;
  assert.equal(top!.inPageCache(0, 512), undefined, "it may lie elsewhere soon");
  await top!.dropPages(0, 512);
  assert.deepEqual(asked, []);
  await made.graph.closeAll();
});
