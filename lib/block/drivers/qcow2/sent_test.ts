/** Replies that were sent from the page cache never show what their clusters hold later. */
import assert from "node:assert/strict";
import { IoVec, KiB, MiB } from "../../../base/mod.ts";
import { createContext, Errno, type OwnedContext } from "../../../sys/mod.ts";
import { type BlockBackend, BlockGraph, Perm, RequestFlag } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import { HeldClusters } from "./held.ts";
import { SentClusters, type SentState } from "./sent.ts";
import type { Snapshots } from "./snapshots.ts";
import { imageDriver } from "./testing.ts";
import type { ImageOptions, OpenedImage } from "./types.ts";

const CLUSTER = 64 * KiB;
const OLD = 0x41, NEW = 0x42;
/** In the middle of larger pages, where the file system has such. */
const GUEST = 7 * MiB + CLUSTER;
const F_SETPIPE_SZ = 1031;

async function run(program: string, ...args: string[]): Promise<void> {
  const { code, stderr } = await new Deno.Command(program, { args }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
}

/** An image whose first half holds OLD, and a client that has asked for a cluster and reads when it likes. */
class Bench {
  image!: OpenedImage;
  backend!: BlockBackend;
  #graph!: BlockGraph;
  readonly #ends: readonly [number, number];
  readonly #pipe = new Int32Array([-1, -1]);
  readonly #libc = Deno.dlopen("libc.so.6", {
    pipe: { parameters: ["buffer"], result: "i32" },
    fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
    splice: { parameters: ["i32", "pointer", "i32", "pointer", "usize", "u32"], result: "isize" },
    read: { parameters: ["i32", "pointer", "usize"], result: "isize" },
  });

  constructor(readonly context: OwnedContext, readonly path: string) {
    const ends = context.sys.socketpair();
    assert(typeof ends !== "number");
    this.#ends = ends;
  }

  async open(options: Partial<ImageOptions>): Promise<void> {
    const qcow2 = imageDriver(options, (image) => this.image = image);
    this.#graph = new BlockGraph({
      context: this.context,
      drivers: driverRegistry([file, qcow2] as Parameters<typeof driverRegistry>[0]),
      events: { emit: () => {} },
    });
    const node = {
      driver: "qcow2",
      "node-name": "disk",
      discard: "unmap",
      file: { driver: "file", filename: this.path },
    };
    await this.#graph.add(node as Parameters<BlockGraph["add"]>[0], { monitorOwned: true });
    this.backend = await this.#graph.backend("disk", {
      describe: "the test",
      needed: Perm.consistentRead | Perm.write | Perm.resize,
      shared: Perm.all,
    });
  }

  async close(): Promise<void> {
    await this.backend.detach();
    await this.#graph.closeAll();
    for (const fd of [...this.#ends, ...this.#pipe]) if (fd >= 0) this.context.sys.close(fd);
    this.#libc.close();
  }

  /** Where the cluster lies in the file. */
  place(guest: number): { fd: number; offset: number } {
    const place = { fd: -1, offset: -1 };
    // It takes a few answers until they count.
    for (let i = 0; i < 40; i++) {
      if (this.backend.pages!.locate(guest, CLUSTER, false, place)) return place;
    }
    throw new assert.AssertionError({ message: "it cannot be sent" });
  }

  /** Sends the cluster to the client. */
  send(guest: number): number {
    const { fd, offset } = this.place(guest);
    assert.equal(this.context.sys.sendfile(this.#ends[0], fd, offset, CLUSTER), CLUSTER);
    return offset;
  }

  /** The client moves what is in its socket into a pipe, as proxies do; the end to receive it from. */
  splice(): number {
    const { pipe, fcntl, splice } = this.#libc.symbols;
    assert.equal(pipe(this.#pipe), 0);
    assert(fcntl(this.#pipe[1]!, F_SETPIPE_SZ, 4 * CLUSTER) >= CLUSTER);
    for (let moved = 0; moved < CLUSTER;) {
      const rc = splice(this.#ends[1], null, this.#pipe[1]!, null, BigInt(CLUSTER - moved), 0);
      assert(rc > 0);
      moved += Number(rc);
    }
    return this.#pipe[0]!;
  }

  /** How many bytes of each value the client receives. */
  receive(from: number = this.#ends[1]): Record<number, number> {
    const memory = this.context.buffers.acquire(CLUSTER);
    let got = 0;
    while (got < CLUSTER) {
      const target = Deno.UnsafePointer.create(BigInt(memory.address + got));
      const rc = this.#libc.symbols.read(from, target, BigInt(CLUSTER - got));
      assert(rc > 0);
      got += Number(rc);
    }
    const seen: Record<number, number> = {};
    for (const byte of memory.bytes.subarray(0, CLUSTER)) seen[byte] = (seen[byte] ?? 0) + 1;
    this.context.buffers.release(memory);
    return seen;
  }

  async write(guest: number, value: number, flags = 0): Promise<void> {
    const memory = this.context.buffers.acquire(CLUSTER);
    memory.bytes.fill(value);
    await this.backend.write(guest, IoVec.of(memory.address, CLUSTER), flags);
    this.context.buffers.release(memory);
  }

  /** Waits until clusters that somebody held are to be looked at again. */
  async untilDue(): Promise<void> {
    const { held } = this.image as unknown as { held: HeldClusters };
    while (!held.due) await this.context.loop.sleep(1_000_000);
  }

  /**
   * Writes NEW to clusters from `guest` on, which have no place, until one gets that at `host`. False: none of many
   * does.
   */
  async reuse(host: number, guest = 8 * MiB): Promise<boolean> {
    await this.backend.flush();
    for (let at = guest; at < guest + 2 * MiB; at += CLUSTER) {
      await this.write(at, NEW);
      if (this.place(at).offset === host) return true;
      // What was given back gets free in the background.
      await this.context.loop.sleep(1_000_000);
    }
    return false;
  }
}

async function withBench(
  options: Partial<ImageOptions>,
  test: (bench: Bench) => Promise<void>,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  try {
    if (context.sys.cachedPages(-1, 0, 1) === -Errno.ENOSYS) return; // before Linux 6.5
    const path = `${directory}/disk.qcow2`;
    await run("qemu-img", "create", "-qf", "qcow2", path, "16M");
    await run("qemu-io", "-c", `write -P ${OLD} 0 8M`, path);
    // With one large write, and so with large pages where the file system has such.
    await Deno.writeFile(path, await Deno.readFile(path));
    const bench = new Bench(context, path);
    await bench.open(options);
    try {
      await test(bench);
    } finally {
      await bench.close();
    }
    await run("qemu-img", "check", "-q", path);
  } finally {
    await context.close();
    await Deno.remove(directory, { recursive: true });
  }
}

/** The ways in which the cluster at GUEST loses its place; whether the guest wants its contents gone. */
const WAYS: Readonly<Record<string, [boolean, (bench: Bench) => Promise<void>]>> = {
  "a discard": [true, async ({ backend }) => await backend.discard(GUEST, CLUSTER)],
  "zeroes": [
    true,
    async ({ backend }) => await backend.writeZeroes(GUEST, CLUSTER, RequestFlag.mayUnmap),
  ],
  "a snapshot that is deleted": [false, async (bench) => {
    const snapshots = bench.image.snapshots as Snapshots;
    await snapshots.create({ name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
    await bench.write(GUEST, OLD);
    await snapshots.delete("1");
  }],
  "a compressed write": [false, async (bench) => {
    await bench.write(GUEST, OLD, RequestFlag.writeCompressed);
  }],
  "a shorter disk": [false, async ({ backend }) => {
    await backend.truncate(7 * MiB, { exact: true, preallocation: "off" });
    await backend.truncate(16 * MiB, { exact: true, preallocation: "off" });
  }],
};

for (const [way, [zeroes, act]] of Object.entries(WAYS)) {
  for (const pass of [true, false]) {
    Deno.test(`what a client has not read is never another cluster's: ${way}, passed on: ${pass}`, () =>
      withBench({
        passDiscardRequest: pass,
        passDiscardSnapshot: pass,
        passDiscardOther: pass,
      }, async (bench) => {
        const host = bench.send(GUEST);
        await act(bench);
        const used = await bench.reuse(host);
        const seen = bench.receive();
        if (zeroes) {
          assert.ok(used, "the cluster is used again");
          assert.equal(seen[NEW], undefined);
          assert.equal((seen[OLD] ?? 0) + (seen[0] ?? 0), CLUSTER);
          return;
        }
        assert.deepEqual(seen, { [OLD]: CLUSTER });
        if (used) return;
        // It waits for the client.
        await bench.backend.discard(0, CLUSTER);
        await bench.untilDue();
        await bench.backend.flush();
        await bench.backend.discard(CLUSTER, CLUSTER);
        assert.ok(await bench.reuse(host, 12 * MiB), "the cluster is used again");
      }));
  }
}

Deno.test("that holds for a client that moves its reply on without a copy, too", () =>
  withBench({ passDiscardRequest: false }, async (bench) => {
    const host = bench.send(GUEST);
    const pipe = bench.splice();
    await bench.backend.discard(GUEST, CLUSTER);
    assert.ok(await bench.reuse(host));
    const seen = bench.receive(pipe);
    assert.equal(seen[NEW], undefined);
    assert.equal((seen[OLD] ?? 0) + (seen[0] ?? 0), CLUSTER);
  }));

Deno.test("without the set of what was sent, the client would see another cluster's data", () =>
  withBench({ passDiscardRequest: false }, async (bench) => {
    (bench.image as { sending: unknown }).sending = () => true;
    const host = bench.send(GUEST);
    await bench.backend.discard(GUEST, CLUSTER);
    assert.ok(await bench.reuse(host));
    assert.deepEqual(bench.receive(), { [NEW]: CLUSTER });
  }));

Deno.test("what cannot be zeroed is used again when the client has read its reply", () =>
  withBench({ passDiscardRequest: false }, async (bench) => {
    const { image, backend } = bench;
    const host = bench.send(GUEST);
    image.file.writeZeroes = () => {
      throw new Error("not here");
    };
    await backend.discard(GUEST, CLUSTER);
    assert.equal(await bench.reuse(host), false);
    assert.equal((await Deno.readFile(bench.path))[host], OLD, "nobody wrote there");
    bench.place(CLUSTER);
    assert.deepEqual(bench.receive(), { [OLD]: CLUSTER });
    await bench.untilDue();
    await backend.discard(0, CLUSTER);
    assert.ok(await bench.reuse(host, 12 * MiB));
  }));

/** A set over a file that a test plays: page numbers that are there, and those of them that somebody holds. */
function setOver(
  tells: boolean,
  state?: SentState,
  readOnly = false,
): {
  set: SentClusters;
  held: HeldClusters;
  calls: string[];
  there: Set<number>;
  holding: Set<number>;
  zeroes: { work: boolean };
  clock: { now: number };
} {
  const calls: string[] = [];
  const there = new Set<number>();
  const holding = new Set<number>();
  const zeroes = { work: true };
  const clock = { now: 1 };
  const each = (offset: number, length: number, act: (page: number) => void) => {
    for (let page = offset / 4096; page < (offset + length) / 4096; page++) act(page);
  };
  const image = {
    readOnly,
    nodeName: "disk",
    geometry: { clusterSize: CLUSTER },
    context: {
      log: { warn: (text: string) => calls.push(`warning: ${text}`) },
      sys: { monotonicNs: () => clock.now },
    },
    allocator: { freed: (cluster: number) => calls.push(`free ${cluster}`) },
    file: {
      size: 100_000 * CLUSTER,
      inPageCache: (offset: number, length: number) => {
        let found = false;
        each(offset, length, (page) => found ||= there.has(page));
        return tells ? found : undefined;
      },
      dropPages: (offset: number, length: number) =>
        each(offset, length, (page) => {
          if (!holding.has(page)) there.delete(page);
        }),
      flush: () => void calls.push("flush"),
      writeZeroes: (offset: number, length: number) => {
        calls.push(`zeroes ${length} at ${offset}`);
        if (!zeroes.work) throw new Error("not here");
        each(offset, length, (page) => there.delete(page));
      },
    },
  };
  const set = new SentClusters(
    image as unknown as ConstructorParameters<typeof SentClusters>[0],
    state,
  );
  const held = new HeldClusters(
    { ...image, sent: set } as unknown as ConstructorParameters<typeof HeldClusters>[0],
  );
  return { set, held, calls, there, holding, zeroes, clock };
}

const PAGES = CLUSTER / 4096;

Deno.test("all clusters that a range touches are in the set, until they have no pages", async () => {
  const { set, calls } = setOver(true);
  assert.equal(set.any, false);
  assert.equal(set.sending(5 * CLUSTER + 1, CLUSTER), true);
  assert.deepEqual([4, 5, 6, 7].map((cluster) => set.has(cluster)), [false, true, true, false]);
  const next = setOver(true, set.state).set;
  await set.release(5 * CLUSTER, CLUSTER, "zeroes");
  assert.deepEqual(calls, []);
  assert.deepEqual([5, 6].map((cluster) => set.has(cluster)), [false, true]);
  assert.equal(next.has(6), true, "the next instance takes it over");
});

Deno.test("nothing is zeroed but what is held, and that only where zeroes are wanted", async () => {
  const { set, calls, there, holding } = setOver(true);
  set.sending(0, 4 * CLUSTER);
  for (let page = 0; page < 4 * PAGES; page++) there.add(page);
  holding.add(PAGES).add(2 * PAGES + 1);
  await set.release(0, 4 * CLUSTER, "contents");
  assert.deepEqual(calls, []);
  assert.deepEqual([0, 1, 2, 3].map((cluster) => set.has(cluster)), [false, true, true, false]);
  await set.release(0, 4 * CLUSTER, "zeroes");
  assert.deepEqual(calls, [`zeroes ${2 * CLUSTER} at ${CLUSTER}`]);
  assert.deepEqual([1, 2].map((cluster) => set.has(cluster)), [false, false]);
});

Deno.test("where a file system cannot zero that is tried once", async () => {
  const { set, calls, there, holding, zeroes } = setOver(true);
  zeroes.work = false;
  set.sending(0, 2 * CLUSTER);
  for (const page of [0, PAGES]) there.add(page), holding.add(page);
  await set.release(0, CLUSTER, "zeroes");
  await set.release(CLUSTER, CLUSTER, "zeroes");
  assert.deepEqual(calls, [`zeroes ${CLUSTER} at 0`]);
  assert.ok(set.has(0) && set.has(1));
});

Deno.test("where it cannot be told what is in the page cache only images that are not written are sent", async () => {
  assert.equal(setOver(false).set.sending(0, CLUSTER), false);
  const { set, calls } = setOver(false, undefined, true);
  assert.equal(set.sending(0, CLUSTER), true);
  await set.release(0, CLUSTER, "zeroes");
  assert.deepEqual([set.has(0), calls], [true, []], "after a reopen it is not used again");
});

Deno.test("the next cluster of the set is found, however far away", () => {
  const { set } = setOver(true);
  assert.equal(set.next(0, 10), 10);
  const there = [0, 5, 31, 32, 63, 100, 32767, 32768, 99_999, 1_000_000];
  for (const cluster of there) set.sending(cluster * CLUSTER, CLUSTER);
  const found: number[] = [];
  for (let at = 0; (at = set.next(at, 3_000_000)) < 3_000_000; at++) found.push(at);
  assert.deepEqual(found, there);
  assert.equal(set.next(33, 63), 63);
  assert.equal(set.next(101, 1_000_000), 32767);
});

Deno.test("a set that is full takes what it has, and nothing else", () => {
  const { set } = setOver(true);
  const far = 32768 * CLUSTER;
  for (let part = 0; part < 1024; part++) assert.equal(set.sending(part * far, CLUSTER), true);
  assert.equal(set.sending(1024 * far, CLUSTER), false);
  assert.equal(set.sending(1023 * far + CLUSTER, CLUSTER), true);
  assert.equal(set.has(1024 * 32768), false);
});

Deno.test("clusters that clients hold are looked at again, the longer apart the longer they hold them", async () => {
  const { set, held, calls, there, holding, clock } = setOver(true);
  set.sending(0, 3 * CLUSTER);
  for (const page of [0, PAGES]) there.add(page), holding.add(page);
  for (const cluster of [1, 0, 2]) held.add(cluster);
  assert.ok(held.due);
  await held.lookAgain();
  assert.deepEqual(calls, ["free 2"]);
  const pauses: number[] = [];
  for (let i = 0; i < 14; i++) {
    const from = clock.now;
    while (!held.due) clock.now += 1e6;
    pauses.push((clock.now - from) / 1e6);
    await held.lookAgain();
  }
  assert.deepEqual(pauses.slice(0, 4), [50, 100, 200, 400]);
  assert.equal(pauses.at(-1), 60_000);
  holding.clear();
  clock.now += 60e9;
  await held.lookAgain();
  assert.deepEqual(calls, ["free 2", "free 0", "free 1"]);
  assert.equal(held.due, false);
});

Deno.test("when clients hold many free clusters that is said once, and no more is sent", async () => {
  const { set, held, calls } = setOver(true);
  set.sending(0, 1024 * CLUSTER);
  for (let cluster = 0; cluster < 1023; cluster++) held.add(cluster);
  assert.deepEqual([held.many, calls], [false, []]);
  for (let i = 0; i < 3; i++) held.add(1023);
  assert.equal(held.many, true);
  assert.equal(calls.filter((call) => /^warning.*clients do not read/.test(call)).length, 1);
  await held.lookAgain();
  assert.equal(held.many, false);
});
