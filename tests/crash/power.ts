/** Power cuts: a guest works on a qcow2 image, and the image is judged as it may be at any moment. */
import assert from "node:assert/strict";
import { createInternalSnapshot, deleteInternalSnapshot } from "../../lib/block/snapshots.ts";
import { TestDir } from "../harness/dir.ts";
import { noise } from "../harness/images.ts";
import { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { ok, run } from "../harness/tools.ts";
import { Dice } from "../harness/dice.ts";
import { Journal } from "./journal.ts";
import { Ledger } from "./ledger.ts";
import { type ImageDisks, Machine, NODE, type Preallocation } from "./machine.ts";
import type { Reply } from "./pages.ts";

/** Seed of what a disk holds from the start. */
const ORIGINAL = 99;

/** An image and what happens to it. */
export interface Scenario {
  readonly name: string;
  /** Options of `qemu-img create -o`; or of blockdev-create, and the power may be cut while qsd makes the image. */
  readonly create: string | Readonly<Record<string, unknown>>;
  /** Bytes of the guest's disk. */
  readonly size: number;
  /** Bytes of a backing file. */
  readonly backing?: number;
  readonly dataFile?: boolean;
  /** Options of the qcow2 node. */
  readonly options?: Record<string, unknown>;
  /** Bytes, all of them noise, that the disk holds from the start. */
  readonly original?: number;
  /** Damages the image. */
  readonly spoil?: (image: Qcow2Bytes) => void;
  /** Bitmaps that the image has from the start. */
  readonly bitmaps?: readonly string[];
  /** The guest sends replies from the page cache. */
  readonly replies?: boolean;
  readonly work: (guest: Guest) => Promise<void>;
}

/** What to do with each scenario. */
export interface PowerOptions {
  readonly seed: number;
  /** Cut points. */
  readonly cuts: number;
  /** One in so many states is also shown to qemu-img; 0: none. */
  readonly qemuEvery: number;
  /** One in so many states is also opened by qsd for writing, written to and judged again; 0: none. */
  readonly reopenEvery: number;
}

/** The guest: it sends requests, several at a time, and notes what they may have done. */
export class Guest {
  constructor(
    readonly machine: Machine,
    readonly dice: Dice,
    readonly journal: Journal,
    readonly ledger: Ledger,
    readonly snapshots: Map<string, Ledger>,
    public size: number,
  ) {
    this.#now = ledger.copy();
  }

  /** What the disk holds, without cuts; and replies that were not read, with what they may show. */
  readonly #now: Ledger;
  #replies: { readonly reply: Reply; readonly offset: number; readonly may: Ledger }[] = [];
  readonly #taken = new Map<string, Ledger>();
  /** Replies that were read. */
  replied = 0;

  /** Something changes the disk now, and shows on it after a cut from here on. */
  #changes(act: (ledger: Ledger) => void): void {
    this.journal.note(() => act(this.ledger));
    act(this.#now);
    for (const { may } of this.#replies) act(may);
  }

  /** Asks for data whose reply is sent from the page cache, and is not read yet. Nothing is in flight. */
  send(offset: number, length: number): void {
    const reply = this.machine.send(offset, length);
    if (reply === undefined) return;
    const may = this.#now.copy();
    may.flushed();
    this.#replies.push({ reply, offset, may });
  }

  /** The client reads all but the last `left` replies. */
  receive(left = 0): void {
    const taken = this.#replies.splice(0, Math.max(0, this.#replies.length - left));
    for (const { reply, offset, may } of taken) {
      const problem = may.judge(offset, reply.take());
      if (problem !== undefined) throw new Error(`in a reply: ${problem}`);
      this.replied++;
    }
  }

  /** A sector-aligned range of at most `most` bytes within [from, to). */
  range(most: number, from = 0, to = this.size): [number, number] {
    const sectors = (to - from) / 512;
    const start = this.dice.below(sectors);
    const length = 1 + this.dice.below(Math.min(most / 512, sectors - start));
    return [from + start * 512, length * 512];
  }

  write(offset: number, length: number, flags = 0): Promise<void> {
    const { number, bytes } = this.ledger.compose(offset, length);
    this.#changes((ledger) => ledger.sent(offset, length, number));
    const piped = flags === 0 && this.dice.below(3) === 0;
    return piped
      ? this.machine.writePiped(offset, bytes)
      : this.machine.write(offset, bytes, flags);
  }
  async zero(offset: number, length: number, flags = 0): Promise<void> {
    this.#changes((ledger) => ledger.sent(offset, length, "zeroes"));
    await this.machine.backend.writeZeroes(offset, length, flags);
  }
  async discard(offset: number, length: number): Promise<void> {
    this.#changes((ledger) => ledger.discarded(offset, length));
    await this.machine.backend.discard(offset, length);
  }
  async flush(): Promise<void> {
    await this.machine.backend.flush();
    this.journal.note(() => this.ledger.flushed());
  }
  async resize(size: number, preallocation?: Preallocation): Promise<void> {
    const end = Math.min(size, this.size);
    this.#changes((ledger) => ledger.cutOff(end));
    await this.machine.resize(size, preallocation);
    this.size = size;
  }

  /** Takes an internal snapshot, which is safe when this resolves. What is in flight (`busy`) it may hold or not. */
  async snapshot(name: string, busy = false): Promise<void> {
    await createInternalSnapshot(this.machine.graph, { device: NODE, name });
    const freeze = (ledger: Ledger) => {
      const frozen = ledger.copy();
      if (!busy) frozen.flushed();
      return frozen;
    };
    this.#taken.set(name, freeze(this.#now));
    this.journal.note(() => this.snapshots.set(name, freeze(this.ledger)));
  }
  async deleteSnapshot(name: string): Promise<void> {
    this.journal.note(() => this.snapshots.delete(name));
    await deleteInternalSnapshot(this.machine.graph, { device: NODE, name });
  }

  /** The disk becomes what it was; a snapshot that is deleted afterwards leaves it so. */
  async applySnapshot(name: string): Promise<void> {
    this.journal.note(() => this.ledger.goesBack(this.snapshots.get(name)!));
    const then = this.#taken.get(name)!;
    for (const { may } of this.#replies) may.goesBack(then);
    this.#now.wentBack(then);
    await this.machine.applySnapshot(name);
    this.journal.note(() => this.ledger.wentBack(this.snapshots.get(name)!));
  }

  /** Requests at the same time, on ranges that do not overlap. */
  async together(
    count: number,
    most: number,
    act: (at: number, length: number) => Promise<void>,
  ): Promise<void> {
    const taken: [number, number][] = [];
    const running: Promise<void>[] = [];
    for (let i = 0; i < count; i++) {
      const [at, length] = this.range(most);
      if (taken.some(([other, size]) => at < other + size && other < at + length)) continue;
      taken.push([at, length]);
      running.push(act(at, length));
    }
    await Promise.all(running);
  }
}

/** Makes the disks of a scenario's image, with the original's tools. */
async function makeImage(scenario: Scenario, dir: TestDir): Promise<Uint8Array> {
  if (typeof scenario.create !== "string") return new Uint8Array();
  const path = dir.file("new.qcow2");
  if (scenario.original !== undefined) {
    Deno.writeFileSync(dir.file("new.raw"), noise(scenario.original, ORIGINAL));
    const options = ["-f", "raw", "-O", "qcow2", "-o", scenario.create];
    await ok("qemu-img", ["convert", ...options, dir.file("new.raw"), path]);
    const bytes = Deno.readFileSync(path);
    scenario.spoil?.(new Qcow2Bytes(bytes));
    return bytes;
  }
  const options = [scenario.create];
  if (scenario.dataFile) options.push(`data_file=${dir.file("new.data")}`);
  const create = ["create", "-q", "-f", "qcow2", "-o", options.filter(Boolean).join(",")];
  await ok("qemu-img", [...create, path, String(scenario.size)].filter((word) => word !== ""));
  for (const name of scenario.bitmaps ?? []) await ok("qemu-img", ["bitmap", "--add", path, name]);
  return Deno.readFileSync(path);
}

/** Runs a scenario; gives the number of cuts that were judged. Throws at the first that is wrong. */
export async function cutPower(scenario: Scenario, options: PowerOptions): Promise<number> {
  await using dir = TestDir.make();
  const image = await makeImage(scenario, dir);
  const dice = new Dice(options.seed);
  const journal = new Journal();
  const backing = scenario.backing === undefined ? undefined : noise(scenario.backing, 77);
  const disks: ImageDisks = {
    file: journal.disk(image, dice),
    ...(scenario.dataFile ? { data: journal.disk(new Uint8Array(scenario.size), dice) } : {}),
    ...(backing === undefined ? {} : { backing: new Journal().disk(backing, dice) }),
  };
  const original = scenario.original === undefined ? undefined : noise(scenario.original, ORIGINAL);
  const ledger = new Ledger((original ?? backing ?? new Uint8Array()).slice(0, scenario.size));
  const snapshots = new Map<string, Ledger>();
  const judge = new Judge(scenario, options, journal, ledger, snapshots, backing, dir);
  if (typeof scenario.create !== "string") {
    await Machine.create(disks, { ...scenario.create, size: scenario.size });
  }
  journal.note(() => judge.made = true);
  const machine = await Machine.open(disks, scenario.options);
  try {
    const guest = new Guest(machine, dice, journal, ledger, snapshots, scenario.size);
    await scenario.work(guest);
    guest.receive();
    assert.ok(guest.replied > 0 === (scenario.replies === true), `${guest.replied} replies`);
  } finally {
    await machine.close();
  }
  return await judge.run();
}

/** Judges the states of one run. */
class Judge {
  #qemu = 0;
  /** The image has been made. Before that there may be none, or one of no length. */
  made = false;

  constructor(
    private readonly scenario: Scenario,
    private readonly options: PowerOptions,
    private readonly journal: Journal,
    private readonly ledger: Ledger,
    private readonly snapshots: Map<string, Ledger>,
    private readonly backing: Uint8Array | undefined,
    private readonly dir: TestDir,
  ) {}

  async run(): Promise<number> {
    const places = this.journal.entries.filter(({ kind }) => kind === "issue" || kind === "flushed")
      .length;
    assert.ok(places > 20, `only ${places} places for a cut`);
    const dice = new Dice(this.options.seed ^ 0x5bd1e995);
    let judged = 0;
    let seen = 0;
    await this.journal.replay(async (position, take) => {
      // As many states at each place as it takes, spread evenly.
      const due = Math.ceil(++seen * this.options.cuts / places);
      for (; judged < due; judged++) {
        const [file, data] = take(dice);
        await this.#judge(file!, data, `cut at ${position} of seed ${this.options.seed}`);
      }
    });
    return judged;
  }

  async #judge(file: Uint8Array, data: Uint8Array | undefined, where: string): Promise<void> {
    if (!this.made && !isImage(file)) return;
    const problem = this.#look(file, data);
    if (problem !== undefined) this.#fail(file, data, `${where}: ${problem}`);
    this.#qemu++;
    const { qemuEvery, reopenEvery } = this.options;
    if (qemuEvery > 0 && this.#qemu % qemuEvery === 0) await this.#askQemu(file, data, where);
    const dirty = new Qcow2Bytes(file).dirty;
    if (dirty || (reopenEvery > 0 && this.#qemu % reopenEvery === 0)) {
      await this.#reopen(file, data, where);
    }
  }

  /** The independent reader's view. */
  #look(file: Uint8Array, data: Uint8Array | undefined): string | undefined {
    const image = new Qcow2Bytes(file, {
      ...(data === undefined ? {} : { data }),
      ...(this.backing === undefined ? {} : { backing: this.backing }),
    });
    if ((image.incompatible & 2) !== 0) return "the corrupt bit is set";
    const { original } = this.scenario;
    const kept = original && this.ledger.judge(0, image.read(0, original));
    if (typeof kept === "string") return kept;
    if (this.made && image.size === 0) return "the image has no length";
    const { errors } = image.check();
    if (errors.length > 0) return errors.slice(0, 3).join("; ");
    for (const [offset, length] of this.ledger.touched(image.size)) {
      const problem = this.ledger.judge(offset, image.read(offset, length));
      if (problem !== undefined) return problem;
    }
    const { entries } = image.snapshots();
    for (const [name, ledger] of this.snapshots) {
      const entry = entries.find((one) => one.name === name);
      if (entry === undefined) return `snapshot ${name} is gone`;
      const l1 = { offset: entry.l1Offset, length: entry.l1Length };
      for (const [offset, length] of ledger.touched(entry.size)) {
        const problem = ledger.judge(offset, image.read(offset, length, l1));
        if (problem !== undefined) return `snapshot ${name}: ${problem}`;
      }
    }
    return undefined;
  }

  #fail(file: Uint8Array, data: Uint8Array | undefined, problem: string): never {
    const keep = Deno.env.get("QSD_KEEP_CUT");
    if (keep !== undefined) {
      Deno.writeFileSync(keep, file);
      if (data !== undefined) Deno.writeFileSync(`${keep}.data`, data);
    }
    throw new Error(`${this.scenario.name}: ${problem}`);
  }

  async #askQemu(file: Uint8Array, data: Uint8Array | undefined, where: string): Promise<void> {
    const path = this.dir.file("cut.qcow2");
    Deno.writeFileSync(path, file);
    if (data !== undefined) Deno.writeFileSync(this.dir.file("new.data"), data);
    // A dirty image's counts are not valid until they are repaired: that must leave nothing behind.
    if (new Qcow2Bytes(file).dirty) await run("qemu-img", ["check", "-q", "-r", "all", path]);
    const { status, stdout, stderr } = await run("qemu-img", ["check", "-f", "qcow2", path]);
    // 3: leaks only.
    if (status !== 0 && status !== 3) {
      this.#fail(file, data, `${where}: qemu-img check: ${stdout.slice(0, 1000)}${stderr}`);
    }
  }

  /** qsd opens it for writing, which repairs what is dirty, writes everywhere, and closes it. */
  async #reopen(file: Uint8Array, data: Uint8Array | undefined, where: string): Promise<void> {
    const journal = new Journal();
    const dice = new Dice(1);
    const disk = journal.disk(file, dice);
    const dataDisk = data === undefined ? undefined : journal.disk(data, dice);
    const { size } = new Qcow2Bytes(file);
    try {
      const machine = await Machine.open({
        file: disk,
        ...(dataDisk === undefined ? {} : { data: dataDisk }),
        ...(this.backing === undefined ? {} : { backing: journal.disk(this.backing, dice) }),
      }, this.scenario.options);
      for (const [offset, length] of this.ledger.touched(size)) {
        const problem = this.ledger.judge(offset, await machine.read(offset, length));
        if (problem !== undefined) throw new Error(problem);
      }
      const mark = new Uint8Array(512).fill(0x5a);
      for (let i = 0; i < 8 && size > 0; i++) {
        await machine.write(Math.floor(size / 512 * i / 8) * 512, mark);
      }
      await machine.close();
      const { errors } = new Qcow2Bytes(disk.bytes).check();
      if (errors.length > 0) throw new Error(errors.slice(0, 3).join("; "));
    } catch (error) {
      this.#fail(file, data, `${where}: after it was opened again: ${error}`);
    }
  }
}

/** Whether there is an image: its header is written when all else is there. */
function isImage(file: Uint8Array): boolean {
  return file.length > 4 && new DataView(file.buffer, file.byteOffset).getUint32(0) === 0x514649fb;
}
