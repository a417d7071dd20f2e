/** Many clients that ask for much and read nothing, on each way that data takes: what the daemon holds for them. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, pack, requestHeader } from "../harness/nbd_wire.ts";
import { lacks, ok } from "../harness/tools.ts";
import { until, within } from "../harness/wait.ts";

const MIB = 1048576;
const SIZE = 64 * MIB;
const CLIENTS = 64;
const REQUESTS = 16;
const LENGTH = 32 * MIB;

const SKIP = ON_ORIGINAL || lacks("memory of stalled clients", "qemu-img");

/** Ways of data: what makes `image` from the raw file `raw`, and the node. */
const WAYS = [
  { name: "raw", make: [], node: "driver=raw,file.driver=file,file.filename=raw" },
  {
    name: "raw, O_DIRECT",
    make: [],
    node: "driver=file,filename=raw,cache.direct=on,aio=native",
  },
  {
    name: "qcow2",
    make: ["convert", "-f", "raw", "-O", "qcow2", "raw", "image"],
    node: "driver=qcow2,file.driver=file,file.filename=image",
  },
  {
    name: "compressed qcow2",
    make: ["convert", "-c", "-f", "raw", "-O", "qcow2", "raw", "image"],
    node: "driver=qcow2,file.driver=file,file.filename=image",
  },
];

/**
 * A client that sends 512 MiB of reads and takes nothing. Half of them want simple replies, whose data is looked at as
 * a whole before: that of compressed clusters would have to be decoded for it.
 */
async function asks(daemon: Daemon, structured: boolean): Promise<NbdPeer> {
  const peer = await NbdPeer.attach(daemon.file("nbd"), "n", { structured });
  const requests = Array.from({ length: REQUESTS }, (_, at) =>
    requestHeader({
      type: CMD.READ,
      cookie: BigInt(at),
      offset: (at % 2) * LENGTH,
      length: LENGTH,
    }));
  await peer.send(pack(...requests));
  return peer;
}

async function allStalled(daemon: Daemon): Promise<boolean> {
  const status = await daemon.qmp.execute("x-qsd-status") as {
    "nbd-server": { clients: { unsent: number; stalled: number }[] };
  };
  const { clients } = status["nbd-server"];
  return clients.length === CLIENTS && clients.every(({ stalled }) => stalled > 0.3);
}

for (const { name, make, node } of WAYS) {
  for (const iothread of [false, true]) {
    const title = `${CLIENTS} clients that read nothing of ${name}${iothread ? ", IOThread" : ""}`;
    Deno.test(
      { name: `${title}: memory is bounded, others are served`, ignore: SKIP },
      async () => {
        await using dir = TestDir.make();
        // Half of what it could be: it can be compressed.
        const bytes = noise(SIZE).map((byte) => byte & 15);
        Deno.writeFileSync(dir.file("raw"), bytes);
        if (make.length > 0) await ok("qemu-img", make, { cwd: dir.path });
        await using daemon = await Daemon.start({
          dir,
          args: [
            ...(iothread ? ["--object", "iothread,id=t"] : []),
            "--blockdev",
            `node-name=n,read-only=on,${node}`,
            "--nbd-server",
            "addr.type=unix,addr.path=nbd,max-connections=0",
            "--export",
            `type=nbd,id=e,node-name=n${iothread ? ",iothread=t" : ""}`,
          ],
        });
        const stalled: NbdPeer[] = [];
        try {
          for (let at = 0; at < CLIENTS; at++) {
            stalled.push(await asks(daemon, at % 2 === 0 || make.includes("-c")));
          }
          await until(() => allStalled(daemon), "all clients to be stalled", 30_000);
          using peer = await NbdPeer.attach(daemon.file("nbd"), "n");
          for (let at = 0; at < 100; at++) {
            const offset = at * 512 * 1024;
            const data = await within(peer.read(offset, 4096), 2_000, "another client's read");
            assertSameBytes(
              data,
              bytes.subarray(offset, offset + 4096),
              "what another client read",
            );
          }
          // 32 GiB were asked for.
          const peak = daemon.peak();
          assert.ok(peak < 200 * MIB, `${peak / MIB} MiB`);
        } finally {
          for (const each of stalled) each.close();
        }
        const { status, stderr } = await daemon.stop();
        assert.equal(status, 0, stderr);
      },
    );
  }
}
