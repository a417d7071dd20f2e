/** Giving many clusters back takes its time, and leaves time to others. */
import assert from "node:assert/strict";
import { MiB } from "../../../base/mod.ts";
import { createContext } from "../../../sys/mod.ts";
import { BlockGraph, Perm } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import { Allocator } from "./allocate.ts";
import type { Image } from "./image.ts";
import { imageDriver } from "./testing.ts";

/** An image with clusters of 512 bytes, on a loop of its own; `act` gets what is open and the user that keeps it so. */
async function withSmallClusters(
  act: (image: Image, context: ReturnType<typeof createContext>) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  try {
    const path = `${directory}/disk.qcow2`;
    const args = ["create", "-qf", "qcow2", "-o", "cluster_size=512", path, "1M"];
    assert.equal((await new Deno.Command("qemu-img", { args }).output()).code, 0);
    let image!: Image;
    const qcow2 = imageDriver(
      { refcountCacheSize: 4 * MiB },
      (opened) => image = opened as unknown as Image,
    );
    const graph = new BlockGraph({
      context,
      drivers: driverRegistry([file, qcow2] as Parameters<typeof driverRegistry>[0]),
      events: { emit: () => {} },
    });
    const below = { driver: "file", filename: path };
    await graph.add(
      { driver: "qcow2", "node-name": "disk", discard: "unmap", file: below } as never,
      { monitorOwned: true },
    );
    const backend = await graph.backend("disk", {
      describe: "the test",
      needed: Perm.consistentRead | Perm.write,
      shared: Perm.all,
    });
    await act(image, context);
    await backend.detach();
    await graph.closeAll();
    const check = await new Deno.Command("qemu-img", { args: ["check", "-q", path] }).output();
    assert.equal(check.code, 0);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

Deno.test("while hundreds of thousands of clusters are given back the loop turns", () =>
  withSmallClusters(async (image, context) => {
    const host = await image.allocate(64 * MiB);
    const { turns } = context.loop.counters;
    image.releases.undo(host, 64 * MiB);
    await image.releases.idle();
    assert.ok(context.loop.counters.turns - turns > 4);
    assert.deepEqual(
      [await image.refcount(host), await image.refcount(host + 64 * MiB - 512)],
      [0, 0],
    );
  }));

Deno.test("while room is looked for behind hundreds of thousands of used clusters the loop turns", () =>
  withSmallClusters(async (image, context) => {
    const host = await image.allocate(256 * MiB);
    const gaps: number[] = [];
    for (let at = 0; at < host;) gaps.push(at = await image.allocate(512));
    for (const length of [512, 1024]) {
      const { turns } = context.loop.counters;
      // As after opening: nothing is known of what is in use.
      const found = await new Allocator(image).allocate(length);
      assert.ok(context.loop.counters.turns - turns > 1, `${length} bytes`);
      assert.ok(found >= host + 256 * MiB);
      image.releases.undo(found, length);
    }
    for (const at of gaps) image.releases.undo(at, 512);
    image.releases.undo(host, 256 * MiB);
    await image.releases.idle();
  }));
