/** Images that change their length while clients are connected and at work. */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise, noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD } from "../harness/nbd_wire.ts";
import { serve } from "../harness/serve.ts";

const MIB = 1048576;
const PAGE = 4096;

/** Reads the whole export over and over, until told to stop; every read must succeed. */
async function reading(socket: string, on: () => boolean): Promise<number> {
  using peer = await NbdPeer.attach(socket, "disk", { structured: true });
  let reads = 0;
  while (on()) {
    const offset = reads * 65536 % MIB;
    const { error, data } = await peer.call({ type: CMD.READ, offset, length: 65536 });
    assert.equal(error, 0);
    assert.equal(data.length, 65536);
    reads++;
  }
  return reads;
}

for (const node of ["", ",cache.direct=on"]) {
  Deno.test(`a file cut and grown beneath connected clients harms no request${node}`, async () => {
    await using dir = TestDir.make();
    const bytes = noisy(dir.file("disk.raw"), MIB, 31);
    await using daemon = await serve({ dir, node });
    using peer = await NbdPeer.attach(daemon.file("nbd"), "disk", { structured: true });
    assertSameBytes(await peer.read(0, MIB), bytes, "as it was");
    let on = true;
    const others = [0, 1].map(() => reading(daemon.file("nbd"), () => on));

    for (const size of [2 * MIB, MIB / 2, 0, MIB, 64 * 1024]) {
      Deno.truncateSync(dir.file("disk.raw"), size);
      // What is gone reads as zeroes; what came is not seen.
      assert.equal((await peer.read(MIB - PAGE, PAGE)).length, PAGE);
      const past = await peer.call({ type: CMD.READ, offset: MIB, length: 512 });
      assert.notEqual(past.error, 0, `a read past the export's end while the file has ${size}`);
    }
    assertSameBytes(await peer.read(512 * 1024, PAGE), new Uint8Array(PAGE), "what is gone");

    const fresh = noise(PAGE, 32);
    await peer.write(MIB - PAGE, fresh);
    await peer.flush();
    assertSameBytes(await peer.read(MIB - PAGE, PAGE), fresh, "written beyond the file's end");
    assert.equal(
      Deno.statSync(dir.file("disk.raw")).size,
      MIB,
      "the write brought the length back",
    );
    on = false;
    for (const reads of await Promise.all(others)) assert.ok(reads > 0);
    assert.equal((await daemon.stop()).status, 0);
  });
}

Deno.test("block_resize is refused while clients are connected, and reaches the next export", async () => {
  await using dir = TestDir.make();
  const bytes = noisy(dir.file("disk.raw"), MIB, 33);
  await using daemon = await serve({ dir });
  using peer = await NbdPeer.attach(daemon.file("nbd"), "disk");
  const resize = { "node-name": "disk", size: 2 * MIB };
  assert.match(await daemon.qmp.refused("block_resize", resize), /resize/);
  assertSameBytes(await peer.read(0, MIB), bytes, "after the refusal");

  await daemon.qmp.execute("block-export-del", { id: "e0", mode: "hard" });
  await daemon.qmp.event("BLOCK_EXPORT_DELETED");
  await peer.untilClosed();
  await daemon.qmp.execute("block_resize", resize);
  await daemon.qmp.execute("block-export-add", { type: "nbd", id: "e1", "node-name": "disk" });
  using next = await NbdPeer.attach(daemon.file("nbd"), "disk");
  assertSameBytes(await next.read(0, MIB), bytes, "the front");
  assertSameBytes(await next.read(2 * MIB - PAGE, PAGE), new Uint8Array(PAGE), "what was added");
});
