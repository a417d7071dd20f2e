/**
 * A guest that changes everything while it is read: another thread writes noise over descriptors, tables, headers
 * and rings all the time while requests are served. Goal: requests fail, queues stop, that is all: nothing outside
 * the shared regions is touched, and another export's client gets what it asked for.
 */
import assert from "node:assert/strict";
import { BlkStatus, BlkType } from "./device.ts";
import type { BlkDriver } from "./testing_blk.ts";
import { type Frontend, GUEST_BASE, payload, USER_BASE } from "./testing.ts";
import { withExport } from "./testing_export.ts";
import { Feature, Request } from "./wire.ts";

const SIZE = 1 << 20;
/** The file has a hole in the middle, and a tail, that are not shared. */
const HOLE = { from: 0x80000, to: 0x90000 };
const TAIL = 0x10000;
const ROUNDS = 150;
const RING = 64;

/** Writes noise over its list of ranges until word 0 of `flag` is set; word 1 counts. */
const SCRIBBLER = `
import { LinuxSys } from ${JSON.stringify(new URL("../sys/linux.ts", import.meta.url).href)};
onmessage = ({ data: { fd, length, ranges, flag, seed, guest } }) => {
  const sys = new LinuxSys();
  const memory = sys.map(fd, 0, length, true);
  const { bytes, view } = memory;
  let state = seed;
  const random = (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
  postMessage("begun");
  while (Atomics.load(flag, 0) === 0) {
    // In bursts: now and then a request is served that nobody touched, or that changes half-way.
    const pause = random(40000);
    for (let i = 0; i < pause; i++) state ^= i;
    for (let i = 0; i < 8; i++) {
      const [from, to, kind] = ranges[random(ranges.length)];
      if (kind === "bytes") bytes[from + random(to - from)] = random(256);
      else {
        // A descriptor that makes some sense, so that it gets further.
        const at = from + 16 * random((to - from) / 16);
        const where = random(8) === 0 ? random(2 ** 32) * 4096 : guest + random(length);
        view.setBigUint64(at, BigInt(where), true);
        view.setUint32(at + 8, random(4) === 0 ? random(2 ** 32) : random(9000), true);
        view.setUint16(at + 12, random(8), true);
        if (random(2) === 0) view.setUint16(at + 14, random(64) | random(4) << 14, true);
      }
    }
    Atomics.add(flag, 1, 8);
  }
  memory.unmap();
  sys.dispose();
  postMessage("over");
  close();
};
`;

type Range = readonly [from: number, to: number, kind: "bytes" | "descriptors"];

/** The thread. */
class Scribbler {
  readonly #flag = new Int32Array(new SharedArrayBuffer(8));
  readonly #worker: Worker;
  readonly #over: Promise<void>;

  private constructor(worker: Worker, over: Promise<void>) {
    this.#worker = worker;
    this.#over = over;
  }

  static async start(frontend: Frontend, ranges: readonly Range[], seed: number) {
    const url = URL.createObjectURL(new Blob([SCRIBBLER], { type: "text/javascript" }));
    const worker = new Worker(url, { type: "module" });
    let begin!: () => void;
    let end!: () => void;
    const begun = new Promise<void>((resolve) => begin = resolve);
    const scribbler = new Scribbler(worker, new Promise<void>((resolve) => end = resolve));
    worker.onmessage = ({ data }) => data === "begun" ? begin() : end();
    const { memoryFd: fd, memory: { length } } = frontend;
    worker.postMessage({ fd, length, ranges, flag: scribbler.#flag, seed, guest: GUEST_BASE });
    await begun;
    URL.revokeObjectURL(url);
    return scribbler;
  }

  get strokes(): number {
    return Atomics.load(this.#flag, 1);
  }

  async stop(): Promise<void> {
    Atomics.store(this.#flag, 0, 1);
    await this.#over;
    this.#worker.terminate();
  }
}

/** Shares all but the hole and the tail, which are full of a pattern. */
async function share(frontend: Frontend, features: readonly number[]): Promise<void> {
  await frontend.negotiate(features);
  frontend.makeMemory(SIZE);
  const { bytes, length } = frontend.memory;
  bytes.fill(0x5a, HOLE.from, HOLE.to);
  bytes.fill(0x5a, length - TAIL);
  const table = payload.join(
    payload.words(2, 0),
    payload.longs(GUEST_BASE, HOLE.from, USER_BASE, 0),
    payload.longs(GUEST_BASE + HOLE.to, length - TAIL - HOLE.to, USER_BASE + HOLE.to, HOLE.to),
  );
  await frontend.mustGrant(Request.setMemTable, table, [frontend.memoryFd, frontend.memoryFd]);
}

/** Where the ring's parts and tables are: what is scribbled over; `indices`: of the available ring too. */
function targets(frontend: Frontend, table: number, indices: boolean): Range[] {
  const { descriptor, available, size } = frontend.rings[0]!;
  const entries: Range[] = [
    [descriptor, descriptor + 16 * size, "descriptors"],
    [table, table + 16 * 64, "descriptors"],
    [table, table + 16 * 64, "bytes"],
    [0, 4096, "bytes"],
  ];
  if (descriptor + 16 * size < available) {
    entries.push([available + 4, available + 4 + 2 * size, "bytes"]);
  }
  return indices ? [...entries, [available, available + 4, "bytes"]] : entries;
}

/** Requests that make sense, in groups of three descriptors, and their headers in the first page. */
function layOut(frontend: Frontend, packed: boolean, round: number): void {
  const { view } = frontend.memory;
  const { descriptor } = frontend.rings[0]!;
  for (let i = 0; i + 3 <= RING; i += 3) {
    const header = 16 * i;
    view.setUint32(header, (i + round) % 2, true); // IN or OUT
    view.setBigUint64(header + 8, BigInt((i * 8 + round) % 1024), true);
    const parts = [[header, 16, 0], [HOLE.to + 4096 * i, 4096, (i + round) % 2 === 0 ? 2 : 0], [
      2048 + i,
      1,
      2,
    ]];
    parts.forEach(([at, length, flags], part) => {
      const to = descriptor + 16 * (i + part);
      const more = part < 2 ? 1 : 0;
      view.setBigUint64(to, BigInt(GUEST_BASE + at!), true);
      view.setUint32(to + 8, length!, true);
      view.setUint16(to + (packed ? 14 : 12), flags! | more, true);
      view.setUint16(to + (packed ? 12 : 14), i + part + more, true);
    });
  }
}

async function attack(
  frontend: Frontend,
  packed: boolean,
  indices: boolean,
  seed: number,
  good: () => Promise<void>,
): Promise<number> {
  const table = frontend.memory.allocate(16 * 64);
  const scribbler = await Scribbler.start(frontend, targets(frontend, table, indices), seed);
  const { view } = frontend.memory;
  const halves = new Uint16Array(frontend.memory.bytes.buffer);
  let restarts = 0;
  let index = 0;
  let wrap = 1;
  for (let round = 0; round < ROUNDS; round++) {
    const { descriptor, available } = frontend.rings[0]!;
    layOut(frontend, packed, round);
    if (packed) {
      // All descriptors of the ring become available, whatever they are by now.
      for (let i = 0; i < RING; i++) {
        const at = (descriptor + 16 * i + 14) / 2;
        halves[at] = halves[at]! & 7 | (wrap === 1 ? 1 << 7 : 1 << 15);
      }
      wrap ^= 1;
    } else {
      for (let i = 0; i < 8; i++) halves[available / 2 + 2 + (index + i) % RING] = 3 * i;
      index = (index + 8) & 0xffff;
      Atomics.store(halves, (available + 2) / 2, index);
    }
    frontend.kick(0, true);
    await good();
    if (round % 10 !== 9) continue;
    // Whether it has stopped or not: the driver resets it.
    index = packed ? 0 : await frontend.stopQueue(0) & 0xffff;
    if (packed) await frontend.stopQueue(0);
    wrap = 1;
    view.setUint16(frontend.rings[0]!.used + 2, index, true);
    Atomics.store(halves, (available + 2) / 2, index);
    await frontend.startQueue(0, packed ? 0x8000_8000 : index);
    restarts++;
  }
  assert.ok(scribbler.strokes > 1000, `${scribbler.strokes} strokes`);
  await scribbler.stop();
  return restarts;
}

const kinds: Record<string, number[]> = {
  "split": [],
  "split with indirect tables": [Feature.indirectDesc],
  "packed": [Feature.ringPacked, Feature.indirectDesc],
};

/** Reads and writes that must be right. */
function careful(disk: BlkDriver): () => Promise<void> {
  let sector = 0;
  return async () => {
    sector = (sector + 8) % 1024;
    const write = new Uint8Array(4096).fill(sector / 8 + 1);
    assert.equal((await disk.call({ type: BlkType.out, sector, write })).status, BlkStatus.ok);
    const { status, data } = await disk.call({ type: BlkType.in, sector, read: 4096 });
    assert.deepEqual([status, data], [BlkStatus.ok, write]);
  };
}

Deno.test("a guest that changes descriptors while they are read harms nobody but itself", async (t) => {
  for (const [name, features] of Object.entries(kinds)) {
    for (const indices of [false, true]) {
      const packed = features.includes(Feature.ringPacked);
      if (packed && indices) continue; // a packed ring's flags are in its descriptors
      await t.step(`${name} ring${indices ? ", indices too" : ""}`, async () => {
        await withExport({}, async (bed) => {
          await withExport({}, async (other) => {
            const { disk: good } = await other.start();
            const frontend = bed.connect();
            await share(frontend, features);
            frontend.makeRing(0, RING);
            await frontend.startQueue(0);
            const restarts = await attack(frontend, packed, indices, 7, careful(good));
            assert.equal(restarts, ROUNDS / 10);
            const { bytes, length } = frontend.memory;
            const untouched = (part: Uint8Array) => part.every((byte) => byte === 0x5a);
            assert.ok(untouched(bytes.subarray(HOLE.from, HOLE.to)), "the hole");
            assert.ok(untouched(bytes.subarray(length - TAIL)), "the tail");
            // With the indices changed too the queue stops most of the time.
            if (!indices) assert.ok(bed.disk.calls.length > 5, `${bed.disk.calls.length} requests`);
            assert.deepEqual(other.messages, []);
            frontend.disconnect();
            const { disk } = await bed.start();
            const answer = await disk.call({ type: BlkType.in, read: 512 });
            assert.equal(answer.status, BlkStatus.ok, "the next front-end");
          });
        });
      });
    }
  }
});
