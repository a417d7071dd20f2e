/** Changes of the length with each way of preallocation, as qemu-img sees them. */
import assert from "node:assert/strict";
import { IoVec, KiB, MiB } from "../../../base/mod.ts";
import { createContext } from "../../../sys/mod.ts";
import { type BlockBackend, BlockGraph, Perm, type TruncateOptions } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import { raw } from "../raw.ts";
import { qcow2 } from "./mod.ts";

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const text = new TextDecoder().decode(stdout);
  assert.equal(code, 0, `${program} ${args.join(" ")}: ${text}${new TextDecoder().decode(stderr)}`);
  return text;
}

type Preallocation = TruncateOptions["preallocation"];

/** Makes an image with a megabyte of data, resizes it, and closes it. */
async function resized(
  create: readonly string[],
  act: (backend: BlockBackend, path: string, graph: BlockGraph) => Promise<void>,
  look: (path: string, data: string) => Promise<void>,
  more: (data: string) => Record<string, unknown> = () => ({}),
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  try {
    const path = `${directory}/disk.qcow2`, data = `${directory}/data`;
    const options = create.map((one) => one.replace("DATA", data)).join(",");
    const format = options === "" ? [] : ["-o", options];
    await run("qemu-img", "create", "-qf", "qcow2", ...format, path, String(2 * MiB + 512));
    await run("qemu-io", "-c", "write -P 7 0 1M", "-c", "write -P 8 2M 512", path);
    const graph = new BlockGraph({
      context,
      drivers: driverRegistry([file, raw, qcow2] as Parameters<typeof driverRegistry>[0]),
      events: { emit: () => {} },
    });
    const node = {
      driver: "qcow2",
      "node-name": "disk",
      file: { driver: "file", filename: path },
      ...more(data),
    };
    await graph.add(node as Parameters<BlockGraph["add"]>[0], { monitorOwned: true });
    const backend = await graph.backend("disk", {
      describe: "the test",
      needed: Perm.consistentRead | Perm.write | Perm.resize,
      shared: Perm.all,
    });
    try {
      await act(backend, path, graph);
    } finally {
      await backend.detach();
      await graph.closeAll();
    }
    await run("qemu-img", "check", "-q", path);
    await look(path, data);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

/** Guest bytes with a place of their own, and bytes that the files take on the host. */
async function room(path: string, data: string): Promise<{ placed: number; taken: number }> {
  const map: { length: number; offset?: number }[] = JSON.parse(
    await run("qemu-img", "map", "--output=json", path),
  );
  const placed = map.reduce((sum, one) => sum + (one.offset === undefined ? 0 : one.length), 0);
  let taken = 0;
  for (const name of [path, data]) {
    taken += ((await Deno.stat(name).catch(() => undefined))?.blocks ?? 0) * 512;
  }
  return { placed, taken };
}

const SHAPES: Readonly<Record<string, readonly string[]>> = {
  "clusters of 64 KiB": [],
  "version 2": ["compat=0.10", "cluster_size=4k"],
  "clusters of 512 bytes": ["cluster_size=512"],
  subclusters: ["extended_l2=on", "cluster_size=16k"],
  "a data file": ["data_file=DATA", "cluster_size=4k"],
};
const LONG = 6 * MiB + 1024;

for (const [name, create] of Object.entries(SHAPES)) {
  for (const preallocation of ["off", "metadata", "falloc", "full"] satisfies Preallocation[]) {
    Deno.test(`a longer disk, preallocation ${preallocation}: ${name}`, async () => {
      await resized(
        create,
        async (backend) => {
          await backend.truncate(LONG, { exact: true, preallocation });
          assert.equal(backend.size, LONG);
        },
        async (path, data) => {
          await run(
            "qemu-io",
            "-c",
            "read -P 7 0 1M",
            "-c",
            "read -P 0 1M 1M",
            "-c",
            "read -P 8 2M 512",
            "-c",
            `read -P 0 ${2 * MiB + 512} ${LONG - 2 * MiB - 512}`,
            path,
          ).then((said) => assert.ok(!said.includes("failed"), said));
          const { placed, taken } = await room(path, data);
          const added = 3.9 * MiB;
          // Subclusters get a place and stay without data: a map shows none.
          if (name !== "subclusters") assert.equal(placed > added, preallocation !== "off");
          const full = preallocation === "falloc" || preallocation === "full";
          assert.equal(taken > added, full, `${taken} bytes`);
        },
      );
    });
  }

  Deno.test(`a shorter disk: ${name}`, async () => {
    await resized(
      create,
      async (backend) => {
        for (const preallocation of ["metadata", "falloc", "full"] as const) {
          await assert.rejects(
            async () => await backend.truncate(512 * KiB, { exact: true, preallocation }),
            { message: "Preallocation can't be used for shrinking an image" },
          );
        }
        await backend.truncate(512 * KiB + 512, { exact: true, preallocation: "off" });
        await backend.truncate(MiB, { exact: true, preallocation: "off" });
        const memory = backend.node.size;
        assert.equal(memory, MiB);
      },
      async (path) => {
        const said = await run(
          "qemu-io",
          "-c",
          `read -P 7 0 ${512 * KiB + 512}`,
          "-c",
          `read -P 0 ${512 * KiB + 512} ${512 * KiB - 512}`,
          path,
        );
        assert.ok(!said.includes("failed"), said);
      },
    );
  });
}

Deno.test("clusters that a discard gave back read as zeroes when they are preallocated", async () => {
  await resized(
    ["cluster_size=4k"],
    async (backend) => {
      await backend.discard(0, MiB);
      await backend.flush();
      await backend.truncate(LONG, { exact: true, preallocation: "metadata" });
      const context = createContext({ name: "reader" });
      const buffer = context.buffers.acquire(LONG);
      await backend.read(0, IoVec.of(buffer.address, LONG));
      const at = buffer.bytes.subarray(2 * MiB + 512, LONG).findIndex((byte) => byte !== 0);
      context.buffers.release(buffer);
      await context.close();
      assert.equal(at, -1);
    },
    async () => {},
  );
});

Deno.test("block_resize writes zeroes to a data file that nobody else writes to", async () => {
  await resized(
    ["data_file=DATA", "data_file_raw=on"],
    async (backend, _path, graph) => {
      await backend.setPermissions(Perm.consistentRead, Perm.all);
      // What is in the last cluster behind the disk's end is no part of it.
      await graph.resize("disk", MiB - 512);
      await graph.resize("disk", LONG);
      assert.equal(backend.size, LONG);
    },
    async (path) => {
      const commands = ["-c", `read -P 7 0 ${MiB - 512}`, "-c", `read -P 0 ${MiB - 512} 5M`];
      const said = await run("qemu-io", ...commands, path);
      assert.ok(!said.includes("failed"), said);
    },
  );
});

Deno.test("a disk that cannot become longer is as long as before", async () => {
  const size = 2 * MiB + 512;
  await resized(
    ["data_file=DATA"],
    async (backend) => {
      const longer = async () =>
        await backend.truncate(LONG, { exact: true, preallocation: "off" });
      await assert.rejects(longer, { message: "Cannot resize fixed-size raw disks" });
      assert.equal(backend.size, size);
      const beyond = async () => await backend.discard(size, 512);
      await assert.rejects(beyond);
    },
    async (path) => {
      const info = JSON.parse(await run("qemu-img", "info", "--output=json", path));
      assert.equal(info["virtual-size"], size);
    },
    (data) => ({ "data-file": { driver: "raw", size, file: { driver: "file", filename: data } } }),
  );
});

for (
  const [name, options, length] of [
    ["16 bits", "cluster_size=512,refcount_bits=16", 4096 * MiB],
    ["64 bits", "cluster_size=512,refcount_bits=64", 4096 * MiB],
    ["64 bits, clusters of 4 KiB", "cluster_size=4k,refcount_bits=64", 1024 * 1024 * MiB],
    ["lazy ones", "cluster_size=512,lazy_refcounts=on", 1024 * MiB],
  ] as const
) {
  Deno.test(`an L1 table may be longer than what one block counts: ${name}`, async () => {
    await resized(
      [options],
      async (backend) => {
        await backend.truncate(length, { exact: true, preallocation: "off" });
      },
      async (path) => {
        // The table, and not much more.
        const l1 = length / (options.includes("4k") ? 4096 : 512) ** 2 * 64;
        const { size } = await Deno.stat(path);
        assert.ok(size < 4 * MiB + 2 * l1, `${size} bytes`);
        const said = await run("qemu-io", "-c", "read -P 7 0 1M", path);
        assert.ok(!said.includes("failed"), said);
      },
    );
  });
}

for (const kind of ["data_file_raw=on", "data_file_raw=off"]) {
  Deno.test(`what a data file holds behind the end of the disk is not in the disk when it grows: ${kind}`, async () => {
    const end = 2 * MiB + 512, size = 4 * MiB;
    await resized(
      ["data_file=DATA", kind],
      async (backend) => {
        await backend.truncate(size, { exact: true, preallocation: "off" });
        await backend.flush();
      },
      async (path, data) => {
        assert.equal((await Deno.stat(data)).size, size);
        for (
          const each of kind.endsWith("on") ? [["qcow2", path], ["raw", data]] : [["qcow2", path]]
        ) {
          const [format, name] = each as [string, string];
          const read = `read -P 0 ${end} ${size - end}`;
          const said = await run("qemu-io", "-rf", format, "-c", read, name);
          assert.doesNotMatch(said, /failed/, format);
        }
      },
      (data) => {
        Deno.writeFileSync(data, new Uint8Array(3 * MiB).fill(9), { append: true });
        return {};
      },
    );
  });
}

Deno.test("a disk grows within a window on its data file that is longer", async () => {
  await resized(
    ["data_file=DATA", "data_file_raw=on"],
    async (backend) => {
      await backend.truncate(4 * MiB, { exact: true, preallocation: "off" });
      await backend.flush();
    },
    async (path, data) => {
      assert.ok((await Deno.stat(data)).size > 5 * MiB, "no byte outside of the window is touched");
      for (const [format, name] of [["qcow2", path], ["raw", data]] as const) {
        const said = await run(
          "qemu-io",
          "-rf",
          format,
          "-c",
          `read -P 0 ${2 * MiB + 512} 1M`,
          name,
        );
        assert.doesNotMatch(said, /failed/, format);
      }
    },
    (data) => {
      Deno.writeFileSync(data, new Uint8Array(3 * MiB).fill(9), { append: true });
      const window = { driver: "raw", size: 5 * MiB, file: { driver: "file", filename: data } };
      return { "data-file": window };
    },
  );
});
