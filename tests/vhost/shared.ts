/**
 * Random reads, writes and zeroes on one node, through vhost-user-blk and NBD at once, checked against a model
 * (history.ts). Ranges overlap as they like.
 */
import assert from "node:assert/strict";
import { BlkType } from "../../lib/vhost/device.ts";
import type { BlkDriver } from "../../lib/vhost/testing_blk.ts";
import { Feature } from "../../lib/vhost/wire.ts";
import { Daemon } from "../harness/daemon.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, FLAG } from "../harness/nbd_wire.ts";
import { ok } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";
import { History, SECTOR } from "./history.ts";

const SECTORS = 8192;
const SIZE = SECTORS * SECTOR;
/** Lengths in sectors. */
const LENGTHS = [1, 1, 2, 3, 7, 8, 8, 8, 16, 33, 64, 128, 200, 512];
/** Requests of one client in flight. */
const BATCH = 6;

/** Where things run. */
export interface Layout {
  readonly name: string;
  readonly format: "raw" | "qcow2";
  /** IOThreads of the exports; without one the NBD export follows the node. */
  readonly vhost?: string | readonly string[];
  readonly nbd?: string;
  /** Whether the node is moved between threads all the while. */
  readonly moving?: boolean;
  readonly packed?: boolean;
}

/** All that are tried. */
export const layouts: readonly Layout[] = (["raw", "qcow2"] as const).flatMap((format) => [
  { name: `${format}, main context`, format },
  { name: `${format}, vhost-user-blk in an IOThread`, format, vhost: "t0" },
  { name: `${format}, two IOThreads, packed ring`, format, vhost: "t0", nbd: "t1", packed: true },
  { name: `${format}, queues in two IOThreads`, format, vhost: ["t0", "t1"], nbd: "t0" },
  { name: `${format}, while the node moves`, format, vhost: "t0", nbd: "t1", moving: true },
]);

interface Operation {
  readonly kind: "read" | "write" | "zero" | "flush";
  readonly first: number;
  readonly count: number;
  /** Unmap, for zeroes; FUA, for writes by NBD. */
  readonly flag: boolean;
}

/** Somebody who carries operations out. */
interface Client {
  readonly name: string;
  /** Begins it; the promise gives a read's data. */
  begin(operation: Operation, data: Uint8Array): Promise<Uint8Array>;
}

function vhostClient(disk: BlkDriver, name: string, dice: Dice): Client {
  const body = ({ first, count, flag }: Operation) => {
    const bytes = new Uint8Array(16);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(first), true);
    view.setUint32(8, count, true);
    view.setUint32(12, flag ? 1 : 0, true);
    return bytes;
  };
  return {
    name,
    async begin(operation, data) {
      const { kind, first: sector, count } = operation;
      const piece = count <= 64 ? dice.pick([SECTOR, 4096, 1 << 20]) : 1 << 20;
      const answer = disk.submit(
        kind === "read"
          ? { type: BlkType.in, sector, read: count * SECTOR, piece }
          : kind === "write"
          ? { type: BlkType.out, sector, write: data, piece }
          : kind === "zero"
          ? { type: BlkType.writeZeroes, write: body(operation) }
          : { type: BlkType.flush },
      );
      const { status, data: got } = await answer;
      assert.equal(status, 0, `${name}: ${JSON.stringify(operation)}`);
      return got;
    },
  };
}

function nbdClient(peer: NbdPeer, name: string): Client {
  let sending: Promise<unknown> = Promise.resolve();
  let receiving: Promise<unknown> = Promise.resolve();
  return {
    name,
    async begin({ kind, first, count, flag }, payload) {
      const [offset, length] = [first * SECTOR, count * SECTOR];
      const request = kind === "read"
        ? { type: CMD.READ, offset, length }
        : kind === "write"
        ? { type: CMD.WRITE, offset, payload, flags: flag ? FLAG.FUA : 0 }
        : kind === "zero"
        ? { type: CMD.WRITE_ZEROES, offset, length, flags: flag ? 0 : FLAG.NO_HOLE }
        : { type: CMD.FLUSH };
      // One of us at a time writes to the socket, and one reads from it.
      const asked = sending.then(() => peer.ask(request));
      sending = asked.catch(() => {});
      const cookie = await asked;
      const answer = receiving.then(() => peer.answer(cookie));
      receiving = answer.catch(() => {});
      const { error, data } = await answer;
      assert.equal(error, 0, `${name}: ${kind} ${offset}+${length}`);
      return data;
    },
  };
}

/** Batches of operations by one client, until it is told to stop. */
async function load(
  client: Client,
  history: History,
  dice: Dice,
  rounds: number,
  kick: (all: Promise<unknown>) => Promise<unknown>,
): Promise<void> {
  for (let round = 0; round < rounds; round++) {
    const batch: Promise<void>[] = [];
    for (let i = 0; i < 1 + dice.below(BATCH); i++) {
      const kind = dice.pick(["read", "read", "read", "write", "write", "write", "zero", "flush"]);
      const count = dice.pick(LENGTHS);
      // Half of them fall into one corner of the disk.
      const first = dice.below((dice.below(2) === 0 ? 1024 : SECTORS) - count);
      const operation = { kind, first, count, flag: dice.below(2) === 0 } as Operation;
      batch.push(one(client, history, operation));
    }
    await kick(Promise.all(batch));
  }
}

async function one(client: Client, history: History, operation: Operation): Promise<void> {
  const { kind, first, count } = operation;
  const nothing = new Uint8Array();
  if (kind === "flush") return void await client.begin(operation, nothing);
  if (kind === "read") {
    const read = history.beginRead(first, count);
    history.endRead(read, await client.begin(operation, nothing), client.name);
    return;
  }
  const write = history.beginWrite(first, count, kind === "zero");
  await client.begin(operation, kind === "zero" ? nothing : history.bytesOf(write));
  history.endWrite(write);
}

async function start(layout: Layout, dir: TestDir): Promise<Daemon> {
  const { format, vhost, nbd } = layout;
  await ok("qemu-img", ["create", "-q", "-f", format, dir.file("disk"), `${SIZE}`]);
  const thread = (ids: Layout["vhost"]) =>
    typeof ids === "string"
      ? `,iothread=${ids}`
      : (ids ?? []).map((id, i) => `,iothread.${i}=${id}`).join("");
  return await Daemon.start({
    dir,
    args: [
      ...["--object", "iothread,id=t0", "--object", "iothread,id=t1"],
      ...["--blockdev", "file,node-name=f,filename=disk,discard=unmap"],
      ...["--blockdev", `${format},node-name=n,file=f,discard=unmap`],
      ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
      ...["--export", VhostPeer.exported("v", "n", "vhost", `,num-queues=2${thread(vhost)}`)],
      ...["--export", `nbd,id=e,node-name=n,name=e,writable=on${thread(nbd)}`],
    ],
  });
}

/** Moves the node from thread to thread until `over`. */
async function move(daemon: Daemon, over: () => boolean): Promise<void> {
  for (let i = 0; !over(); i++) {
    const iothread = ["t1", null, "t0"][i % 3]!;
    const where = { "node-name": "n", iothread, force: true };
    await daemon.qmp.execute("x-blockdev-set-iothread", where);
  }
}

/** One run: how many sectors were read while somebody wrote them, and while nobody did. */
export async function runShared(
  layout: Layout,
  seed: number,
  rounds: number,
): Promise<History["seen"]> {
  await using dir = TestDir.make();
  await using daemon = await start(layout, dir);
  const dice = new Dice(seed);
  const history = new History(SECTORS);
  const modern = [Feature.indirectDesc, Feature.eventIdx];
  const features = layout.packed === true ? [Feature.ringPacked, ...modern] : modern;
  const memory = 48 << 20;
  await using guest = await VhostPeer.attach(dir.file("vhost"), { queues: 2, features, memory });
  using first = await NbdPeer.attach(dir.file("nbd"), "e");
  using second = await NbdPeer.attach(dir.file("nbd"), "e", { structured: false });
  const driven = guest.disks.map((disk, i) => ({
    client: vhostClient(disk, `vhost-user queue ${i}`, dice),
    kick: (all: Promise<unknown>) => {
      guest.frontend.kick(i);
      return disk.wait(all);
    },
  }));
  const connected = [first, second].map((peer, i) => ({
    client: nbdClient(peer, `NBD connection ${i}`),
    kick: (all: Promise<unknown>) => all,
  }));
  let over = false;
  const moving = layout.moving === true ? move(daemon, () => over) : undefined;
  try {
    await Promise.all(
      [...driven, ...connected].map(({ client, kick }) =>
        load(client, history, dice, rounds, kick)
      ),
    );
  } finally {
    over = true;
    await moving;
  }
  history.check(await first.read(0, SIZE), "NBD, at the end");
  const { status, stderr } = await daemon.stop();
  assert.deepEqual([status, stderr], [0, ""]);
  const { format } = layout;
  if (format === "qcow2") await ok("qemu-img", ["check", dir.file("disk")]);
  await ok("qemu-img", ["convert", "-f", format, "-O", "raw", dir.file("disk"), dir.file("copy")]);
  history.check(Deno.readFileSync(dir.file("copy")), "the image");
  return history.seen;
}
