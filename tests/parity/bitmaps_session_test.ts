/**
 * Sessions of random work on dirty bitmaps, the same on the original and on qsd, each with an image of its own: after
 * every step both must tell the same of all bitmaps, and store the same.
 */
import assert from "node:assert/strict";
import { Daemon, lacksOriginal, ORIGINAL } from "../harness/daemon.ts";
import { Dice } from "../harness/dice.ts";
import { TestDir } from "../harness/dir.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { CMD } from "../harness/nbd_wire.ts";
import { lacks, ok, which } from "../harness/tools.ts";

const ignore = lacksOriginal() || lacks("parity/bitmap sessions", "qemu-img");
const MIB = 1 << 20;
type Args = Record<string, unknown>;

/** One program with its image. */
class Side {
  #daemon: Daemon | undefined;
  constructor(readonly dir: TestDir, readonly original: boolean) {}

  async start(): Promise<void> {
    for (const left of ["pid", "qmp", "nbd"]) {
      await Deno.remove(this.dir.file(left)).catch(() => {});
    }
    const args = ["--nbd-server", "addr.type=unix,addr.path=nbd"];
    const program = this.original ? { program: which(ORIGINAL)! } : {};
    this.#daemon = await Daemon.start({ dir: this.dir, args, ...program });
  }
  get daemon(): Daemon {
    assert.ok(this.#daemon !== undefined);
    return this.#daemon;
  }
  async end(signal: Deno.Signal): Promise<void> {
    this.daemon.kill(signal);
    await this.daemon.end();
  }

  async command(name: string, args: Args): Promise<unknown> {
    const reply = await this.daemon.qmp.command({ execute: name, arguments: args });
    return "error" in reply ? reply["error"].desc : {};
  }
  async requests(list: readonly { type: number; offset: number; length: number }[]): Promise<void> {
    const share = { type: "nbd", id: "e", name: "e", "node-name": "n", writable: true };
    await this.daemon.qmp.execute("block-export-add", share);
    using peer = await NbdPeer.attach(this.daemon.file("nbd"), "e");
    for (const { type, offset, length } of list) {
      const payload = type === CMD.WRITE ? { payload: new Uint8Array(length).fill(1) } : { length };
      assert.equal((await peer.call({ type, offset, ...payload })).error, 0);
    }
    await peer.flush();
    await peer.disconnect();
    await this.daemon.qmp.execute("block-export-del", { id: "e", mode: "hard" });
    await this.daemon.qmp.event("BLOCK_EXPORT_DELETED");
  }
  /** All that is told of the bitmaps of node `n`. */
  async bitmaps(): Promise<unknown[]> {
    const { qmp } = this.daemon;
    const nodes = await qmp.execute("query-named-block-nodes", { flat: true }) as Args[];
    const list = (nodes.find((one) => one["node-name"] === "n")?.["dirty-bitmaps"] ?? []) as Args[];
    const told: unknown[] = [];
    for (const bitmap of list) {
      const args = { node: "n", name: bitmap["name"] };
      const { inconsistent } = bitmap;
      told.push([
        Object.entries(bitmap).sort(),
        inconsistent === true || await qmp.execute("x-debug-block-dirty-bitmap-sha256", args),
      ]);
    }
    return told;
  }
  async stored(): Promise<unknown[]> {
    const info = await ok("qemu-img", ["info", "-U", "--output=json", this.dir.file("d.qcow2")]);
    const list = (JSON.parse(info)["format-specific"].data.bitmaps ?? []) as Args[];
    return list.map((bitmap) => Object.entries(bitmap).sort());
  }
}

/** What is done to both. */
class Session {
  #size: number;
  #open = false;
  #readOnly = false;
  #last = "";

  constructor(readonly sides: readonly Side[], readonly dice: Dice, size: number) {
    this.#size = size;
  }

  async both(what: string, act: (side: Side) => Promise<unknown>): Promise<unknown> {
    this.#last = what;
    const [theirs, ours] = [await act(this.sides[0]!), await act(this.sides[1]!)];
    assert.deepEqual(ours, theirs, `${what}: qsd (actual) and the original (expected) differ`);
    return ours;
  }
  #command(name: string, args: Args): Promise<unknown> {
    return this.both(`${name} ${JSON.stringify(args)}`, (side) => side.command(name, args));
  }
  #options(readOnly: boolean): Args {
    this.#readOnly = readOnly;
    const file = { driver: "file", filename: "d.qcow2" };
    return { driver: "qcow2", "node-name": "n", "read-only": readOnly, discard: "unmap", file };
  }
  async close(): Promise<void> {
    if (this.#open) await this.#command("blockdev-del", { "node-name": "n" });
    this.#open = false;
    for (const { dir } of this.sides) await ok("qemu-img", ["check", dir.file("d.qcow2")]);
  }

  async step(): Promise<void> {
    const { dice } = this;
    const name = () => dice.pick(["a", "b", "c", "ä"]);
    const on = (node = "n") => ({ node, name: name() });
    if (!this.#open) {
      this.#open = true;
      await this.#command("blockdev-add", this.#options(dice.below(6) === 0));
    } else if (dice.below(12) === 0) {
      await this.close();
    } else if (dice.below(20) === 0) {
      await this.both("kill", (side) => side.end("SIGKILL").then(() => side.start()));
      this.#open = false;
    } else {
      const persistent = !this.#readOnly && dice.below(3) > 0;
      const granularity = 512 << dice.below(dice.pick([3, 22]));
      const acts = [
        () => this.#command("block-dirty-bitmap-remove", on()),
        () => this.#command("block-dirty-bitmap-clear", on()),
        () => this.#command(`block-dirty-bitmap-${dice.pick(["enable", "disable"])}`, on()),
        () => this.#command("blockdev-reopen", { options: [this.#options(!this.#readOnly)] }),
        ...Array<() => Promise<unknown>>(3).fill(() =>
          this.#command("block-dirty-bitmap-add", { ...on(), persistent, granularity })
        ),
        ...Array<() => Promise<unknown>>(2).fill(() =>
          this.#command("block-dirty-bitmap-merge", {
            node: "n",
            target: name(),
            bitmaps: [name(), on()].slice(dice.below(2)),
          })
        ),
        ...this.#readOnly ? [] : [() => this.#resize(), () => this.#write(), () => this.#write()],
      ];
      await dice.pick(acts)();
    }
    if (this.#open) await this.both(`bitmaps after ${this.#last}`, (side) => side.bitmaps());
    await this.both(`what is stored after ${this.#last}`, (side) => side.stored());
  }

  async #resize(): Promise<void> {
    const size = (1 + this.dice.below(3 * MIB / 512)) * 512;
    const done = await this.#command("block_resize", { "node-name": "n", size });
    if (typeof done !== "string") this.#size = size;
  }
  async #write(): Promise<void> {
    const list = Array.from({ length: 1 + this.dice.below(5) }, () => {
      const unit = this.dice.pick([1, 512]);
      const offset = this.dice.below(this.#size / unit) * unit;
      const most = Math.min(100_000, this.#size - offset);
      const length = (1 + this.dice.below(most / unit)) * unit;
      return { type: this.dice.pick([CMD.WRITE, CMD.WRITE_ZEROES, CMD.TRIM]), offset, length };
    });
    await this.both(`requests ${JSON.stringify(list)}`, (side) => side.requests(list));
  }
}

for (const [seed, create] of ["cluster_size=512", "cluster_size=64k,extended_l2=on"].entries()) {
  Deno.test({
    name: `random sessions with dirty bitmaps go as with the original, ${create}`,
    ignore,
    fn: async () => {
      await using theirs = TestDir.make();
      await using ours = TestDir.make();
      const sides = [new Side(theirs, true), new Side(ours, false)];
      const size = 2 * MIB + 1536;
      for (const { dir } of sides) {
        const path = dir.file("d.qcow2");
        await ok("qemu-img", ["create", "-q", "-f", "qcow2", "-o", create, path, String(size)]);
      }
      for (const side of sides) await side.start();
      try {
        const session = new Session(sides, new Dice(seed + 1), size);
        for (let i = 0; i < 60; i++) await session.step();
        await session.close();
      } finally {
        for (const { daemon } of sides) await daemon[Symbol.asyncDispose]();
      }
    },
  });
}
