/** Creations that take long, and that nobody waits for: `job-cancel` ends them, and so does the daemon's end. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { skip } from "../harness/skips.ts";

/** Takes many seconds to write. */
const SIZE = 6 * 2 ** 30;
const suite = "creations that are cancelled";
const ignore = ON_ORIGINAL && skip(suite, "the original finishes them first");

/** Options of blockdev-create that write all of a new image; the files that are made. */
const kinds: Readonly<Record<string, Record<string, unknown>>> = {
  file: { driver: "file", filename: "big", size: SIZE, preallocation: "full" },
  qcow2: { driver: "qcow2", file: "f", size: SIZE, preallocation: "full" },
  "qcow2, data file": {
    driver: "qcow2",
    file: "f",
    "data-file": "d",
    size: SIZE,
    preallocation: "full",
  },
};

async function creating(options: Record<string, unknown>): Promise<Daemon> {
  const daemon = await Daemon.start();
  for (const name of ["f", "d"]) {
    Deno.writeFileSync(daemon.file(name), new Uint8Array());
    const node = { driver: "file", "node-name": name, filename: name };
    await daemon.qmp.execute("blockdev-add", node);
  }
  await daemon.qmp.execute("blockdev-create", { "job-id": "j", options });
  // Some of it is written.
  while (written(daemon) < 8 * 2 ** 20) await daemon.qmp.execute("query-jobs");
  return daemon;
}

/** Bytes on the disk. */
function written(daemon: Daemon): number {
  let sum = 0;
  for (const { name } of Deno.readDirSync(daemon.file("."))) {
    sum += (Deno.lstatSync(daemon.file(name)).blocks ?? 0) * 512;
  }
  return sum;
}

for (const [kind, options] of Object.entries(kinds)) {
  Deno.test({
    name: `blockdev-create can be cancelled: ${kind}`,
    ignore,
    fn: async () => {
      await using daemon = await creating(options);
      await daemon.qmp.execute("job-cancel", { id: "j" });
      for (let status = ""; status !== "concluded";) {
        status = (await daemon.qmp.event("JOB_STATUS_CHANGE")).data.status;
      }
      const [job] = await daemon.qmp.execute("query-jobs");
      assert.equal(job.error, "Operation canceled");
      assert.ok(written(daemon) < SIZE / 2);
      await daemon.qmp.execute("job-dismiss", { id: "j" });
      // What it used is free again.
      for (const node of ["f", "d"]) {
        await daemon.qmp.execute("blockdev-del", { "node-name": node });
      }
      assert.equal((await daemon.stop()).status, 0);
    },
  });

  Deno.test({
    name: `the daemon ends in the midst of blockdev-create: ${kind}`,
    ignore,
    fn: async () => {
      await using daemon = await creating(options);
      assert.equal((await daemon.stop()).status, 0);
      assert.ok(written(daemon) < SIZE / 2);
    },
  });
}
