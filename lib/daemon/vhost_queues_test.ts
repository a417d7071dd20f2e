/** vhost-user-blk exports whose queues run in several IOThreads. */
import assert from "node:assert/strict";
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";
import { createContext } from "../sys/mod.ts";
import { BlkFeature } from "../vhost/config.ts";
import { Frontend, type FrontendSetup, GUEST_BASE, payload, USER_BASE } from "../vhost/testing.ts";
import { BlkDriver } from "../vhost/testing_blk.ts";
import { Feature, Request } from "../vhost/wire.ts";
import { loggedServices, until } from "./testing.ts";

const MIB = 1 << 20;
const [IN, OUT, FLUSH] = [0, 1, 4];
const QUEUES = 4;

/** A daemon's services in a folder of their own, with three IOThreads, and a front-end's context. */
async function made() {
  const folder = await Deno.makeTempDir();
  const { services, lines } = loggedServices();
  const guest = createContext({ name: "guest" });
  const open: Frontend[] = [];
  for (const id of ["t0", "t1", "t2"]) services.objects.add({ "qom-type": "iothread", id });
  await Deno.writeFile(`${folder}/disk`, new Uint8Array(MIB));
  const node = { driver: "file", "node-name": "n", filename: `${folder}/disk` } as const;
  await services.graph.add(node, { monitorOwned: true });
  return {
    services,
    lines,
    folder,
    /** A running front-end, and its disks: one behind each queue. */
    async attach(setup: FrontendSetup = {}) {
      const frontend = Frontend.connect(guest, `${folder}/s`);
      open.push(frontend);
      await frontend.start({ queues: QUEUES, ...setup });
      const disks = Array.from({ length: QUEUES }, (_, i) => new BlkDriver(frontend, i));
      return { frontend, disks };
    },
    async [Symbol.asyncDispose]() {
      for (const frontend of open) frontend.close();
      await guest.close();
      await services.stop();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

const exported = (folder: string, iothread: unknown, more: object = {}) =>
  ({
    type: "vhost-user-blk",
    id: "e",
    "node-name": "n",
    writable: true,
    "num-queues": QUEUES,
    iothread,
    addr: { type: "unix", path: `${folder}/s` },
    ...more,
  }) as BlockExportOptionsValue;

/** Each queue writes, and all queues read what each has written. */
async function exchange(disks: readonly BlkDriver[], seed: number): Promise<void> {
  for (const [i, disk] of disks.entries()) {
    const write = new Uint8Array(8192).fill(seed + i);
    assert.equal((await disk.call({ type: OUT, sector: 16 * i, write })).status, 0);
  }
  for (const disk of disks) {
    for (let i = 0; i < disks.length; i++) {
      const { status, data } = await disk.call({ type: IN, sector: 16 * i, read: 8192 });
      assert.equal(status, 0);
      assert.ok(data.every((byte) => byte === seed + i));
    }
    assert.equal((await disk.call({ type: FLUSH })).status, 0);
  }
}

/** How often the file behind `fd` is mapped in this process. */
function mappings(fd: number): number {
  const inode = ` ${Deno.statSync(`/proc/self/fd/${fd}`).ino} `;
  const maps = Deno.readTextFileSync("/proc/self/maps").split("\n");
  return maps.filter((line) => line.includes(inode)).length;
}

/** How many descriptors of this process stand for the same eventfd as `fd`. */
function duplicates(fd: number): number {
  const identity = (of: number | string) => {
    try {
      return /^eventfd-id:.*$/m.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${of}`))?.[0];
    } catch {
      return undefined; // it was the descriptor of the listing
    }
  };
  const wanted = identity(fd);
  assert.ok(wanted !== undefined);
  return [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => identity(name) === wanted)
    .length;
}

Deno.test("queues run in the threads of the list in turn, on one node, and are counted", async () => {
  for (const packed of [false, true]) {
    await using parts = await made();
    const { services, folder } = parts;
    await services.exports.add(exported(folder, ["t0", "t1", "t2"]));
    const features = [Feature.indirectDesc, Feature.eventIdx, BlkFeature.flush];
    const { disks } = await parts.attach({
      features: packed ? [...features, Feature.ringPacked] : features,
    });
    await exchange(disks, 1);
    const file = await Deno.readFile(`${folder}/disk`);
    assert.deepEqual([0, 1, 2, 3].map((i) => file[8192 * i]), [1, 2, 3, 4]);
    const [{ instance, iothread }] = services.exports.list() as [
      ReturnType<typeof services.exports.list>[0],
    ];
    assert.equal(iothread?.name, "t0", "the node runs in the first");
    await instance.refresh!();
    assert.equal(instance.statistics!().requests, QUEUES * (1 + QUEUES + 1));
    assert.throws(() => services.objects.delete("t1"), /in use/);
    for (const name of ["t0", "t1", "t2"]) {
      assert.ok((await services.threads.find(name)!.counters()).turns > 0);
    }
  }
});

Deno.test("queues stop, change and go on while others run", async () => {
  await using parts = await made();
  const { services, folder } = parts;
  await services.exports.add(exported(folder, ["t0", "t1"]));
  const { frontend, disks } = await parts.attach();
  await exchange(disks, 10);
  for (const index of [1, 2]) {
    // Requests in flight at GET_VRING_BASE are done before the reply, and shown.
    const reads = Array.from(
      { length: 20 },
      (_, i) => disks[index]!.submit({ type: IN, sector: i, read: 4096 }),
    );
    frontend.kick(index, true);
    const base = await frontend.stopQueue(index);
    disks[index]!.collect();
    const done = 20 - disks[index]!.inFlight;
    await exchange(disks.filter((_, i) => i !== index), 20);
    await frontend.startQueue(index, base);
    frontend.kick(index, true);
    const all = Promise.all(reads);
    const answers = await disks[index]!.wait(all);
    assert.ok(answers.every(({ status }) => status === 0), `after ${done} of 20`);
  }
  // A new call while the ring runs; the guest's memory at another address; off and on.
  const call = frontend.eventfd();
  await frontend.mustGrant(Request.setVringCall, payload.longs(1), [call]);
  frontend.calls[1] = call;
  await disks[1]!.call({ type: IN, sector: 0, read: 512 });
  await exchange(disks, 30);
  await frontend.mustGrant(Request.setVringEnable, payload.words(3, 0));
  const late = disks[3]!.submit({ type: IN, sector: 0, read: 512 });
  frontend.kick(3, true);
  await exchange(disks.slice(0, 3), 40);
  assert.equal(disks[3]!.collect(), 0, "a queue that is disabled is not served");
  await frontend.mustGrant(Request.setVringEnable, payload.words(3, 1));
  assert.equal((await disks[3]!.wait(late)).status, 0);
  await exchange(disks, 50);
});

Deno.test("a queue that is broken stops alone; a session that ends leaves the export to the next", async () => {
  await using parts = await made();
  const { services, folder, lines } = parts;
  await services.exports.add(exported(folder, ["t0", "t1"]));
  for (let round = 0; round < 3; round++) {
    const { frontend, disks } = await parts.attach();
    await exchange(disks, 1);
    const { memory, rings } = frontend;
    const ring = rings[1]! as unknown as { available: number };
    memory.view.setUint16(ring.available + 2, 0x7000, true);
    frontend.kick(1, true);
    await until(services, () => lines.length === round + 1);
    assert.match(lines[round]!, /queue 1 is stopped: the available index jumped/);
    await exchange(disks.filter((_, i) => i !== 1), 7);
    // Hang up with requests in flight.
    for (const i of [0, 2, 3]) {
      for (let n = 0; n < 30; n++) {
        void disks[i]!.submit({ type: IN, sector: 8 * n, read: 4096 }).catch(() => {});
      }
      frontend.kick(i, true);
    }
    frontend.disconnect();
  }
  const { disks } = await parts.attach();
  await exchange(disks, 99);
});

Deno.test("what was taken and not answered runs once more, wherever its queue runs then", async () => {
  await using parts = await made();
  const { services, folder } = parts;
  await services.exports.add(exported(folder, ["t0", "t1"]));
  const first = await parts.attach({ inflight: true });
  await exchange(first.disks, 1);
  for (const [i, disk] of first.disks.entries()) {
    void disk.submit({ type: OUT, sector: 512 + 8 * i, write: new Uint8Array(4096).fill(77 + i) });
    first.frontend.kick(i, true);
  }
  first.frontend.disconnect();
  services.exports.del("e", "hard");
  await until(services, () => services.exports.list().length === 0);
  await services.exports.add(exported(folder, ["t2", "t1", "t0"]));
  const second = await parts.attach({ from: first.frontend, inflight: true });
  for (const i of [0, 1, 2, 3]) second.frontend.kick(i, true);
  await until(services, () => {
    const file = Deno.readFileSync(`${folder}/disk`);
    return [0, 1, 2, 3].every((i) => file[512 * 512 + 4096 * i] === 77 + i);
  });
});

Deno.test("a resize holds for every queue before the guest hears of it; drains wait for all threads", async () => {
  await using parts = await made();
  const { services, folder } = parts;
  await services.exports.add(exported(folder, ["t0", "t1", "t2"]));
  const { frontend, disks } = await parts.attach();
  await frontend.openChannel();
  const beyond = { type: OUT, sector: (2 * MIB - 4096) / 512, write: new Uint8Array(4096).fill(5) };
  for (const disk of disks) assert.equal((await disk.call(beyond)).status, 1);
  for (const disk of disks) {
    for (let n = 0; n < 20; n++) void disk.submit({ type: IN, sector: 8 * n, read: 4096 });
  }
  for (const i of [0, 1, 2, 3]) frontend.kick(i, true);
  await services.graph.resize("n", 2 * MIB);
  await until(services, () => frontend.channelMessages().length > 0);
  for (const disk of disks) assert.equal((await disk.call(beyond)).status, 0);
  assert.ok(disks.every((disk) => disk.inFlight === 0));
});

Deno.test("whatever changes under queues in threads waits for what they have in flight, which is done once", async () => {
  await using parts = await made();
  const { services, folder } = parts;
  // So slow that requests are in flight when the messages come.
  const slow = { driver: "null-co", "node-name": "s", "latency-ns": 60n * 10n ** 6n } as const;
  await services.graph.add(slow, { monitorOwned: true });
  await services.exports.add(exported(folder, ["t0", "t1"], { "node-name": "s" }));
  const { frontend, disks } = await parts.attach();
  const extra = payload.longs(0, GUEST_BASE * 2, 65536, USER_BASE * 1.5, 0);
  const restarted = async (bases: readonly number[]) => {
    for (const [i, base] of bases.entries()) await frontend.startQueue(i, base);
  };
  const answered = () => {
    for (const disk of disks) disk.collect();
    assert.ok(disks.every((disk) => disk.inFlight === 0), "what was taken is shown by the reply");
  };
  const changes: Record<string, () => Promise<void>> = {
    SET_MEM_TABLE: () => frontend.shareMemory(),
    ADD_MEM_REG: () => frontend.mustGrant(Request.addMemReg, extra, [frontend.memoryFd]),
    REM_MEM_REG: () => frontend.mustGrant(Request.remMemReg, extra),
    async GET_VRING_BASE() {
      const bases: number[] = [];
      for (let i = 0; i < QUEUES; i++) bases.push(await frontend.stopQueue(i));
      answered();
      await frontend.shareMemory(USER_BASE + 0x1000_0000);
      await restarted(bases);
    },
    async RESET_DEVICE() {
      await frontend.mustGrant(Request.resetDevice);
      answered();
      // As a driver that is loaded anew: with rings of its own.
      for (let i = 0; i < QUEUES; i++) frontend.makeRing(i, 128);
      await restarted(disks.map(() => 0));
    },
  };
  for (const [round, [name, change]] of Object.entries(changes).entries()) {
    const wanted = disks.flatMap((disk) =>
      Array.from({ length: 10 }, (_, n) => disk.submit({ type: IN, sector: n, read: 512 }))
    );
    for (let i = 0; i < QUEUES; i++) frontend.kick(i, true);
    const [{ instance }] = services.exports.list() as [ReturnType<typeof services.exports.list>[0]];
    let asked: Promise<unknown> | undefined;
    await until(services, () => {
      asked ??= Promise.resolve(instance.refresh!()).finally(() => asked = undefined);
      return instance.statistics!().requests === 40 * (round + 1);
    });
    assert.ok(Number(instance.statistics!().inFlight) > 0, `${name}: nothing is in flight`);
    await change();
    for (let i = 0; i < QUEUES; i++) frontend.kick(i, true);
    await until(services, () => {
      for (const disk of disks) disk.collect();
      return disks.every((disk) => disk.inFlight === 0);
    });
    for (const { status } of await Promise.all(wanted)) assert.equal(status, 0, name);
    await instance.refresh!();
    assert.equal(instance.statistics!().requests, 40 * (round + 1), `${name}: each once`);
  }
});

Deno.test("a thread that fails takes the export along, and nothing else", async () => {
  await using parts = await made();
  const { services, folder, lines } = parts;
  for (const failing of ["t1", "t0"]) {
    await services.exports.add(exported(folder, ["t0", "t1"]));
    const { frontend, disks } = await parts.attach();
    await exchange(disks, 3);
    const eventfds = [...frontend.kicks, ...frontend.calls];
    assert.ok(eventfds.every((fd) => duplicates(fd) === 3), "ours, the export's, the thread's");
    await services.threads.find(failing)!.ask("crash").catch(() => {});
    await until(services, () => services.exports.list().length === 0);
    assert.ok(eventfds.every((fd) => duplicates(fd) === 1), "no descriptor stays behind");
    assert.match(lines.join("\n"), new RegExp(`IOThread '${failing}' has failed`));
    assert.equal(
      await frontend.reply(),
      "end",
      "the front-end is told by the end of its connection",
    );
    if (failing === "t0") break;
    services.objects.delete(failing);
    services.objects.add({ "qom-type": "iothread", id: failing });
  }
});

Deno.test("guest memory in which the node's failed thread may be at work stays mapped", async () => {
  for (const busy of [false, true]) {
    await using parts = await made();
    const { services, folder } = parts;
    const slow = { driver: "null-co", "node-name": "slow", "latency-ns": 10n ** 15n } as const;
    await services.graph.add(slow, { monitorOwned: true });
    await services.exports.add(exported(folder, ["t0", "t1"], { "node-name": "slow" }));
    const { frontend, disks } = await parts.attach();
    const { memoryFd } = frontend;
    assert.equal(mappings(memoryFd), 2);
    // Those that run in t0; so only what queue 1 has under way is in the failed thread's hands.
    for (const i of [0, 2]) await frontend.stopQueue(i);
    if (busy) {
      void disks[1]!.submit({ type: IN, sector: 0, read: 4096 }).catch(() => {});
      frontend.kick(1, true);
      const [{ instance }] = services.exports.list() as [
        ReturnType<typeof services.exports.list>[0],
      ];
      let refreshed: Promise<unknown> | undefined;
      await until(services, () => {
        refreshed ??= Promise.resolve(instance.refresh!()).finally(() => refreshed = undefined);
        return instance.statistics!().inFlight === 1;
      });
    }
    await services.threads.find("t0")!.ask("crash").catch(() => {});
    await until(services, () => services.exports.list().length === 0);
    assert.equal(mappings(memoryFd), busy ? 2 : 1);
  }
});

Deno.test("lists that make no sense are refused, and leave nothing behind", async () => {
  await using parts = await made();
  const { exports, nbd } = parts.services;
  const refused = (options: BlockExportOptionsValue, message: string) =>
    assert.rejects(exports.add(options), { message });
  const { folder } = parts;
  await refused(exported(folder, []), "The list of iothreads must not be empty");
  await refused(exported(folder, ["t0", "none"]), 'iothread "none" not found');
  await refused(
    exported(folder, ["t0"], { "fixed-iothread": true }),
    "fixed-iothread cannot be used with a list of iothreads",
  );
  await nbd.start({ addr: { type: "unix", path: `${folder}/nbd` } });
  await refused(
    { type: "nbd", id: "e", "node-name": "n", iothread: ["t0", "t1"] },
    "Export type 'nbd' does not support several iothreads",
  );
  assert.deepEqual(exports.list(), []);
  // One is as good as its name; with one queue the others have nothing to do.
  await exports.add({ type: "nbd", id: "one", "node-name": "n", iothread: ["t1"] });
  await exports.add(exported(folder, ["t0", "t1", "t2"], { "num-queues": 1 }));
  parts.services.objects.delete("t2");
});
