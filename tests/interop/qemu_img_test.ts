/** qemu-img against exports: what it copies is what the file holds. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { allocated, noise, noisy, sparse } from "../harness/images.ts";
import { serve } from "../harness/serve.ts";
import { lacks, ok, run } from "../harness/tools.ts";

const ignore = lacks("interop/qemu-img", "qemu-img");
const MIB = 1024 * 1024;
const same = (a: string, b: string) => ok("qemu-img", ["compare", "-f", "raw", "-F", "raw", a, b]);
/** Data at both ends, in the middle, and across odd places. */
function holey(path: string): void {
  sparse(path, 64 * MIB, [
    { at: 0, bytes: noise(4096, 1) },
    { at: 10 * MIB - 700, bytes: noise(70_000, 2) },
    { at: 33 * MIB, bytes: noise(3 * MIB, 3) },
    { at: 64 * MIB - 512, bytes: noise(512, 4) },
  ]);
}

Deno.test({
  name: "qemu-img info shows the size of an export",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 3 * MIB);
    await using daemon = await serve({ dir });
    const info = JSON.parse(await ok("qemu-img", ["info", "--output=json", daemon.uri("disk")]));
    assert.equal(info["virtual-size"], 3 * MIB);
    assert.equal(info.format, "raw");
  },
});

Deno.test({
  name: "qemu-img convert reads an export byte for byte, to raw and to qcow2",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    holey(dir.file("disk.raw"));
    await using daemon = await serve({ dir, writable: false });
    for (const format of ["raw", "qcow2"]) {
      const copy = dir.file(`copy.${format}`);
      await ok("qemu-img", ["convert", "-O", format, daemon.uri("disk"), copy]);
      const args = ["compare", "-f", "raw", "-F", format, dir.file("disk.raw"), copy];
      assert.match(await ok("qemu-img", args), /identical/);
    }
    assert.ok(allocated(dir.file("copy.raw")) < 8 * MIB, "holes must stay holes");
  },
});

Deno.test({
  name: "qemu-img convert writes an export byte for byte, and holes stay holes",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    holey(dir.file("source.raw"));
    sparse(dir.file("disk.raw"), 64 * MIB, [{ at: 20 * MIB, bytes: noise(MIB, 9) }]);
    await using daemon = await serve({ dir, node: ",discard=unmap" });
    const args = ["convert", "-n", "-f", "raw", "-O", "raw", dir.file("source.raw")];
    await ok("qemu-img", [...args, daemon.uri("disk")]);
    assert.equal((await daemon.stop()).status, 0);
    assert.match(await same(dir.file("source.raw"), dir.file("disk.raw")), /identical/);
    assert.ok(allocated(dir.file("disk.raw")) < 8 * MIB, "zeroes must be written as holes");
  },
});

Deno.test({
  name: "qemu-img compare finds a single differing byte through an export",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const bytes = noisy(dir.file("disk.raw"), 2 * MIB);
    bytes[1_234_567]! ^= 1;
    Deno.writeFileSync(dir.file("other.raw"), bytes);
    await using daemon = await serve({ dir });
    const { status, stdout } = await run("qemu-img", [
      "compare",
      daemon.uri("disk"),
      dir.file("other.raw"),
    ]);
    assert.equal(status, 1);
    assert.match(stdout, /Content mismatch at offset 1234432/);
  },
});

Deno.test({
  name: "qemu-img map through an export shows what it shows of the file",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    holey(dir.file("disk.raw"));
    await using daemon = await serve({
      dir,
      node: ",force-share=on,read-only=on",
      writable: false,
    });
    const shape = async (target: string) => {
      const args = ["map", "--output=json", "-f", "raw", target];
      const map: { start: number; length: number; zero: boolean; data: boolean }[] = JSON.parse(
        await ok("qemu-img", args),
      );
      return map.map(({ start, length, zero, data }) => ({ start, length, zero, data }));
    };
    assert.deepEqual(await shape(daemon.uri("disk")), await shape(dir.file("disk.raw")));
  },
});

Deno.test({
  name: "qemu-img bench reads and writes an export without an error",
  ignore,
  fn: async () => {
    await using dir = TestDir.make();
    const bytes = noisy(dir.file("disk.raw"), 16 * MIB);
    await using daemon = await serve({ dir });
    const bench = ["bench", "-f", "raw", "-c", "3000", "-d", "16", "-s", "4096"];
    await ok("qemu-img", [...bench, daemon.uri("disk")]);
    await ok("qemu-img", [...bench, "-w", "--pattern=165", "-o", "4096", daemon.uri("disk")]);
    await ok("qemu-img", [
      ...bench,
      "-w",
      "--flush-interval=100",
      "--pattern=165",
      daemon.uri("disk"),
    ]);
    await daemon.stop();
    bytes.fill(165, 0, 3001 * 4096);
    Deno.writeFileSync(dir.file("model.raw"), bytes);
    assert.match(await same(dir.file("disk.raw"), dir.file("model.raw")), /identical/);
  },
});
