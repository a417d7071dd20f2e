import assert from "node:assert/strict";
import { CommandError, GiB, IoVec } from "../../base/mod.ts";
import { emptyStatus, FactsRound, type IoInstance, RequestFlag } from "../mod.ts";
import { nullAio, nullCo, type NullOptions } from "./null.ts";
import { inContext, openContext, openDriver, Piece, type TestContext } from "./testing.ts";

const test = (name: string, body: (context: TestContext) => Promise<void>) =>
  Deno.test(name, inContext(body));

async function open(
  context: TestContext,
  options: NullOptions,
  definition = nullCo,
): Promise<IoInstance> {
  return await openDriver(definition, context, options) as IoInstance;
}

test(
  "null-co answers at once; reads show nothing of what the memory held before, unless it is the requester's own",
  async (context) => {
    const piece = new Piece(context.sys, 512);
    const node = await open(context, {});
    assert.equal(node.write!(0, piece.iov, 0), undefined);
    for (const zeroes of [false, true]) {
      const node = await open(context, { "read-zeroes": zeroes });
      piece.bytes.fill(1);
      const iov = IoVec.of(piece.memory.address, 100).add(piece.memory.address + 100, 412);
      assert.equal(node.read(0, iov, 0), undefined);
      assert.deepEqual(piece.bytes, new Uint8Array(512));
      piece.bytes.fill(1);
      assert.equal(node.read(0, iov, RequestFlag.ownMemory), undefined);
      assert.deepEqual(piece.bytes, new Uint8Array(512).fill(zeroes ? 0 : 1));
    }
    piece.free();
  },
);

test("null-aio answers later, whatever the request", async (context) => {
  const node = await open(context, {}, nullAio);
  const piece = new Piece(context.sys, 512);
  const results = [
    node.read(0, piece.iov, 0),
    node.write!(0, piece.iov, 0),
    node.writeZeroes!(0, 512, 0),
    node.discard!(0, 512),
    node.flush!(),
  ];
  for (const result of results) assert.ok(result instanceof Promise);
  await Promise.all(results);
  piece.free();
});

test("latency-ns holds every request back for as long", async (context) => {
  for (const definition of [nullCo, nullAio]) {
    const node = await open(context, { "latency-ns": 5_000_000 }, definition);
    const piece = new Piece(context.sys, 512);
    await node.read(0, piece.iov, 0);
    await node.write!(0, piece.iov, 0);
    await node.flush!();
    piece.free();
  }
  assert.deepEqual(context.sleeps, new Array(6).fill(5_000_000));
});

test(
  "the size is 1 GiB unless given, and names carry what a plain one cannot",
  async (context) => {
    const plain = await open(context, { "latency-ns": 1 });
    assert.equal(plain.size, GiB);
    assert.deepEqual(await plain.facts!(new FactsRound()), {
      filename: "null-co://",
      format: "null-co",
      actualSize: 0,
    });
    const given = await open(context, { size: 1000, "read-zeroes": true }, nullAio);
    assert.equal(given.size, 1000);
    const { filename } = await given.facts!(new FactsRound());
    assert.equal(filename, 'json:{"read-zeroes": true, "driver": "null-aio", "size": 1000}');
  },
);

test("only read-zeroes makes the contents known to be zero", async (context) => {
  const out = emptyStatus();
  await (await open(context, { "read-zeroes": true })).status!(0, 4096, true, out);
  assert.deepEqual([out.zero, out.data, out.length], [true, false, 4096]);
  await (await open(context, {})).status!(0, 4096, true, out);
  assert.deepEqual([out.zero, out.data], [false, false]);
});

test("bad values are refused, and nothing can be changed afterwards", async (context) => {
  await assert.rejects(open(context, { size: -1 }), CommandError);
  await assert.rejects(open(context, { "latency-ns": 2 ** 63 }), /latency-ns is invalid/);
  const node = await open(context, { size: 512 });
  const reopen = async (options: NullOptions) =>
    await node.prepareReopen!(openContext(context, {}), options);
  await assert.rejects(reopen({ size: 1024 }), /Cannot change the option 'size'/);
  await assert.rejects(reopen({}), /Option 'size' cannot be reset to its default value/);
  await (await reopen({ size: 512 })).commit();
});
