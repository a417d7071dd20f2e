/** qemu-io against exports: patterns, zeroes, discards, FUA, odd places. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { allocated, noise, noisy } from "../harness/images.ts";
import { serve } from "../harness/serve.ts";
import { lacks, ok, qemuIo } from "../harness/tools.ts";

const ignore = lacks("interop/qemu-io", "qemu-io", "qemu-img");
const MIB = 1024 * 1024;

/** One write as qemu-io's words and as its effect on a model. */
type Write = readonly [string, (model: Uint8Array) => unknown];

const writes: readonly Write[] = [
  ["write -P 0x11 0 64k", (model) => model.fill(0x11, 0, 65536)],
  ["write -P 0x22 1M 1M", (model) => model.fill(0x22, MIB, 2 * MIB)],
  ["write -f -P 0x33 512 512", (model) => model.fill(0x33, 512, 1024)],
  ["write -f -P 0x44 3M 256k", (model) => model.fill(0x44, 3 * MIB, 3 * MIB + 262144)],
  ["write -P 0x55 1234567 4321", (model) => model.fill(0x55, 1234567, 1238888)],
  ["write -z 2M 128k", (model) => model.fill(0, 2 * MIB, 2 * MIB + 131072)],
  ["write -z -u 2560k 256k", (model) => model.fill(0, 2621440, 2621440 + 262144)],
  ["write -z -f 1000001 77777", (model) => model.fill(0, 1000001, 1077778)],
  ["write -P 0x66 8388600 8", (model) => model.fill(0x66, 8388600, 8388608)],
  ["writev -P 0x77 4M 4096 512 8192 512", (model) => model.fill(0x77, 4 * MIB, 4 * MIB + 13312)],
  ["aio_write -q -P 0x88 5M 1M", (model) => model.fill(0x88, 5 * MIB, 6 * MIB)],
  ["aio_flush", () => {}],
  ["flush", () => {}],
];

for (
  const [name, node] of [
    ["the page cache", ""],
    ["O_DIRECT", ",cache.direct=on"],
    ["no flushes", ",cache.no-flush=on"],
    ["detect-zeroes=unmap", ",discard=unmap,detect-zeroes=unmap"],
  ] as const
) {
  Deno.test({
    name: `qemu-io's writes of every kind land where they should, with ${name}`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      const model = noisy(dir.file("disk.raw"), 8 * MIB, 11);
      await using daemon = await serve({ dir, node });
      await qemuIo(daemon.uri("disk"), writes.map(([words]) => words));
      for (const [, apply] of writes) apply(model);
      await qemuIo(daemon.uri("disk"), ["read -P 0x55 1234567 4321", "read -P 0 2M 128k"]);
      assert.equal((await daemon.stop()).status, 0);
      Deno.writeFileSync(dir.file("model.raw"), model);
      const args = ["compare", "-f", "raw", "-F", "raw"];
      const said = await ok("qemu-img", [...args, dir.file("disk.raw"), dir.file("model.raw")]);
      assert.match(said, /identical/);
    },
  });
}

Deno.test({
  name: "a discard gives the space back with discard=unmap, and keeps it with discard=ignore",
  ignore,
  fn: async () => {
    for (const [mode, freed] of [["unmap", true], ["ignore", false]] as const) {
      await using dir = TestDir.make();
      const model = noisy(dir.file("disk.raw"), 8 * MIB, 12);
      const before = allocated(dir.file("disk.raw"));
      await using daemon = await serve({ dir, node: `,discard=${mode}` });
      await qemuIo(daemon.uri("disk"), ["discard 1M 4M"], ["--discard=unmap"]);
      await daemon.stop();
      const given = before - allocated(dir.file("disk.raw"));
      assert.equal(given >= 4 * MIB - 65536, freed, `${mode}: ${given} bytes given back`);
      if (freed) model.fill(0, MIB, 5 * MIB);
      Deno.writeFileSync(dir.file("model.raw"), model);
      const args = [
        "compare",
        "-f",
        "raw",
        "-F",
        "raw",
        dir.file("disk.raw"),
        dir.file("model.raw"),
      ];
      assert.match(await ok("qemu-img", args), /identical/);
    }
  },
});

Deno.test({
  name: "a raw window writes only inside itself",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 4 * MIB, 13);
    await using daemon = await serve({
      dir,
      args: [
        "--blockdev",
        "raw,node-name=window,file=disk,offset=1048576,size=1048576,discard=unmap",
        "--export",
        "nbd,id=e1,node-name=window,writable=on",
      ],
      node: ",discard=unmap",
    });
    const uri = daemon.uri("window");
    await qemuIo(uri, ["write -P 0xaa 0 64k", "write -P 0xbb 983040 64k", "write -z 128k 64k"]);
    await qemuIo(uri, ["discard 256k 64k"], ["--discard=unmap"]);
    await daemon.stop();
    model.fill(0xaa, MIB, MIB + 65536).fill(0xbb, MIB + 983040, 2 * MIB);
    model.fill(0, MIB + 131072, MIB + 196608).fill(0, MIB + 262144, MIB + 327680);
    Deno.writeFileSync(dir.file("model.raw"), model);
    const args = ["compare", "-f", "raw", "-F", "raw", dir.file("disk.raw"), dir.file("model.raw")];
    assert.match(await ok("qemu-img", args), /identical/);
  },
});

Deno.test({
  name: "random writes from qemu-io agree with a model",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const model = noisy(dir.file("disk.raw"), 4 * MIB, 14);
    await using daemon = await serve({ dir, node: ",discard=unmap" });
    const dice = new Uint32Array(noise(4 * 900, 15).buffer);
    const words: string[] = [];
    for (let at = 0; at < 300; at++) {
      const start = dice[3 * at]! % (4 * MIB - 1);
      const length = 1 + dice[3 * at + 1]! % Math.min(100_000, 4 * MIB - start);
      const pattern = dice[3 * at + 2]! % 255 + 1;
      const zero = pattern % 4 === 0;
      words.push(`write -q ${zero ? "-z" : `-P ${pattern}`} ${start} ${length}`);
      model.fill(zero ? 0 : pattern, start, start + length);
    }
    await qemuIo(daemon.uri("disk"), words);
    await daemon.stop();
    Deno.writeFileSync(dir.file("model.raw"), model);
    const args = ["compare", "-f", "raw", "-F", "raw", dir.file("disk.raw"), dir.file("model.raw")];
    assert.match(await ok("qemu-img", args), /identical/);
  },
});
