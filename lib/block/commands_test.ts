import assert from "node:assert/strict";
import { BlockError, IoVec } from "../base/mod.ts";
import { blockCommands } from "./commands.ts";
import { MemoryDisk, testGraph } from "./testing.ts";
import { Perm } from "./types.ts";

async function setUp() {
  const made = testGraph({ d: new MemoryDisk(4096) });
  const commands = blockCommands(made.graph);
  await made.add({
    driver: "raw",
    "node-name": "r",
    file: { driver: "memory", disk: "d", "node-name": "f" },
  });
  return { ...made, commands };
}

Deno.test("query-named-block-nodes shows the newest first, in QEMU's shape", async () => {
  const { graph, commands } = await setUp();
  const nodes = await commands["query-named-block-nodes"]({});
  assert.deepEqual(nodes.map((node) => node["node-name"]), ["r", "f"]);
  assert.deepEqual(nodes[0]!.children, [{ child: "file", "node-name": "f" }]);
  assert.deepEqual(nodes[1], {
    file: 'json:{"driver": "memory", "disk": "d"}',
    "node-name": "f",
    children: [],
    ro: false,
    drv: "memory",
    backing_file_depth: 0,
    active: true,
    encrypted: false,
    detect_zeroes: "off",
    bps: 0,
    bps_rd: 0,
    bps_wr: 0,
    iops: 0,
    iops_rd: 0,
    iops_wr: 0,
    image: {
      filename: 'json:{"driver": "memory", "disk": "d"}',
      format: "memory",
      "virtual-size": 4096,
      limits: {
        "request-alignment": 1,
        "max-transfer": 2 ** 31 - 1,
        "max-iov": 1024,
        "min-mem-alignment": 1,
        "opt-mem-alignment": 4096,
      },
    },
    cache: { writeback: true, direct: false, "no-flush": false },
    write_threshold: 0,
  });
  await graph.closeAll();
});

Deno.test("query-blockstats lists nodes, oldest first, with their file", async () => {
  const { graph, commands, memory } = await setUp();
  assert.deepEqual(await commands["query-blockstats"]({}), []);
  assert.deepEqual(await commands["query-block"]({}), []);
  const backend = await graph.backend("r", {
    describe: "test",
    needed: Perm.write,
    shared: Perm.all,
  });
  await backend.write(1024, IoVec.of(memory(512).address, 512));
  const stats = await commands["query-blockstats"]({ "query-nodes": true });
  assert.deepEqual(stats.map((one) => one["node-name"]), ["f", "r"]);
  assert.equal(stats[1]!.parent!["node-name"], "f");
  assert.equal(stats[1]!.stats.wr_highest_offset, 1536);
  await backend.read(0, IoVec.of(memory(1024).address, 1024));
  await backend.flush();
  await assert.rejects(async () => await backend.read(1e9, IoVec.of(memory(512).address, 512)));
  // A user's requests stay with the node when it has gone; the next one's are added.
  for (const writes of [1, 2]) {
    const [below, node] = await commands["query-blockstats"]({ "query-nodes": true });
    const { rd_bytes, rd_operations, wr_bytes, wr_operations, flush_operations } = node!.stats;
    assert.deepEqual(
      [rd_bytes, rd_operations, wr_bytes, wr_operations, flush_operations],
      [1024, 1, 512 * writes, writes, 1],
    );
    assert.equal(node!.stats.failed_rd_operations, 1);
    assert.equal(below!.stats.rd_operations, 0);
    if (writes === 1) {
      await backend.detach();
      const next = await graph.backend("r", {
        describe: "another",
        needed: Perm.write,
        shared: Perm.all,
      });
      await next.write(0, IoVec.of(memory(512).address, 512));
      await next.detach();
    }
  }
  await graph.closeAll();
});

Deno.test("block_resize and block-set-write-threshold refuse in QEMU's words", async () => {
  const { graph, commands } = await setUp();
  const table: [Parameters<typeof commands.block_resize>[0], string][] = [
    [{ size: 0 }, "Cannot find device='' nor node-name=''"],
    [{ device: "zz", size: 0 }, "Cannot find device='zz' nor node-name=''"],
    [{ "node-name": "zz", size: 0 }, "Cannot find device='' nor node-name='zz'"],
    [{ "node-name": "r", size: -1 }, "Parameter 'size' expects a >0 size"],
  ];
  for (const [args, message] of table) {
    await assert.rejects(async () => await commands.block_resize(args), { message });
  }
  await commands.block_resize({ "node-name": "r", size: 8192 });
  assert.equal(graph.find("f")!.size, 8192);
  const set = commands["block-set-write-threshold"];
  await assert.rejects(
    async () => await set({ "node-name": "n12", "write-threshold": 1 }),
    { message: "Device 'n12' not found" },
  );
  for (const [exact, shown] of [[2n ** 53n + 1n, 2n ** 53n + 1n], [2n ** 64n - 5n, -5n]] as const) {
    await set({ "node-name": "f", "write-threshold": exact });
    assert.equal((await commands["query-named-block-nodes"]({}))[1]!.write_threshold, shown);
  }
  await set({ "node-name": "f", "write-threshold": 512 });
  assert.equal((await commands["query-named-block-nodes"]({}))[1]!.write_threshold, 512);
  await graph.closeAll();
});

Deno.test("x-debug-query-block-graph shows nodes, users and permissions", async () => {
  const { graph, commands } = await setUp();
  const backend = await graph.backend("r", {
    describe: "test",
    needed: Perm.consistentRead | Perm.write,
    shared: Perm.all & ~Perm.resize,
  });
  const { nodes, edges } = await commands["x-debug-query-block-graph"]({});
  assert.deepEqual(nodes.map(({ name, type }) => `${type} ${name}`), [
    "block-driver r",
    "block-driver f",
    "block-backend ",
  ]);
  const id = (name: string) => nodes.find((node) => node.name === name)!.id;
  const perm = ["write", "consistent-read"];
  const shared = ["write-unchanged", "write", "consistent-read"];
  assert.deepEqual(edges, [
    { parent: id("r"), child: id("f"), name: "file", perm, "shared-perm": shared },
    { parent: id(""), child: id("r"), name: "root", perm, "shared-perm": shared },
  ]);
  await backend.detach();
  await graph.closeAll();
});

Deno.test("what the outside world refuses is a GenericError of the command", async () => {
  const { graph, context } = testGraph({ d: new MemoryDisk(4096) });
  const commands = blockCommands(graph);
  await commands["blockdev-add"](
    { driver: "memory", disk: "d", "node-name": "n" } as unknown as Parameters<
      (typeof commands)["blockdev-add"]
    >[0],
  );
  graph.find("n")!.instance.truncate = () => {
    throw new BlockError("ENOSPC", "No space left on device");
  };
  await assert.rejects(
    async () => await commands.block_resize({ "node-name": "n", size: 8192 }),
    { name: "CommandError", errorClass: "GenericError", message: "No space left on device" },
  );
  assert.deepEqual(context.lines, []);
  await graph.closeAll();
});
