import assert from "node:assert/strict";
import { LinuxSys, type Sys } from "../../../sys/mod.ts";
import { Perm } from "../../mod.ts";
import { testContext } from "../testing.ts";
import { ImageLocks } from "./locking.ts";
import { file, hostDevice } from "./mod.ts";

/** Runs `body` in a folder of its own; `create` makes a file there and gives its size and allocated bytes. */
function test(
  name: string,
  body: (
    create: (options: Record<string, unknown>) => Promise<Deno.FileInfo>,
    path: string,
  ) => Promise<void>,
  wrap?: (sys: Sys) => Sys,
): void {
  Deno.test(name, async () => {
    const folder = await Deno.makeTempDir();
    const context = testContext(wrap);
    const path = `${folder}/new.img`;
    try {
      await body(async (options) => {
        await file.create!({ context, goOn: () => {}, node: () => assert.fail("no other node") }, {
          driver: "file",
          filename: path,
          ...options,
        });
        return await Deno.stat(path);
      }, path);
    } finally {
      context.end();
      await Deno.remove(folder, { recursive: true });
    }
  });
}

test("a new file has the size wanted and reads as zeroes", async (create, path) => {
  assert.equal((await create({ size: 1_000_000 })).size, 1_000_000);
  assert.ok((await Deno.readFile(path)).every((byte) => byte === 0));
});

test("sizes 0 and 1 are exact", async (create) => {
  assert.equal((await create({ size: 0 })).size, 0);
  assert.equal((await create({ size: 1 })).size, 1);
});

test("preallocation allocates: full writes, falloc reserves, off only the first block", async (create) => {
  const size = 4 << 20;
  for (const preallocation of ["full", "falloc"]) {
    assert.ok((await create({ size, preallocation })).blocks! * 512 >= size, preallocation);
  }
  assert.ok((await create({ size, preallocation: "off" })).blocks! * 512 <= 8192);
});

test("an old file is emptied first", async (create, path) => {
  await Deno.writeTextFile(path, "old ".repeat(10_000));
  assert.equal((await create({ size: 8192 })).size, 8192);
  assert.ok((await Deno.readFile(path)).every((byte) => byte === 0));
});

test("what cannot be done is refused before the file is touched", async (create, path) => {
  await Deno.writeTextFile(path, "precious");
  await assert.rejects(create({ size: 8192, preallocation: "metadata" }), {
    message: "Unsupported preallocation mode: metadata",
  });
  await assert.rejects(create({ size: 8192, "extent-size-hint": 2 ** 32 }), {
    message: "Extent size hint is too large",
  });
  assert.equal(await Deno.readTextFile(path), "precious");
});

test("names that cannot be", async (create, path) => {
  await assert.rejects(create({ size: 0, filename: `${path}/x/y` }), {
    message: `Could not create '${path}/x/y': No such file or directory`,
  });
  await assert.rejects(create({ size: 0, filename: "a\0b" }), {
    message: "Could not create 'a\\0b': Invalid argument",
  });
  await assert.rejects(create({ size: 1, filename: "/dev/null" }), {
    message: "Could not resize file: Invalid argument",
  });
});

test("an image in use is left alone", async (create, path) => {
  await Deno.writeTextFile(path, "in use");
  const sys = new LinuxSys();
  const fd = sys.open(path, 2);
  try {
    new ImageLocks(sys, path).prepare(fd, Perm.consistentRead, Perm.all & ~Perm.resize);
    await assert.rejects(create({ size: 0 }), { message: 'Failed to get "resize" lock' });
    assert.equal(await Deno.readTextFile(path), "in use");
  } finally {
    sys.close(fd);
    sys.dispose();
  }
});

test("nocow and extent-size-hint do no harm where the file system has neither", async (create) => {
  const options = { size: 4096, nocow: true, "extent-size-hint": 65536 };
  assert.equal((await create(options)).size, 4096);
});

Deno.test("devices cannot be created", () => assert.equal(hostDevice.create, undefined));
