/**
 * A daemon with nothing to do uses no processor: with clients of every kind connected, none of its threads runs.
 * Told by the kernel (/proc/PID/task/TID/schedstat, status), not by counters of ours.
 */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { until } from "../harness/wait.ts";
import { VhostPeer } from "../harness/vhost.ts";

/** Over this long it is watched, in milliseconds. */
const WATCHED = 1000;

interface Used {
  /** Nanoseconds on a processor. */
  readonly ran: number;
  /** How often it went to sleep, and was told to wait. */
  readonly switches: number;
}

/** What each thread has used so far, by id and name. */
function threads(pid: number): Map<string, Used> {
  const used = new Map<string, Used>();
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    const read = (file: string) => Deno.readTextFileSync(`/proc/${pid}/task/${name}/${file}`);
    try {
      const count = (kind: string) =>
        Number(new RegExp(`^${kind}_ctxt_switches:\\s+(\\d+)`, "m").exec(read("status"))?.[1]);
      used.set(`${name} ${read("comm").trim()}`, {
        ran: Number(read("schedstat").split(" ")[0]),
        switches: count("voluntary") + count("nonvoluntary"),
      });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error; // it has ended
    }
  }
  return used;
}

/** What ran while it was watched: names, nanoseconds, switches. */
async function watch(daemon: Daemon): Promise<[string, number, number][]> {
  const before = threads(daemon.pid);
  await new Promise((go) => setTimeout(go, WATCHED));
  return [...threads(daemon.pid)].flatMap(([name, after]) => {
    const { ran, switches } = before.get(name) ?? { ran: 0, switches: 0 };
    return after.ran === ran && after.switches === switches
      ? []
      : [[name, after.ran - ran, after.switches - switches] as [string, number, number]];
  });
}

Deno.test({
  name:
    "no thread of a daemon runs while its clients are idle, in the main context and in IOThreads",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("a.raw"), 1 << 20, 1);
    noisy(dir.file("b.raw"), 1 << 20, 2);
    const several = ",num-queues=2,iothread.0=t0,iothread.1=t1";
    await using daemon = await Daemon.start({
      dir,
      args: [
        ...["--object", "iothread,id=t0", "--object", "iothread,id=t1,poll-max-ns=100000"],
        ...["--blockdev", "file,node-name=a,filename=a.raw"],
        ...["--blockdev", "file,node-name=b,filename=b.raw"],
        ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
        ...["--export", "nbd,id=na,node-name=a,name=a"],
        ...["--export", VhostPeer.exported("va", "a", "va", ",num-queues=2")],
        ...["--export", "nbd,id=nb,node-name=b,name=b,iothread=t0"],
        ...["--export", VhostPeer.exported("vb", "b", "vb", ",iothread=t0")],
        ...["--export", VhostPeer.exported("vd", "b", "vd", several)],
        // Nobody is connected to this one.
        ...["--export", VhostPeer.exported("vc", "b", "vc", ",iothread=t0")],
      ],
    });
    const nbd: NbdPeer[] = [];
    for (const name of ["a", "b"]) nbd.push(await NbdPeer.attach(dir.file("nbd"), name));
    await using first = await VhostPeer.attach(dir.file("va"), { queues: 2 });
    await using second = await VhostPeer.attach(dir.file("vb"));
    await using third = await VhostPeer.attach(dir.file("vd"), { queues: 2 });
    const use = async () => {
      for (const peer of nbd) await peer.read(0, 4096);
      for (const disk of [...first.disks, ...second.disks, ...third.disks]) {
        for (let i = 0; i < 200; i++) {
          assert.equal((await disk.call({ type: 0, sector: i, read: 4096 })).status, 0);
        }
      }
    };
    try {
      for (let round = 0; round < 2; round++) {
        await use();
        // What follows the load (threads that end, memory that is given back) is over after a while.
        let ran: [string, number, number][] = [];
        await until(
          async () => (ran = await watch(daemon)).length === 0,
          "a second of rest",
          30_000,
        )
          .catch((error) => assert.fail(`${error.message}: ${JSON.stringify(ran)}`));
      }
      await use();
    } finally {
      for (const peer of nbd) peer.close();
    }
  },
});
