import assert from "node:assert/strict";
import { BlockError, CommandError, IoVec } from "../../base/mod.ts";
import {
  BlockGraph,
  type Child,
  driverRegistry,
  FactsRound,
  type FormatInstance,
  Perm,
  type Placement,
  RequestFlag,
  type TruncateOptions,
  type WritePlan,
} from "../mod.ts";
import { MemoryDisk, memoryDriver, testContext as coreContext } from "../testing.ts";
import { raw, type RawOptions } from "./raw.ts";
import { inContext, openContext, openDriver, type TestContext } from "./testing.ts";

const test = (name: string, body: (context: TestContext) => Promise<void>) =>
  Deno.test(name, inContext(body));

const SIZE = 1024;

/** A child that only has a length; what is asked of it is kept. */
function child(facts: Record<string, unknown> = {}): Child & { truncated: number[] } {
  const truncated: number[] = [];
  return {
    name: "file",
    node: { name: "c", driver: "file", size: SIZE },
    size: SIZE,
    facts: () => facts,
    truncated,
    truncate: (size: number, _options: TruncateOptions) => void truncated.push(size),
  } as unknown as Child & { truncated: number[] };
}

async function open(
  context: TestContext,
  options: Partial<RawOptions>,
  file = child(),
): Promise<FormatInstance> {
  const all = { file: "c", ...options };
  const how = { child: () => Promise.resolve(file as Child) };
  return await openDriver(raw, context, all, how) as FormatInstance;
}

/** Where a driver says that a range lies, or is to go. */
class Place {
  at = -1;
  length: number | undefined;
  inChild(_child: Child, at: number, length?: number): void {
    this.at = at;
    this.length = length;
  }
}

test(
  "byte 0 of the window is byte `offset` of the child, for reads and writes",
  async (context) => {
    const node = await open(context, { offset: 512 });
    assert.equal(node.size, 512);
    const place = new Place();
    await node.locate(100, 50, place as unknown as Placement);
    assert.deepEqual([place.at, place.length], [612, 50]);
    await node.reserve!(7, 9, place as unknown as WritePlan);
    assert.deepEqual([place.at, place.length], [519, 9]);
  },
);

test("without options it is as long as its child", async (context) => {
  assert.equal((await open(context, {})).size, SIZE);
});

test("windows that do not fit are refused in QEMU's words", async (context) => {
  const texts: [Partial<RawOptions>, string][] = [
    [{ offset: 4096 }, "Offset (4096) cannot be greater than size of the containing file (1024)"],
    [
      { offset: 512, size: 1024 },
      "The sum of offset (512) and size (1024) has to be smaller or equal to the " +
      " actual size of the containing file (1024)",
    ],
    [{ size: 1000 }, "Specified size is not multiple of 512"],
    [{ offset: -1 }, "Parameter 'offset' expects a non-negative number below 2^64"],
    [{ size: -512 }, "Parameter 'size' expects a non-negative number below 2^64"],
    [
      { offset: 512, size: Number.MAX_SAFE_INTEGER },
      `The sum of offset (512) and size (${Number.MAX_SAFE_INTEGER}) has to be smaller or equal ` +
      "to the  actual size of the containing file (1024)",
    ],
  ];
  for (const [options, text] of texts) {
    await assert.rejects(open(context, options), (error: CommandError) => {
      assert.ok(error instanceof CommandError);
      assert.equal(error.message, text);
      return true;
    });
  }
  for (const options of [{ offset: SIZE }, { size: 0 }, { offset: 512, size: 512 }]) {
    await open(context, options);
  }
});

test("resizing moves the end of the child, unless the size was fixed", async (context) => {
  const file = child();
  const off: TruncateOptions = { exact: false, preallocation: "off" };
  await (await open(context, { offset: 512 }, file)).truncate!(4096, off);
  assert.deepEqual(file.truncated, [4608]);
  const fixed = await open(context, { size: 512 }, file);
  assert.throws(() => fixed.truncate!(1024, off), {
    errno: "ENOTSUP",
    message: "Cannot resize fixed-size raw disks",
  });
  const far = await open(context, { offset: 512 }, file);
  assert.throws(() => far.truncate!(Number.MAX_SAFE_INTEGER, off), BlockError);
});

test("names are the child's, or say what the window is", async (context) => {
  const file = child({ filename: "reg", actualSize: 4096, format: "file", dirtyFlag: false });
  const plain = await (await open(context, {}, file)).facts!(new FactsRound());
  assert.equal(plain.filename, "reg");
  assert.equal(plain.actualSize, 4096);
  assert.equal(plain.format, "raw");
  assert.equal(plain.dirtyFlag, false);
  const window = await (await open(context, { offset: 512, size: 512 }, file)).facts!(
    new FactsRound(),
  );
  assert.equal(
    window.filename,
    'json:{"offset": 512, "driver": "raw", "size": 512, ' +
      '"file": {"driver": "file", "filename": "reg"}}',
  );
  const outer = await (await open(context, { size: 0 }, child(window))).facts!(new FactsRound());
  const inner = window.filename!.slice("json:".length);
  assert.equal(outer.filename, `json:{"driver": "raw", "size": 0, "file": ${inner}}`);
});

test(
  "raw over raw is named by its options, even where a plain name would do",
  async (context) => {
    const inner = await (await open(context, {}, child({ filename: "reg" }))).facts!(
      new FactsRound(),
    );
    const outer = await (await open(context, {}, child(inner))).facts!(new FactsRound());
    assert.equal(
      outer.filename,
      'json:{"driver": "raw", "file": {"driver": "raw", "file": {"driver": "file", "filename": "reg"}}}',
    );
  },
);

Deno.test("a pure raw passes permissions through; a window keeps the child's length as it is", () => {
  const parents = { needed: Perm.consistentRead | Perm.write, shared: Perm.all, readOnly: false };
  const ask = (options: Partial<RawOptions>) =>
    raw.childPermissions!("file", ["data"], parents, { file: "c", ...options });
  assert.deepEqual(ask({}), { needed: parents.needed, shared: Perm.all });
  assert.deepEqual(ask({ offset: 0 }), {
    needed: parents.needed,
    shared: Perm.all & ~Perm.resize,
  });
});

test("a window can be moved by reopening", async (context) => {
  const node = await open(context, { offset: 512 });
  const options = { file: "c", size: 512 };
  const how = { child: () => Promise.resolve(child() as Child) };
  const change = await node.prepareReopen!(openContext(context, options, how), options);
  assert.equal(node.size, 512);
  await change.commit();
  const place = new Place();
  await node.locate(0, 1, place as unknown as Placement);
  assert.equal(place.at, 0);
});

Deno.test("FUA goes down with the data: a child that honours it needs no flush", async () => {
  const disk = new MemoryDisk(SIZE);
  disk.supportedFlags = RequestFlag.fua;
  const context = coreContext();
  const drivers = driverRegistry([memoryDriver({ d: disk }), raw as never]);
  const graph = new BlockGraph({ context, drivers, events: { emit: () => {} } });
  const options = { driver: "raw", "node-name": "r", file: { driver: "memory", disk: "d" } };
  await graph.add(options, { monitorOwned: true });
  const needed = Perm.consistentRead | Perm.write;
  const backend = await graph.backend("r", { describe: "it", needed, shared: Perm.all });
  const iov = IoVec.of(context.sys.allocate(512).address, 512);
  await backend.write(0, iov, RequestFlag.fua);
  await backend.writeZeroes(0, 512, RequestFlag.fua);
  assert.deepEqual(disk.calls.map(({ op, flags }) => [op, flags]), [
    ["write", RequestFlag.fua],
    ["write-zeroes", RequestFlag.fua],
  ]);
  await backend.detach();
  await graph.closeAll();
});
