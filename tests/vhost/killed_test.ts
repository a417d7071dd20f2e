/**
 * qsd is killed or stopped in the middle of requests and started again; the front-end comes back with its memory, rings and the
 * log of requests in flight. Goal: every request is answered, once; none that had been answered runs again (it would
 * undo a later one). Method: the model of history.ts, while requests of a full ring overlap as they like.
 */
import assert from "node:assert/strict";
import { BlkType } from "../../lib/vhost/device.ts";
import { Frontend, type FrontendSetup } from "../../lib/vhost/testing.ts";
import { Feature } from "../../lib/vhost/wire.ts";
import { Daemon, ON_ORIGINAL } from "../harness/daemon.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { lacks, ok } from "../harness/tools.ts";
import { VhostPeer } from "../harness/vhost.ts";
import { until } from "../harness/wait.ts";
import { History, SECTOR } from "./history.ts";

const ignore = ON_ORIGINAL || lacks("vhost/killed", "qemu-img");
const SECTORS = 2048;
const KILLS = 4;
const DEPTH = 24;

interface Layout {
  readonly format: string;
  readonly features: readonly number[];
  readonly more: string;
}

const modern = [Feature.indirectDesc, Feature.eventIdx];
const layouts: Record<string, Layout> = {
  "raw, split ring": { format: "raw", features: [], more: "" },
  "raw, packed ring, in an IOThread": {
    format: "raw",
    features: [Feature.ringPacked],
    more: ",iothread=t",
  },
  "qcow2, split ring with indirect tables": { format: "qcow2", features: modern, more: "" },
  "raw, packed ring, in two IOThreads": {
    format: "raw",
    features: [Feature.ringPacked, ...modern],
    more: ",num-queues=2,iothread.0=t,iothread.1=u",
  },
  "qcow2, packed ring with indirect tables": {
    format: "qcow2",
    features: [Feature.ringPacked, ...modern],
    more: "",
  },
};

const start = (dir: TestDir, { format, more }: Layout) =>
  Daemon.start({
    dir,
    qmp: false,
    args: [
      ...["--object", "iothread,id=t", "--object", "iothread,id=u"],
      ...["--blockdev", `${format},node-name=n,file.driver=file,file.filename=disk`],
      ...["--export", VhostPeer.exported("v", "n", "vhost", more)],
    ],
  });

/** The guest: makes requests all the time, whether somebody serves them or not. */
class Guest {
  readonly history = new History(SECTORS);
  answered = 0;
  over = false;
  /** Undefined while nobody serves. */
  #frontend: Frontend | undefined;
  readonly #all: Frontend[];

  constructor(readonly peer: VhostPeer, readonly setup: FrontendSetup, readonly dice: Dice) {
    this.#frontend = peer.frontend;
    this.#all = [peer.frontend];
  }

  async #one(): Promise<void> {
    const { history, dice, peer: { disk } } = this;
    const count = dice.pick([1, 2, 8, 8, 16]);
    const sector = dice.below(SECTORS / 8 - count) + dice.pick([0, 0, 0, 1024]);
    const kind = dice.below(16);
    if (kind === 0) {
      // It takes longer than all others, which then end in another order than they began.
      assert.equal((await disk.submit({ type: BlkType.flush })).status, 0);
    } else if (kind < 6) {
      const read = history.beginRead(sector, count);
      const { status, data } = await disk.submit({
        type: BlkType.in,
        sector,
        read: count * SECTOR,
      });
      assert.equal(status, 0);
      history.endRead(read, data, "a read");
    } else {
      const write = history.beginWrite(sector, count);
      const bytes = history.bytesOf(write);
      const { status } = await disk.submit({ type: BlkType.out, sector, write: bytes });
      assert.equal(status, 0);
      history.endWrite(write);
    }
    this.answered++;
  }

  /** One after the other. */
  async lane(): Promise<void> {
    while (!this.over) {
      const answer = this.#one();
      this.#frontend?.kick(0, true);
      // Rings and memory stay, whoever serves them.
      await this.peer.disk.wait(answer);
    }
  }

  /** The back-end is gone. */
  leave(): void {
    this.#frontend?.disconnect();
    this.#frontend = undefined;
  }

  /** There is another one. */
  async comeBack(path: string): Promise<void> {
    const from = this.#all.at(-1)!;
    const next = Frontend.connect(this.peer.context, path);
    this.#all.push(next);
    await next.start({ ...this.setup, from });
    this.#frontend = next;
  }

  close(): void {
    for (const frontend of this.#all) frontend.close();
  }
}

for (const [name, layout] of Object.entries(layouts)) {
  Deno.test({
    name: `qsd killed or stopped in mid-write, again and again: ${name}`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      const { format, features } = layout;
      const size = `${SECTORS * SECTOR}`;
      await ok("qemu-img", ["create", "-q", "-f", format, dir.file("disk"), size]);
      let daemon = await start(dir, layout);
      try {
        const setup = { features, inflight: true, memory: 16 << 20 };
        await using peer = await VhostPeer.attach(dir.file("vhost"), setup);
        const guest = new Guest(peer, setup, new Dice(11));
        try {
          const lanes = Promise.all(Array.from({ length: DEPTH }, () => guest.lane()));
          const failed = lanes.then(() => assert.fail("the guest stopped"));
          for (let kill = 0; kill < KILLS; kill++) {
            const before = guest.answered;
            const busy = until(() => guest.answered > before + 300 + 37 * kill, "requests", 20_000);
            await Promise.race([busy, failed]);
            // A stop answers what was taken, a kill nothing.
            const [signal, status] = kill % 2 === 0
              ? ["SIGKILL", 137] as const
              : ["SIGTERM", 0] as const;
            daemon.kill(signal);
            assert.equal((await daemon.end()).status, status);
            guest.leave();
            // So that the next one's is waited for.
            if (signal === "SIGKILL") Deno.removeSync(dir.file("pid"));
            daemon = await start(dir, layout);
            await guest.comeBack(dir.file("vhost"));
          }
          const before = guest.answered;
          await Promise.race([
            until(() => guest.answered > before + 300, "requests", 20_000),
            failed,
          ]);
          guest.over = true;
          failed.catch(() => {});
          await lanes;
        } finally {
          guest.over = true;
          guest.close();
        }
        const ended = await daemon.stop();
        assert.deepEqual([ended.status, ended.stderr], [0, ""]);
        const [from, to] = [dir.file("disk"), dir.file("copy")];
        if (format === "qcow2") await ok("qemu-img", ["check", from]);
        await ok("qemu-img", ["convert", "-f", format, "-O", "raw", from, to]);
        guest.history.check(Deno.readFileSync(to), "the image");
      } finally {
        await daemon[Symbol.asyncDispose]();
      }
    },
  });
}
