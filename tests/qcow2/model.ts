/** Random operations on an image and on a plain array of bytes, which must agree at any time. */
import assert from "node:assert/strict";
import { RequestFlag } from "../../lib/block/mod.ts";
import { createInternalSnapshot, deleteInternalSnapshot } from "../../lib/block/snapshots.ts";
import { Journal, type RecordingDisk } from "../crash/journal.ts";
import { Machine, NODE } from "../crash/machine.ts";
import { Dice } from "../harness/dice.ts";
import type { TestDir } from "../harness/dir.ts";
import { assertSameBytes, noise } from "../harness/images.ts";
import { Qcow2Bytes } from "../harness/qcow2_image.ts";
import { ok } from "../harness/tools.ts";
import { createImage, type ImageCase } from "./cases.ts";

/** An image, its model, and the dice. */
export class ModelRun {
  machine!: Machine;
  model: Uint8Array;
  readonly #file: RecordingDisk;
  readonly #data: RecordingDisk | undefined;
  readonly #backing: Uint8Array | undefined;
  /** What was done, newest last: shown when something is wrong. */
  readonly #log: string[] = [];
  #operations = 0;
  #piped = 0;
  /** What the disk was when each of them was taken. */
  readonly snapshots = new Map<string, Uint8Array>();

  private constructor(
    private readonly image: ImageCase,
    private readonly dice: Dice,
    private readonly dir: TestDir,
  ) {
    const journal = new Journal();
    this.#file = journal.disk(Deno.readFileSync(dir.file("m.qcow2")), dice);
    if (image.dataFile) {
      this.#data = journal.disk(Deno.readFileSync(dir.file("m.data")), dice);
    }
    if (image.backing !== undefined) this.#backing = noise(image.backing, 5);
    this.model = new Uint8Array(image.size);
    this.model.set((this.#backing ?? new Uint8Array(0)).subarray(0, image.size));
  }

  /** Makes the image and opens it. */
  static async start(image: ImageCase, seed: number, dir: TestDir): Promise<ModelRun> {
    await createImage(image, dir.file("m.qcow2"), dir.file("m.data"));
    const run = new ModelRun(image, new Dice(seed), dir);
    await run.#open();
    return run;
  }

  async #open(): Promise<void> {
    const journal = new Journal();
    this.machine = await Machine.open({
      file: this.#file,
      ...(this.#data === undefined ? {} : { data: this.#data }),
      ...(this.#backing === undefined ? {} : { backing: journal.disk(this.#backing, this.dice) }),
    }, this.image.options);
  }

  /** Does `count` operations, then closes the image and has it judged. */
  async run(count: number): Promise<void> {
    try {
      for (let i = 0; i < count; i++) await this.#step();
      await this.#compareAll();
      await this.#close();
      assert.ok(this.#piped > 0);
    } catch (error) {
      const last = this.#log.slice(-12).join("\n  ");
      throw new Error(`${this.image.name}, operation ${this.#operations}:\n  ${last}`, {
        cause: error,
      });
    }
  }

  #note(text: string): void {
    this.#operations++;
    this.#log.push(text);
  }

  #range(most: number): [number, number] {
    const { dice, model } = this;
    // Odd places, sectors, and whole clusters.
    const unit = dice.pick([1, 512, 512, 4096, 65536]);
    const units = Math.floor(model.length / unit);
    if (units === 0) return [0, model.length];
    const start = dice.below(units);
    const length = 1 + dice.below(Math.min(Math.max(1, Math.floor(most / unit)), units - start));
    return [start * unit, length * unit];
  }

  async #step(): Promise<void> {
    const { dice } = this;
    const kind = dice.below(100);
    if (kind < 29) return await this.#write();
    if (kind < 35) return await this.#snapshot();
    if (kind < 45) return await this.#together();
    if (kind < 65) return await this.#read();
    if (kind < 73) return await this.#zero();
    if (kind < 82) return await this.#discard();
    if (kind < 88) return await this.#flush();
    if (kind < 91) return await this.#resize();
    if (kind < 96 && !this.image.noCompression) return await this.#compressed();
    if (kind >= 96) return await this.#reopen();
    return await this.#write();
  }

  #bytes(length: number): Uint8Array {
    const bytes = noise(length, 1 + this.dice.below(1 << 30));
    // Sometimes what is easily taken for nothing.
    return this.dice.below(12) === 0 ? bytes.fill(0) : bytes;
  }

  async #write(): Promise<void> {
    const [at, length] = this.#range(this.dice.pick([4096, 65536, 300_000]));
    const bytes = this.#bytes(length);
    const flags = this.dice.below(6) === 0 ? RequestFlag.fua : 0;
    const piped = flags === 0 && this.dice.below(2) === 0;
    this.#note(`write ${at}+${length} ${piped ? "out of a pipe" : `flags ${flags}`}`);
    if (piped) await this.machine.writePiped(at, bytes);
    else await this.machine.write(at, bytes, flags);
    this.model.set(bytes, at);
  }

  /** Writes that are under way together; they do not overlap, but may share clusters. */
  async #together(): Promise<void> {
    const { model } = this;
    const [start] = this.#range(1);
    let at = start;
    const running: Promise<void>[] = [];
    for (let i = 0; i < 6 && at < model.length; i++) {
      const length = Math.min(1 + this.dice.below(20_000), model.length - at);
      const bytes = this.#bytes(length);
      this.#note(`write ${at}+${length} with others`);
      const piped = this.dice.below(3) === 0;
      running.push(piped ? this.machine.writePiped(at, bytes) : this.machine.write(at, bytes));
      model.set(bytes, at);
      at += length + this.dice.below(3) * this.dice.below(9000);
    }
    await Promise.all(running);
  }

  async #read(): Promise<void> {
    const [at, length] = this.#range(400_000);
    this.#note(`read ${at}+${length}`);
    const got = await this.machine.read(at, length);
    assertSameBytes(got, this.model.subarray(at, at + length), `read at ${at}`);
  }

  async #zero(): Promise<void> {
    const [at, length] = this.#range(500_000);
    const flags = this.dice.below(2) === 0 ? RequestFlag.mayUnmap : 0;
    this.#note(`zero ${at}+${length} flags ${flags}`);
    await this.machine.backend.writeZeroes(at, length, flags);
    this.model.fill(0, at, at + length);
  }

  /** Advice: the model takes over what came of it, provided that it is zeroes, the backing file or as before. */
  async #discard(): Promise<void> {
    const [at, length] = this.#range(500_000);
    this.#note(`discard ${at}+${length}`);
    await this.machine.backend.discard(at, length);
    const got = await this.machine.read(at, length);
    for (let i = 0; i < length; i++) {
      const allowed = got[i] === 0 || got[i] === this.model[at + i] ||
        got[i] === this.#backing?.[at + i];
      assert.ok(allowed, `byte ${at + i} is ${got[i]} after a discard`);
    }
    this.model.set(got, at);
  }

  async #flush(): Promise<void> {
    this.#note("flush");
    await this.machine.backend.flush();
    this.#judge(false);
  }

  /** Takes an internal snapshot, goes back to one, or deletes one; what a kept one holds is asked for at the end. */
  async #snapshot(): Promise<void> {
    const { dice, machine, image, snapshots } = this;
    if (image.noSnapshots) return await this.#write();
    const names = [...snapshots.keys()];
    const kind = names.length === 0 ? 0 : dice.below(names.length < 3 ? 4 : 3);
    if (kind === 0 || kind === 3) {
      const name = `s${this.#operations}`;
      this.#note(`snapshot ${name}`);
      try {
        await createInternalSnapshot(machine.graph, { device: NODE, name });
      } catch (error) {
        // Counts of few bits are full soon.
        assert.match(image.create, /refcount_bits=[24],/, String(error));
        assert.match(String(error), /Invalid argument/);
        return;
      }
      snapshots.set(name, this.model.slice());
      return;
    }
    const name = dice.pick(names);
    if (kind === 1) {
      this.#note(`delete ${name}`);
      await deleteInternalSnapshot(machine.graph, { device: NODE, name });
      snapshots.delete(name);
    } else {
      this.#note(`back to ${name}`);
      await machine.applySnapshot(name);
      this.model = snapshots.get(name)!.slice();
    }
  }

  async #resize(): Promise<void> {
    const { model, dice } = this;
    if (this.image.create.includes("compat=0.10") && this.snapshots.size > 0) {
      const why = { message: "Can't resize a v2 image which has snapshots" };
      return await assert.rejects(this.machine.resize(model.length + 512), why);
    }
    const most = this.image.size * 1.5;
    const size = (1 + dice.below(Math.floor(most / 512))) * 512;
    this.#note(`resize ${model.length} to ${size}`);
    await this.machine.resize(size);
    const next = new Uint8Array(size);
    next.set(model.subarray(0, size));
    this.model = next;
    // What is new reads as zeroes, whatever the backing file has there.
    assert.equal(this.machine.backend.size, size);
    const from = Math.min(model.length, size);
    const check = Math.min(size - from, 200_000);
    if (check > 0) {
      assertSameBytes(await this.machine.read(from, check), new Uint8Array(check), "what is new");
    }
  }

  async #compressed(): Promise<void> {
    const { clusterSize } = new Qcow2Bytes(this.#file.bytes);
    const clusters = Math.floor(this.model.length / clusterSize);
    if (clusters === 0) return;
    const at = this.dice.below(clusters) * clusterSize;
    const bytes = new Uint8Array(clusterSize);
    for (let i = 0; i < clusterSize; i++) bytes[i] = (i * i >> 7) + this.#operations & 63;
    this.#note(`compressed write ${at}+${clusterSize}`);
    await this.machine.write(at, bytes, RequestFlag.writeCompressed);
    this.model.set(bytes, at);
  }

  async #reopen(): Promise<void> {
    this.#note("reopen");
    await this.#close();
    await this.#open();
    assert.equal(this.machine.backend.size, this.model.length);
  }

  async #close(): Promise<void> {
    this.#piped += this.machine.piped;
    await this.machine.close();
    this.#judge(true);
  }

  /** Keeps the image for a closer look, where QSD_KEEP_IMAGE says. */
  #keep(): void {
    const path = Deno.env.get("QSD_KEEP_IMAGE");
    if (path !== undefined) Deno.writeFileSync(path, this.#file.bytes);
  }

  async #compareAll(): Promise<void> {
    for (let at = 0; at < this.model.length; at += 1 << 20) {
      const length = Math.min(1 << 20, this.model.length - at);
      const got = await this.machine.read(at, length);
      assertSameBytes(got, this.model.subarray(at, at + length), `at ${at}`);
    }
  }

  /** The independent reader's view. `closed`: then nothing may be lost to leaks, either. */
  #judge(closed: boolean): void {
    const image = new Qcow2Bytes(this.#file.bytes, {
      ...(this.#data === undefined ? {} : { data: this.#data.bytes }),
      ...(this.#backing === undefined ? {} : { backing: this.#backing }),
    });
    const { errors, leaks } = image.check();
    assert.deepEqual(errors, []);
    if (closed) {
      assert.equal(image.dirty, false, "closed, and still dirty");
      if (leaks > 0) this.#keep();
      assert.equal(leaks, 0, "clusters are lost");
    }
    assert.equal(image.size, this.model.length);
    if (!closed) return;
    assertSameBytes(image.read(0, image.size), this.model, "the image as bytes");
    if (this.image.noSnapshots) return;
    const { entries } = image.snapshots();
    assert.deepEqual(entries.map(({ name }) => name), [...this.snapshots.keys()]);
    for (const { name, size, l1Offset: offset, l1Length: length } of entries) {
      const then = this.snapshots.get(name)!;
      assert.equal(size, then.length);
      assertSameBytes(image.read(0, size, { offset, length }), then, `snapshot ${name}`);
    }
  }

  /** The original's view of the closed image. */
  async askQemu(): Promise<void> {
    const { dir } = this;
    Deno.writeFileSync(dir.file("m.qcow2"), this.#file.bytes);
    if (this.#data !== undefined) Deno.writeFileSync(dir.file("m.data"), this.#data.bytes);
    Deno.writeFileSync(dir.file("m.raw"), this.model);
    await ok("qemu-img", ["check", "-f", "qcow2", dir.file("m.qcow2")]);
    const options: Record<string, unknown> = {
      driver: "qcow2",
      file: { driver: "file", filename: dir.file("m.qcow2") },
    };
    if (this.#backing !== undefined) {
      Deno.writeFileSync(dir.file("m.base"), this.#backing);
      options["backing"] = {
        driver: "raw",
        file: { driver: "file", filename: dir.file("m.base") },
      };
    }
    const target = `json:${JSON.stringify(options)}`;
    const compare = ["compare", "-F", "raw", target, dir.file("m.raw")];
    assert.match(await ok("qemu-img", compare), /identical/);
  }
}
