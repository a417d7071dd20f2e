/** Replies that were sent from the page cache never show what their clusters hold later. */
import assert from "node:assert/strict";
import { IoVec, KiB, MiB } from "../../../base/mod.ts";
import { createContext, Errno, type OwnedContext } from "../../../sys/mod.ts";
import { type BlockBackend, BlockGraph, Perm } from "../../mod.ts";
import { driverRegistry } from "../../graph_types.ts";
import { file } from "../file/mod.ts";
import { SentClusters, type SentState } from "./sent.ts";
import type { Snapshots } from "./snapshots.ts";
import { imageDriver } from "./testing.ts";
import type { ImageOptions, OpenedImage } from "./types.ts";

const CLUSTER = 64 * KiB;
const OLD = 0x41, NEW = 0x42;
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
      if (this.backend.locateFile!(guest, CLUSTER, false, place)) return place;
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

  async write(guest: number, value: number): Promise<void> {
    const memory = this.context.buffers.acquire(CLUSTER);
    memory.bytes.fill(value);
    await this.backend.write(guest, IoVec.of(memory.address, CLUSTER));
    this.context.buffers.release(memory);
  }

  /** Writes NEW to clusters that had no place, until one gets that at `host`. False: none of many does. */
  async reuse(host: number): Promise<boolean> {
    await this.backend.flush();
    for (let i = 0; i < 64; i++) {
      await this.write(8 * MiB + i * CLUSTER, NEW);
      if (this.place(8 * MiB + i * CLUSTER).offset === host) return true;
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

/** The ways in which the cluster at guest offset 0 loses its place. */
const WAYS: Readonly<Record<string, (bench: Bench) => Promise<void>>> = {
  "a discard": async ({ backend }) => await backend.discard(0, CLUSTER),
  "a snapshot that is deleted": async (bench) => {
    const snapshots = bench.image.snapshots as Snapshots;
    await snapshots.create({ name: "s", dateSec: 1, dateNsec: 2, vmClockNsec: 3n });
    await bench.write(0, OLD);
    await snapshots.delete("1");
  },
  "a shorter disk": async ({ backend }) => {
    await backend.truncate(0, { exact: true, preallocation: "off" });
    await backend.truncate(16 * MiB, { exact: true, preallocation: "off" });
  },
};

for (const [way, act] of Object.entries(WAYS)) {
  for (const pass of [true, false]) {
    Deno.test(`what a client has not read is never another cluster's: ${way}, passed on: ${pass}`, () =>
      withBench({
        passDiscardRequest: pass,
        passDiscardSnapshot: pass,
        passDiscardOther: pass,
      }, async (bench) => {
        const host = bench.send(0);
        await act(bench);
        assert.ok(await bench.reuse(host), "the cluster is used again");
        const seen = bench.receive();
        assert.equal(seen[NEW], undefined);
        assert.equal((seen[OLD] ?? 0) + (seen[0] ?? 0), CLUSTER);
      }));
  }
}

Deno.test("that holds for a client that moves its reply on without a copy, too", () =>
  withBench({ passDiscardRequest: false }, async (bench) => {
    const host = bench.send(0);
    const pipe = bench.splice();
    await bench.backend.discard(0, CLUSTER);
    assert.ok(await bench.reuse(host));
    const seen = bench.receive(pipe);
    assert.equal(seen[NEW], undefined);
    assert.equal((seen[OLD] ?? 0) + (seen[0] ?? 0), CLUSTER);
  }));

Deno.test("without the set of what was sent, the client would see another cluster's data", () =>
  withBench({ passDiscardRequest: false }, async (bench) => {
    (bench.image as { sending: unknown }).sending = () => true;
    const host = bench.send(0);
    await bench.backend.discard(0, CLUSTER);
    assert.ok(await bench.reuse(host));
    assert.deepEqual(bench.receive(), { [NEW]: CLUSTER });
  }));

Deno.test("what cannot be replaced is not used again, and nothing is sent any more", () =>
  withBench({ passDiscardRequest: false }, async (bench) => {
    const { image, backend } = bench;
    const writeZeroes = image.file.writeZeroes;
    const host = bench.send(0);
    image.file.writeZeroes = () => {
      throw new Error("not here");
    };
    await backend.discard(0, CLUSTER);
    await backend.flush();
    for (let i = 0; i < 20; i++) {
      await bench.write(8 * MiB + i * CLUSTER, NEW);
      await bench.context.loop.sleep(1_000_000);
    }
    assert.throws(() => bench.place(CLUSTER), /cannot be sent/);
    assert.deepEqual(bench.receive(), { [OLD]: CLUSTER });
    image.file.writeZeroes = writeZeroes;
    await bench.backend.flush();
    const bytes = await Deno.readFile(bench.path);
    assert.equal(bytes[host], OLD, "nobody wrote there");
  }));

/** A set over a file that a test plays. */
function setOver(
  inPageCache: (offset: number) => boolean | undefined,
  state?: SentState,
  readOnly = false,
): { set: SentClusters; calls: string[] } {
  const calls: string[] = [];
  const set = new SentClusters(
    {
      readOnly,
      nodeName: "disk",
      geometry: { clusterSize: CLUSTER },
      context: { log: { warn: (text: string) => calls.push(`warning: ${text}`) } },
      file: {
        size: 100 * CLUSTER,
        inPageCache,
        flush: () => void calls.push("flush"),
        writeZeroes: (offset: number, length: number) =>
          void calls.push(`zeroes ${length} at ${offset}`),
      },
    } as unknown as ConstructorParameters<typeof SentClusters>[0],
    state,
  );
  return { set, calls };
}

Deno.test("all clusters that a range touches are in the set, until their pages are replaced", async () => {
  let there = true;
  const { set, calls } = setOver(() => there);
  assert.equal(set.any, false);
  assert.equal(set.sending(5 * CLUSTER + 1, CLUSTER), true);
  assert.deepEqual([4, 5, 6, 7].map((cluster) => set.has(cluster)), [false, true, true, false]);
  const next = setOver(() => there, set.state).set;
  there = false;
  await set.replace(5 * CLUSTER, CLUSTER, false);
  assert.deepEqual(calls, []);
  assert.deepEqual([5, 6].map((cluster) => set.has(cluster)), [false, true]);
  assert.equal(next.has(6), true, "the next instance takes it over");
});

Deno.test("pages that stay although their range was zeroed are flushed first", async () => {
  const answers = [true, true, true, false];
  const { set, calls } = setOver(() => answers.shift());
  set.sending(0, CLUSTER);
  await set.replace(0, CLUSTER, false);
  assert.deepEqual(calls, [`zeroes ${CLUSTER} at 0`, "flush", `zeroes ${CLUSTER} at 0`]);
  assert.equal(set.has(0), false);
});

Deno.test("pages that never go are told of once, and what was sent stays in the set", async () => {
  const { set, calls } = setOver(() => true);
  set.sending(0, 2 * CLUSTER);
  await set.replace(0, CLUSTER, false);
  await set.replace(CLUSTER, CLUSTER, false);
  assert.equal(calls.filter((call) => call.startsWith("warning")).length, 1);
  assert.ok(set.has(0) && set.has(1));
  assert.equal(set.sending(0, CLUSTER), false);
  set.reopened();
  assert.equal(set.sending(0, CLUSTER), true);
});

Deno.test("where it cannot be told what is in the page cache only images that are not written are sent", async () => {
  assert.equal(setOver(() => undefined).set.sending(0, CLUSTER), false);
  const { set, calls } = setOver(() => undefined, undefined, true);
  assert.equal(set.sending(0, CLUSTER), true);
  await set.replace(0, CLUSTER, false);
  assert.deepEqual([set.has(0), calls], [true, []], "after a reopen it is not used again");
});

Deno.test("a set that is full takes what it has, and nothing else", () => {
  const { set } = setOver(() => true);
  const far = 32768 * CLUSTER;
  for (let part = 0; part < 1024; part++) assert.equal(set.sending(part * far, CLUSTER), true);
  assert.equal(set.sending(1024 * far, CLUSTER), false);
  assert.equal(set.sending(1023 * far + CLUSTER, CLUSTER), true);
  assert.equal(set.has(1024 * 32768), false);
});
