/** Drives without a medium. A device that is no drive has none, so that /dev/null serves. */
import assert from "node:assert/strict";
import { Daemon } from "../harness/daemon.ts";

Deno.test("an empty drive opens and cannot be exported, neither directly nor below raw", async () => {
  await using daemon = await Daemon.start({
    args: [
      "--blockdev",
      "host_cdrom,node-name=drive,filename=/dev/null",
      "--blockdev",
      "raw,node-name=over,file=drive",
      "--nbd-server",
      "addr.type=unix,addr.path=nbd",
    ],
  });
  for (const node of ["drive", "over"]) {
    const options = { type: "nbd", id: "e", "node-name": node };
    assert.equal(
      await daemon.qmp.refused("block-export-add", options),
      "Failed to determine the NBD export's length: No medium found",
    );
  }
  assert.deepEqual(await daemon.qmp.execute("query-block-exports"), []);
});
