/** A daemon with IOThreads, as the tests of them want it. */
import { Daemon } from "./daemon.ts";
import type { TestDir } from "./dir.ts";

/** What x-qsd-status says of threads. */
export interface ThreadStatus {
  readonly nodes: { readonly "node-name": string; readonly iothread?: string }[];
  readonly exports: {
    readonly id: string;
    readonly iothread?: string;
    readonly counters: Record<string, number>;
  }[];
  readonly iothreads: {
    readonly id: string;
    readonly "thread-id": number;
    readonly turns: number;
    readonly parks: number;
    readonly wakes: number;
  }[];
}

/** A daemon with IOThreads t0 and t1, node `n` (raw over file `f`) on `disk.raw`, and an NBD server on `nbd`. */
export async function daemonWithThreads(
  dir: TestDir,
  args: readonly string[] = [],
): Promise<Daemon> {
  return await Daemon.start({
    dir,
    args: [
      ...["--object", "iothread,id=t0", "--object", "iothread,id=t1"],
      ...["--blockdev", "file,node-name=f,filename=disk.raw"],
      ...["--blockdev", "raw,node-name=n,file=f"],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd", ...args],
    ],
  });
}

/** The daemon's status. */
export const statusOf = async (daemon: Daemon): Promise<ThreadStatus> =>
  await daemon.qmp.execute("x-qsd-status");

/** Which IOThread runs the node of that name. */
export async function placeOf(daemon: Daemon, name: string): Promise<string | undefined> {
  return (await statusOf(daemon)).nodes.find((node) => node["node-name"] === name)?.iothread;
}

/** Moves a node to a thread, or to the main context, whoever uses it. */
export async function moveNode(
  daemon: Daemon,
  name: string,
  iothread: string | null,
): Promise<void> {
  await daemon.qmp.execute("x-blockdev-set-iothread", { "node-name": name, iothread, force: true });
}

/** Exports node `n` by NBD, writable, with its id as name. */
export async function addNbdExport(daemon: Daemon, id: string, more: object = {}): Promise<void> {
  await daemon.qmp.execute("block-export-add", {
    type: "nbd",
    id,
    name: id,
    "node-name": "n",
    writable: true,
    ...more,
  });
}
