/**
 * Each option of overlap-check catches writes to its structure, and leaves others alone: an image whose L2 entry leads
 * the guest's first cluster to some metadata, as a broken image may.
 */
import assert from "node:assert/strict";
import { IoVec } from "../../../base/mod.ts";
import { createContext } from "../../../sys/mod.ts";
import { BlockGraph, Perm } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import { qcow2 } from "./mod.ts";

const CLUSTER = 4096;
const OFFSET = 0x00fffffffffffe00n;

async function run(program: string, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.equal(code, 0, `${program} ${args.join(" ")}: ${text}`);
}

/** Where each structure of an image lies; its L2 entry for guest cluster 0 is at `entry`. */
interface Places {
  readonly entry: number;
  readonly of: Readonly<Record<string, number>>;
}

/** An image with a snapshot, a bitmap, and data. */
async function makeImage(path: string): Promise<Places> {
  await run("qemu-img", "create", "-qf", "qcow2", "-o", `cluster_size=${CLUSTER}`, path, "1M");
  await run("qemu-io", "-c", "write -P 1 0 64k", path);
  await run("qemu-img", "snapshot", "-c", "s", path);
  await run("qemu-io", "-c", "write -P 2 0 64k", path);
  await run("qemu-img", "bitmap", "--add", path, "b");
  const bytes = await Deno.readFile(path);
  const view = new DataView(bytes.buffer);
  const word = (at: number) => Number(view.getBigUint64(at) & OFFSET);
  const l1 = word(40), table = word(48), snapshots = word(64);
  const inactiveL1 = word(snapshots);
  let directory = 0;
  for (let at = view.getUint32(100); view.getUint32(at) !== 0;) {
    if (view.getUint32(at) === 0x23852875) directory = word(at + 8 + 16);
    at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  }
  assert.ok(directory > 0);
  const entry = word(l1);
  return {
    entry,
    of: {
      "main-header": 0,
      "active-l1": l1,
      "active-l2": entry,
      "refcount-table": table,
      "refcount-block": word(table),
      "snapshot-table": snapshots,
      "inactive-l1": inactiveL1,
      "inactive-l2": word(inactiveL1),
      "bitmap-directory": directory,
    },
  };
}

/** Writes to the guest's first cluster, which lies at `target`. What went wrong, and the events. */
async function write(
  path: string,
  overlap: unknown,
): Promise<{ error: unknown; messages: string[] }> {
  const messages: string[] = [];
  const log = { error: () => {}, warn: () => {}, info: () => {} };
  const context = createContext({ name: "test", log });
  const graph = new BlockGraph({
    context,
    drivers: driverRegistry([file, qcow2] as Parameters<typeof driverRegistry>[0]),
    events: { emit: (_name, data) => void messages.push(String((data as { msg?: string }).msg)) },
  });
  let error: unknown;
  try {
    const node = {
      driver: "qcow2",
      "node-name": "disk",
      file: { driver: "file", filename: path },
      "overlap-check": overlap,
    };
    await graph.add(node as Parameters<BlockGraph["add"]>[0], { monitorOwned: true });
    const backend = await graph.backend("disk", {
      describe: "the test",
      needed: Perm.consistentRead | Perm.write,
      shared: Perm.all,
    });
    const buffer = context.buffers.acquire(512);
    buffer.bytes.fill(0x55);
    try {
      await backend.write(512, IoVec.of(buffer.address, 512));
    } catch (thrown) {
      error = thrown;
    }
    context.buffers.release(buffer);
    await backend.detach();
  } finally {
    await graph.closeAll();
    await context.close();
  }
  return { error, messages };
}

const NAMES: Readonly<Record<string, string>> = {
  // No entry leads to the header: one of 0 leads nowhere.
  "active-l1": "active L1 table",
  "active-l2": "active L2 table",
  "refcount-table": "refcount table",
  "refcount-block": "refcount block",
  "snapshot-table": "snapshot table",
  "inactive-l1": "inactive L1 table",
  "inactive-l2": "inactive L2 table",
  "bitmap-directory": "bitmap directory",
};
const CONSTANT = ["active-l1", "refcount-table", "snapshot-table"];

async function withImage(
  task: (
    try_: (option: string, overlap: unknown) => ReturnType<typeof write>,
  ) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  try {
    const path = `${directory}/disk.qcow2`;
    const { entry, of } = await makeImage(path);
    const good = await Deno.readFile(path);
    await task((option, overlap) => {
      const bytes = good.slice();
      new DataView(bytes.buffer).setBigUint64(entry, 1n << 63n | BigInt(of[option]!));
      Deno.writeFileSync(path, bytes);
      return write(path, overlap);
    });
  } finally {
    await Deno.remove(directory, { recursive: true });
  }
}

for (const [option, name] of Object.entries(NAMES)) {
  Deno.test(`overlap-check ${option} catches a write there, and nothing else does`, async () => {
    await withImage(async (write) => {
      const caught = await write(option, { template: "none", [option]: true });
      assert.match(String(caught.error), /Error|Input\/output/);
      assert.deepEqual(
        caught.messages,
        [`Preventing invalid write on metadata (overlaps with ${name})`],
      );
      const all = await write(option, "all");
      assert.equal(all.messages.length, 1);
      const cached = await write(option, "cached");
      assert.equal(cached.messages.length, option === "inactive-l2" ? 0 : 1);
      const without = await write(option, { template: "all", [option]: false });
      assert.ok(
        without.messages.every((one) => !one.startsWith("Preventing invalid write on metadata")),
        String(without.messages),
      );
    });
  });
}

Deno.test("overlap-check constant looks after what does not move, none after nothing", async () => {
  await withImage(async (write) => {
    for (const option of Object.keys(NAMES)) {
      const caught = ({ messages }: { messages: string[] }) =>
        messages.some((one) => one.startsWith("Preventing invalid write on metadata"));
      const constant = CONSTANT.includes(option) || option === "bitmap-directory";
      assert.equal(caught(await write(option, "constant")), constant, option);
      assert.equal(caught(await write(option, "none")), false, option);
    }
  });
});

for (const flag of [0n, 1n]) {
  Deno.test(`an entry that is copied, with ${flag ? "zeroes at" : "data at"} no offset, leads nowhere`, async () => {
    const directory = await Deno.makeTempDir();
    try {
      const path = `${directory}/disk.qcow2`;
      const { entry } = await makeImage(path);
      const bytes = await Deno.readFile(path);
      new DataView(bytes.buffer).setBigUint64(entry, 1n << 63n | flag);
      await Deno.writeFile(path, bytes);
      assert.deepEqual(await write(path, "none"), { error: undefined, messages: [] });
      const after = (await Deno.readFile(path)).subarray(512, CLUSTER);
      assert.deepEqual(after, bytes.subarray(512, CLUSTER));
      await run("qemu-io", "-r", "-c", "read -P 0x55 512 512", "-c", "read -P 0 1k 3k", path);
    } finally {
      await Deno.remove(directory, { recursive: true });
    }
  });
}
