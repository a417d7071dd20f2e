/** nbdcopy both ways, and nbdinfo's map, with sparse images. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { allocated, noise, sparse } from "../harness/images.ts";
import { serve } from "../harness/serve.ts";
import { lacks, ok } from "../harness/tools.ts";

const ignore = lacks("interop/nbdcopy", "nbdcopy", "nbdinfo", "qemu-img");
const MIB = 1024 * 1024;
const stretches = Array.from({ length: 40 }, (_, at) => ({
  at: at * 3 * MIB + (at % 7) * 4096,
  bytes: noise(200_000 + at * 1000, at + 1),
}));
const same = async (a: string, b: string) =>
  assert.match(await ok("qemu-img", ["compare", "-f", "raw", "-F", "raw", a, b]), /identical/);

for (const connections of [1, 4]) {
  Deno.test({
    name: `nbdcopy from an export, ${connections} connections, keeps bytes and holes`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      sparse(dir.file("disk.raw"), 128 * MIB, stretches);
      await using daemon = await serve({ dir, writable: false });
      const args = [`--connections=${connections}`, daemon.uri("disk"), dir.file("copy.raw")];
      await ok("nbdcopy", args);
      await same(dir.file("disk.raw"), dir.file("copy.raw"));
      assert.ok(allocated(dir.file("copy.raw")) < 24 * MIB, "holes must stay holes");
    },
  });

  Deno.test({
    name: `nbdcopy to an export, ${connections} connections, keeps bytes and holes`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      sparse(dir.file("source.raw"), 128 * MIB, stretches);
      sparse(dir.file("disk.raw"), 128 * MIB, [{ at: 50 * MIB, bytes: noise(2 * MIB, 99) }]);
      await using daemon = await serve({ dir });
      const uri = daemon.uri("disk");
      await ok("nbdcopy", ["--flush", `--connections=${connections}`, dir.file("source.raw"), uri]);
      assert.equal((await daemon.stop()).status, 0);
      await same(dir.file("source.raw"), dir.file("disk.raw"));
      assert.ok(allocated(dir.file("disk.raw")) < 24 * MIB, "zeroes must be written as holes");
    },
  });
}

Deno.test({
  name: "nbdcopy from one export of a daemon to another",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    sparse(dir.file("disk.raw"), 64 * MIB, stretches.slice(0, 20));
    sparse(dir.file("other.raw"), 64 * MIB);
    const other = ["--blockdev", "file,node-name=other,filename=other.raw"];
    const exported = ["--export", "nbd,id=e1,node-name=other,writable=on"];
    await using daemon = await serve({ dir, args: [...other, ...exported] });
    await ok("nbdcopy", [daemon.uri("disk"), daemon.uri("other")]);
    await daemon.stop();
    await same(dir.file("disk.raw"), dir.file("other.raw"));
  },
});

Deno.test({
  name: "the map of an export adds up to its size and finds the data",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    sparse(dir.file("disk.raw"), 16 * MIB, [{ at: 5 * MIB, bytes: noise(MIB, 1) }]);
    await using daemon = await serve({ dir });
    const extents: { offset: number; length: number; type: number }[] = JSON.parse(
      await ok("nbdinfo", ["--map", "--json", daemon.uri("disk")]),
    );
    assert.deepEqual(extents.map(({ offset, length, type }) => [offset, length, type]), [
      [0, 5 * MIB, 3],
      [5 * MIB, MIB, 0],
      [6 * MIB, 10 * MIB, 3],
    ]);
  },
});
