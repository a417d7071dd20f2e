/**
 * What the properties of an IOThread do: thread-pool-min and -max to the threads that its calls run on, aio-max-batch to
 * what it submits at once. The kernel says how many threads there are, trace events what was submitted.
 */
import assert from "node:assert/strict";
import { LinuxSys, probeUring } from "../../lib/sys/mod.ts";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { skip } from "../harness/skips.ts";
import { VhostPeer } from "../harness/vhost.ts";
import { until } from "../harness/wait.ts";

const [IN, DISCARD] = [0, 11];

function lacksUring(): boolean {
  const sys = new LinuxSys();
  const refused = probeUring(sys);
  sys.dispose();
  return refused !== undefined && skip("interop/iothread_tuning", refused.reason);
}

/** A daemon whose one disk is served in IOThread `t` with these properties. */
const start = (dir: TestDir, thread: string, node: string, ...more: string[]) => {
  noisy(dir.file("disk.raw"), 1 << 20);
  return Daemon.start({
    dir,
    args: [
      ...["--object", `iothread,id=t${thread}`],
      ...["--blockdev", `file,node-name=n,filename=disk.raw${node}`],
      ...["--export", VhostPeer.exported("e", "n", "socket", ",iothread=t")],
      ...more,
    ],
  });
};

/** How many threads the runtime has: those of the pool, and some of its own. */
function runtimeThreads({ pid }: Daemon): number {
  const tasks = [...Deno.readDirSync(`/proc/${pid}/task`)];
  return tasks.filter(({ name }) =>
    Deno.readTextFileSync(`/proc/${pid}/task/${name}/comm`).startsWith("tokio")
  ).length;
}

/** 48 requests at once, each for 4 KiB of its own. */
async function burst(peer: VhostPeer, type: number): Promise<void> {
  const calls = Array.from({ length: 48 }, (_, i) => {
    if (type === IN) return peer.disk.submit({ type, sector: 8 * i, read: 4096 });
    const range = new Uint8Array(16);
    const view = new DataView(range.buffer);
    view.setUint32(0, 8 * i, true);
    view.setUint32(8, 8, true);
    return peer.disk.submit({ type, write: range });
  });
  peer.frontend.kick();
  for (const { status } of await peer.disk.wait(Promise.all(calls))) assert.equal(status, 0);
}

Deno.test({
  name: "thread-pool-max bounds the calls that an IOThread has on the pool, also while it runs",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    await using daemon = await start(dir, ",thread-pool-max=2", ",discard=unmap");
    await using peer = await VhostPeer.attach(dir.file("socket"), { queueSize: 256 });
    // Two, and a few that the main thread may want meanwhile.
    const most = runtimeThreads(daemon) + 6;
    for (let i = 0; i < 40; i++) {
      await burst(peer, DISCARD);
      assert.ok(runtimeThreads(daemon) <= most);
    }
    const path = "/objects/t";
    await daemon.qmp.execute("qom-set", { path, property: "thread-pool-max", value: 64 });
    await until(
      async () => {
        await burst(peer, DISCARD);
        return runtimeThreads(daemon) > most;
      },
      "more threads",
      20_000,
    );
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "thread-pool-min starts threads before they are needed",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    await using daemon = await start(dir, ",thread-pool-min=24", "");
    await until(() => runtimeThreads(daemon) >= 24, "threads", 20_000);
    assert.equal((await daemon.stop()).status, 0);
  },
});

Deno.test({
  name: "aio-max-batch bounds what an IOThread submits at once, also while it runs",
  ignore: ON_ORIGINAL || lacksUring(),
  fn: async () => {
    await using dir = TestDir.make();
    const trace = ["--trace", "luring_do_submit_done,file=trace"];
    const node = ",aio=io_uring,cache.direct=on";
    await using daemon = await start(dir, ",aio-max-batch=3", node, ...trace);
    await using peer = await VhostPeer.attach(dir.file("socket"), { queueSize: 256 });
    const sizes = () =>
      [...Deno.readTextFileSync(dir.file("trace")).matchAll(/submitted to kernel \d+ of (\d+)/g)]
        .map(([, count]) => Number(count));
    for (let i = 0; i < 5; i++) await burst(peer, IN);
    assert.equal(Math.max(...sizes()), 3); // some may be smaller: the guest's requests come as they like
    await daemon.qmp.execute("qom-set", {
      path: "/objects/t",
      property: "aio-max-batch",
      value: 5,
    });
    // The thread may be at work on the guest's requests before it hears of it.
    await until(async () => {
      await burst(peer, IN);
      return Math.max(...sizes()) > 3;
    }, "the new limit");
    assert.equal(Math.max(...sizes()), 5);
    assert.equal((await daemon.stop()).status, 0);
  },
});
