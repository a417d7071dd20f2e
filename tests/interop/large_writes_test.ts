/**
 * Clients that write large payloads over each other's, and over small ones. Each write marks its sectors, so that the
 * image tells afterwards whose they are: a write that nobody began to overwrite successfully after its end.
 */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { sparse } from "../harness/images.ts";
import { addNbdExport, daemonWithThreads, moveNode } from "../harness/iothreads.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD, ERR, FLAG, requestHeader, SIMPLE_REPLY_MAGIC, view } from "../harness/nbd_wire.ts";
import { serve } from "../harness/serve.ts";
import { skip } from "../harness/skips.ts";
import { lacks, ok, run } from "../harness/tools.ts";

const MIB = 1048576;
const SECTOR = 512;
const WORDS = SECTOR / 4;
const SIZE = 12 * MIB;

/** A write, or zeroes. `end` is when its answer came; times are steps of one clock. */
interface Change {
  readonly first: number;
  readonly sectors: number;
  readonly zeroes: boolean;
  readonly begin: number;
  end: number;
  failed: boolean;
}

/** All that was done to an image that held zeroes. */
class History {
  #clock = 1;
  /** A write's mark is its place here, and none is 0. */
  readonly changes: Change[] = [
    { first: 0, sectors: SIZE / SECTOR, zeroes: true, begin: 0, end: 0, failed: false },
  ];

  begin(first: number, sectors: number, zeroes: boolean): Change {
    const begin = this.#clock++;
    const change: Change = { first, sectors, zeroes, begin, end: Infinity, failed: false };
    this.changes.push(change);
    return change;
  }

  ended(change: Change, failed: boolean): void {
    change.end = this.#clock++;
    change.failed = failed;
  }

  /** The data of a write: its mark, and in each sector the sector's number. */
  payload(change: Change): Uint8Array {
    const words = new Uint32Array(change.sectors * WORDS).fill(this.changes.indexOf(change));
    for (let at = 0; at < change.sectors; at++) words[at * WORDS + 1] = change.first + at;
    return new Uint8Array(words.buffer);
  }

  /** Fails if a sector of the image holds what it must not. */
  check(image: Uint8Array): void {
    assert.equal(image.length, SIZE);
    const words = new Uint32Array(image.buffer, image.byteOffset, image.length / 4);
    for (let sector = 0; sector < SIZE / SECTOR; sector++) {
      const mine = words.subarray(sector * WORDS, (sector + 1) * WORDS);
      const mark = mine[0]!;
      const whole = mine.every((word, at) => word === (at === 1 && mark !== 0 ? sector : mark));
      assert.ok(whole, `sector ${sector} is torn or misplaced`);
      const all = this.changes.filter(({ first, sectors }) =>
        sector >= first && sector < first + sectors
      );
      const whose = mark === 0 ? all.filter(({ zeroes }) => zeroes) : [this.changes[mark]!];
      const last = whose.some((one) =>
        all.includes(one) && !all.some(({ begin, failed }) => !failed && begin > one.end)
      );
      assert.ok(last, `sector ${sector} holds ${mark}, which was overwritten`);
    }
  }
}

/** Writes at random with a few requests in flight; `errors`: what may come back. */
async function client(
  daemon: Daemon,
  name: string,
  history: History,
  who: number,
  rounds: number,
  errors: readonly number[],
): Promise<Set<number>> {
  const dice = new Dice(who + 1);
  const structured = who % 2 === 0;
  using peer = await NbdPeer.attach(daemon.file("nbd"), name, { structured });
  const flight: [bigint, Change][] = [];
  const seen = new Set<number>();
  const settle = async () => {
    const [cookie, change] = flight.shift()!;
    const { error } = await peer.answer(cookie);
    seen.add(error);
    assert.ok(errors.includes(error), `error ${error}`);
    history.ended(change, error !== 0);
  };
  for (let round = 0; round < rounds; round++) {
    const bytes = dice.pick([512, 4096, 65_536, 66_048, 262_144, 300_032, MIB, 2 * MIB]);
    const sectors = bytes / SECTOR;
    const first = dice.below(SIZE / SECTOR - sectors + 1);
    const zeroes = dice.below(5) === 0;
    const change = history.begin(first, sectors, zeroes);
    const offset = first * SECTOR;
    const flags = dice.below(8) === 0 ? FLAG.FUA : 0;
    const request = zeroes
      ? { type: CMD.WRITE_ZEROES, offset, flags, length: bytes }
      : { type: CMD.WRITE, offset, flags, payload: history.payload(change) };
    flight.push([await peer.ask(request), change]);
    if (flight.length > 3) await settle();
  }
  while (flight.length > 0) await settle();
  return seen;
}

/** A client that stops in the middle of a payload until `on`, then sends the rest. */
async function staller(
  daemon: Daemon,
  name: string,
  history: History,
  on: Promise<unknown>,
): Promise<void> {
  using peer = await NbdPeer.attach(daemon.file("nbd"), name, { structured: false });
  const change = history.begin(1, 2 * MIB / SECTOR, false);
  const payload = history.payload(change);
  const offset = SECTOR;
  const header = { type: CMD.WRITE, flags: 0, cookie: 77n, offset, length: payload.length };
  await peer.send(requestHeader(header));
  await peer.send(payload.subarray(0, MIB + 100));
  await on;
  await peer.send(payload.subarray(MIB + 100));
  const reply = view(await peer.bytes(16));
  assert.equal(reply.getUint32(0), SIMPLE_REPLY_MAGIC);
  assert.equal(reply.getUint32(4), 0, "error");
  history.ended(change, false);
}

/** Runs four clients and a stalled one against an export, and calls `befall` again and again meanwhile. */
async function amid(
  daemon: Daemon,
  history: History,
  name: string,
  befall: (count: number) => Promise<unknown>,
  read: () => Uint8Array | Promise<Uint8Array> = () => Deno.readFileSync(daemon.file("disk.raw")),
): Promise<void> {
  let busy = true;
  const clients = Promise.all(
    [0, 1, 2, 3].map((who) => client(daemon, name, history, who, 60, [0])),
  ).finally(() => busy = false);
  const stalled = staller(daemon, name, history, clients);
  let count = 0;
  while (busy) await befall(count++);
  await clients;
  await stalled;
  assert.ok(count > 3, `${count} times`);
  assert.equal((await daemon.stop()).status, 0);
  history.check(await read());
}

Deno.test("large writes over each other's leave in each sector one that was not overwritten, amid reopens", async () => {
  await using dir = TestDir.make();
  sparse(dir.file("disk.raw"), SIZE);
  await using daemon = await serve({ dir });
  const options = { driver: "file", "node-name": "disk", filename: "disk.raw" };
  const changes = [
    { "detect-zeroes": "on" },
    {},
    { cache: { direct: true } },
    {},
    { discard: "unmap" },
  ];
  await amid(daemon, new History(), "disk", async (count) => {
    const change = changes[count % changes.length];
    await daemon.qmp.execute("blockdev-reopen", { options: [{ ...options, ...change }] });
  });
});

for (const exported of [{}, { iothread: "t0" }]) {
  Deno.test({
    name: `the same amid moves between threads${"iothread" in exported ? ", in a thread" : ""}`,
    ignore: ON_ORIGINAL && skip("interop/large_writes", "the original has no such command"),
    fn: async () => {
      await using dir = TestDir.make();
      sparse(dir.file("disk.raw"), SIZE);
      await using daemon = await daemonWithThreads(dir);
      await addNbdExport(daemon, "e0", exported);
      const places = ["t0", "t1", null];
      await amid(daemon, new History(), "e0", (count) => moveNode(daemon, "n", places[count % 3]!));
    },
  });
}

/** Options of `qemu-img create`, and whether the image lies over one that is full of zeroes. */
const QCOW2: readonly [string, boolean][] = [
  ["cluster_size=64k", false],
  ["cluster_size=64k", true],
  ["cluster_size=4k", false],
  ["cluster_size=2M", true],
  ["extended_l2=on", true],
];

for (const [options, over] of QCOW2) {
  Deno.test({
    name: `the same into qcow2, amid internal snapshots: ${options}${over ? ", over another" : ""}`,
    ignore: lacks("interop/large_writes", "qemu-img"),
    fn: async () => {
      await using dir = TestDir.make();
      const image = dir.file("disk.qcow2");
      sparse(dir.file("base.raw"), SIZE);
      const under = over ? ["-F", "raw", "-b", dir.file("base.raw")] : [];
      await ok("qemu-img", [
        ...["create", "-qf", "qcow2", "-o", options, ...under],
        ...[image, String(SIZE)],
      ]);
      await using daemon = await Daemon.start({
        dir,
        args: [
          ...["--blockdev", "file,node-name=file,filename=disk.qcow2"],
          ...["--blockdev", "qcow2,node-name=disk,file=file,discard=unmap"],
          ...["--nbd-server", "addr.type=unix,addr.path=nbd"],
          ...["--export", "nbd,id=e0,node-name=disk,writable=on"],
        ],
      });
      const device = "disk", name = "s";
      await amid(daemon, new History(), "disk", async (count) => {
        const command = count % 2 === 0
          ? "blockdev-snapshot-internal-sync"
          : "blockdev-snapshot-delete-internal-sync";
        await daemon.qmp.execute(command, { device, name });
      }, async () => {
        await ok("qemu-img", ["check", "-q", image]);
        await ok("qemu-img", ["convert", "-O", "raw", image, dir.file("read.raw")]);
        return Deno.readFileSync(dir.file("read.raw"));
      });
    },
  });
}

const canMount = Deno.uid() === 0 ||
  skip("interop/large_writes", "mounting a tmpfs needs root") !== true;

Deno.test({
  name: "a file system that is full at times fails large writes, and harms no other",
  ignore: !canMount || lacks("interop/large_writes", "mount", "umount"),
  fn: async () => {
    await using dir = TestDir.make();
    Deno.mkdirSync(dir.file("small"));
    const mounted = await run("mount", ["-t", "tmpfs", "-o", "size=7M", "none", dir.file("small")]);
    if (mounted.status !== 0) {
      return void skip("interop/large_writes", `mount: ${mounted.stderr.trim()}`);
    }
    try {
      sparse(dir.file("small/disk.raw"), SIZE);
      const history = new History();
      const node = ",discard=unmap";
      await using daemon = await serve({ dir, file: "small/disk.raw", node });
      const seen = await Promise.all(
        [4, 5, 6, 7].map((who) => client(daemon, "disk", history, who, 60, [0, ERR.ENOSPC])),
      );
      assert.ok(
        seen.some((errors) => errors.has(0)) && seen.some((errors) => errors.has(ERR.ENOSPC)),
      );
      assert.equal((await daemon.stop()).status, 0);
      history.check(Deno.readFileSync(dir.file("small/disk.raw")));
    } finally {
      await ok("umount", [dir.file("small")]);
    }
  },
});
