/** virtio-blk requests over all kinds of rings, and what bad ones are answered. */
import assert from "node:assert/strict";
import { setImmediate } from "node:timers";
import { BlkStatus, BlkType } from "./device.ts";
import { type BlkCall, BlkDriver } from "./testing_blk.ts";
import { ExportBed, withExport } from "./testing_export.ts";
import { Feature, Request } from "./wire.ts";
import { BlkFeature } from "./config.ts";
import { payload } from "./testing.ts";

const { indirectDesc, eventIdx, ringPacked } = Feature;
const rings: Record<string, number[]> = {
  "split": [],
  "split, indirect": [indirectDesc],
  "split, indirect, event index": [indirectDesc, eventIdx],
  "packed": [ringPacked],
  "packed, indirect": [ringPacked, indirectDesc],
  "packed, indirect, event index": [ringPacked, indirectDesc, eventIdx],
};

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (i * 7 + seed * 31 + (i >> 8)) & 0xff);
}

for (const [name, features] of Object.entries(rings)) {
  Deno.test(`${name} ring: what is written is read back, many times around the ring`, async () => {
    await withExport({}, async (bed) => {
      const { disk } = await bed.start({ features, queueSize: 16 });
      for (let round = 0; round < 60; round++) {
        const data = pattern(4096, round);
        const sector = (round * 8) % 2048;
        const wrote = await disk.call({ type: BlkType.out, sector, write: data, piece: 1024 });
        assert.deepEqual([wrote.status, wrote.length], [BlkStatus.ok, 1]);
        const read = await disk.call({ type: BlkType.in, sector, read: 4096, piece: 2048 });
        assert.deepEqual([read.status, read.length], [BlkStatus.ok, 4097]);
        assert.deepEqual(read.data, data);
      }
      assert.equal(bed.disk.calls.length, 120);
    });
  });

  Deno.test(`${name} ring: a few requests are served before others of the thread get their turn`, async () => {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, queueSize: 1024 });
      const answers: Promise<unknown>[] = [];
      for (let i = 0; i < 300; i++) answers.push(disk.submit({ type: BlkType.in, read: 512 }));
      let most = 0;
      let before = 0;
      const other = bed.context.loop.addPoller(() => {
        most = Math.max(most, bed.disk.calls.length - before);
        before = bed.disk.calls.length;
        return false;
      });
      frontend.kick();
      await disk.wait(Promise.all(answers));
      assert.equal(bed.disk.calls.length, 300);
      assert.ok(most <= 2 * 64, `${most}: for the kick, and when the ring is looked at`);
      other.remove();
    });
  });

  Deno.test(`${name} ring: a full ring is served in batches, each request once`, async () => {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, queueSize: 64 });
      const answers: Promise<unknown>[] = [];
      for (let i = 0; i < 16; i++) {
        answers.push(disk.submit({ type: BlkType.out, sector: i, write: pattern(512, i) }));
      }
      frontend.kick();
      for (const answer of answers) await disk.wait(answer);
      assert.equal(bed.disk.calls.length, 16);
      for (let i = 0; i < 16; i++) {
        assert.deepEqual(bed.disk.bytes.slice(i * 512, i * 512 + 512), pattern(512, i));
      }
    });
  });

  Deno.test(`${name} ring: a guest that always has a next request leaves others their turns`, async () => {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, queueSize: 32 });
      const limit = performance.now() + 2000; // without a bound the test fails then
      let greedy = true;
      const next = () => {
        disk.collect();
        if (!greedy || performance.now() > limit) return;
        disk.submit({ type: BlkType.in, sector: 0, read: 512 });
      };
      bed.disk.later = () => void next();
      next();
      frontend.kick();
      for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
      await bed.context.loop.sleep(1e6);
      assert.ok(performance.now() < limit, "a turn has to end");
      assert.ok(bed.disk.calls.length > 20, `${bed.disk.calls.length} requests`);
      greedy = false;
      await frontend.until(() => disk.collect() === 0 && disk.inFlight === 0);
    });
  });

  Deno.test(`${name} ring: requests that complete out of order`, async () => {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, queueSize: 32 });
      const gates: (() => void)[] = [];
      bed.disk.later = () => new Promise<void>((resolve) => gates.push(resolve));
      const answers = [0, 1, 2, 3].map((i) =>
        disk.submit({ type: BlkType.out, sector: i, write: pattern(512, i) })
      );
      frontend.kick();
      await frontend.until(() => gates.length === 4);
      for (const i of [2, 0, 3, 1]) {
        gates[i]!();
        assert.equal((await disk.wait(answers[i]!)).status, BlkStatus.ok);
      }
      assert.equal(disk.inFlight, 0);
    });
  });

  Deno.test(`${name} ring: the driver is notified of the last request`, async () => {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, queueSize: 32 });
      frontend.rings[0]!.notifications(true);
      for (let round = 0; round < 40; round++) {
        frontend.takeCalls();
        const answer = disk.submit({ type: BlkType.flush });
        frontend.kick();
        await frontend.until(() => frontend.takeCalls() > 0);
        assert.equal(disk.collect(), 1);
        assert.equal((await answer).status, BlkStatus.ok);
      }
    });
  });
}

for (const [name, features] of Object.entries({ "split": [], "packed": [ringPacked] })) {
  Deno.test(`${name} ring: the driver is asked to notify before the loop sleeps, and not while it serves`, async () => {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features });
      const [ring] = frontend.rings;
      for (let round = 0; round < 5; round++) {
        // Not by the loop's own means, which would keep it awake.
        const limit = performance.now() + 10_000;
        while (!ring!.wantsKick()) {
          assert.ok(performance.now() < limit, "it never asked to be notified");
          await new Promise((resolve) => setTimeout(resolve, 1));
        }
        const wanted: boolean[] = [];
        bed.disk.later = () => void wanted.push(ring!.wantsKick());
        const answers = [0, 1, 2].map((sector) => disk.submit({ type: 0, sector, read: 512 }));
        frontend.kick(0, true);
        for (const answer of answers) await disk.wait(answer);
        assert.deepEqual(wanted, [false, false, false]);
      }
    });
  });
}

/** Goal: requests that are wrong get a status, and the ones after them are served. */
const bad: Record<string, BlkCall & { want: number }> = {
  "a write beyond the end": { type: 1, sector: 2047, write: new Uint8Array(1024), want: 1 },
  "a read far beyond the end": { type: 0, sector: 2 ** 50, read: 512, want: 1 },
  "a read that is no multiple of 512": { type: 0, sector: 0, read: 511, want: 1 },
  "an unknown type": { type: 77, want: 2 },
  "a SCSI command": { type: 2, read: 512, want: 2 },
  "a discard without a range": { type: 11, want: 1 },
  "a discard of half a range": { type: 11, write: new Uint8Array(15), want: 1 },
  "a discard of too many ranges": { type: 11, write: new Uint8Array(17 * 16), want: 2 },
  "a discard with unmap": { type: 11, write: range(0, 8, 1), want: 2 },
  "a discard of too many sectors": { type: 11, write: range(0, 2 ** 21 + 1), want: 1 },
  "a discard beyond the end": { type: 11, write: range(2040, 16), want: 1 },
  "write-zeroes with unknown flags": { type: 13, write: range(0, 8, 2), want: 2 },
  "write-zeroes beyond the end": { type: 13, write: range(2 ** 40, 8), want: 1 },
};

function range(sector: number, sectors: number, flags = 0): Uint8Array {
  return payload.join(payload.longs(sector), payload.words(sectors, flags));
}

Deno.test("bad requests get their status, and the disk is not touched", async (t) => {
  await withExport({}, async (bed) => {
    const { disk } = await bed.start();
    for (const [name, { want, ...call }] of Object.entries(bad)) {
      await t.step(name, async () => {
        assert.equal((await disk.call(call)).status, want);
      });
    }
    assert.deepEqual(bed.disk.calls, []);
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    assert.deepEqual(bed.messages, []);
  });
});

Deno.test("GET_ID gives the original's name, in 20 bytes", async () => {
  await withExport({}, async (bed) => {
    const { disk } = await bed.start();
    const { status, data } = await disk.call({ type: BlkType.getId, read: 20, piece: 7 });
    assert.equal(status, BlkStatus.ok);
    assert.equal(new TextDecoder().decode(data), "vhost_user_blk\0\0\0\0\0\0");
  });
});

Deno.test("discard and write-zeroes carry out each of their ranges", async () => {
  await withExport({}, async (bed) => {
    const { disk } = await bed.start();
    const ranges = payload.join(range(8, 8), range(32, 16), range(0, 0));
    assert.equal((await disk.call({ type: BlkType.discard, write: ranges })).status, 0);
    const zeroes = payload.join(range(64, 8, 1), range(80, 8));
    assert.equal((await disk.call({ type: BlkType.writeZeroes, write: zeroes })).status, 0);
    assert.deepEqual(bed.disk.calls, [
      "discard 4096 4096",
      "discard 16384 8192",
      "zeroes(3) 32768 4096",
      "zeroes(1) 40960 4096",
    ]);
  });
});

Deno.test("errors of the node become statuses", async () => {
  await withExport({}, async (bed) => {
    const { disk } = await bed.start();
    bed.disk.failing = (op) => (op === "discard" ? "ENOTSUP" : "EIO");
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ioError);
    assert.equal((await disk.call({ type: BlkType.flush })).status, BlkStatus.ioError);
    const discard = await disk.call({ type: BlkType.discard, write: range(0, 8) });
    assert.equal(discard.status, BlkStatus.unsupported);
    bed.disk.later = () => Promise.resolve();
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ioError);
  });
});

Deno.test("a read-only export has no write, discard or write-zeroes", async () => {
  await withExport({ writable: false }, async (bed) => {
    const { frontend, disk } = await bed.start();
    const offered = await frontend.askNumber(Request.getFeatures);
    assert.equal(offered >> BigInt(BlkFeature.ro) & 1n, 1n);
    assert.equal(offered >> BigInt(BlkFeature.discard) & 1n, 0n);
    for (const type of [BlkType.out, BlkType.discard, BlkType.writeZeroes]) {
      const { status } = await disk.call({ type, write: new Uint8Array(512) });
      assert.equal(status, BlkStatus.ioError);
    }
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    assert.deepEqual(bed.disk.calls, ["read 0 512"]);
  });
});

Deno.test("requests begin on logical blocks", async () => {
  await withExport({ "logical-block-size": 4096 }, async (bed) => {
    const { disk } = await bed.start();
    assert.equal((await disk.call({ type: 0, sector: 4, read: 4096 })).status, BlkStatus.ioError);
    assert.equal((await disk.call({ type: 0, sector: 8, read: 4096 })).status, BlkStatus.ok);
  });
});

/** What each write carries, by what the driver accepted and wrote into `wce`. */
async function writeFlags(
  choices: { writethrough?: boolean },
  features: number[],
  act?: (bed: ExportBed, wce: (on: number) => Promise<unknown>) => Promise<unknown>,
): Promise<string> {
  let seen = "";
  await withExport(choices, async (bed) => {
    const { frontend, disk } = await bed.start({ features });
    await act?.(
      bed,
      (on) =>
        frontend.mustGrant(
          Request.setConfig,
          payload.join(payload.words(32, 1, 0), Uint8Array.of(on)),
        ),
    );
    await disk.call({ type: BlkType.out, write: new Uint8Array(512) });
    seen = bed.disk.calls.at(-1)!;
  });
  return seen;
}

Deno.test("writes are durable at once unless the driver can flush them", async () => {
  const { flush, configWce } = BlkFeature;
  assert.equal(await writeFlags({}, []), "write(1) 0 512");
  assert.equal(await writeFlags({}, [flush]), "write 0 512");
  assert.equal(await writeFlags({}, [flush, configWce]), "write 0 512");
  assert.equal(await writeFlags({}, [flush, configWce], (_, wce) => wce(0)), "write(1) 0 512");
  assert.equal(await writeFlags({ writethrough: true }, [flush]), "write(1) 0 512");
});

Deno.test("large requests are carried out in pieces, between which others are served", async () => {
  const MiB = 1024 * 1024;
  const bed = await ExportBed.make({ "num-queues": 2 }, 8 * MiB);
  try {
    const { frontend, disk: big } = await bed.start({ queues: 2, memory: 32 * MiB });
    const small = new BlkDriver(frontend, 1);
    const data = pattern(6 * MiB, 3);
    const wrote = big.submit({ type: BlkType.out, sector: 8, write: data, piece: MiB });
    frontend.kick(0, true);
    await frontend.until(() => bed.disk.calls.length > 0);
    assert.equal((await small.call({ type: BlkType.in, sector: 0, read: 512 })).status, 0);
    assert.equal((await big.wait(wrote)).status, BlkStatus.ok);
    const { calls } = bed.disk;
    assert.deepEqual(
      calls.filter((call) => call.startsWith("write")),
      [0, 1, 2, 3, 4, 5].map((i) => `write(1) ${4096 + i * MiB} ${MiB}`),
    );
    assert.ok(calls.indexOf("read 0 512") < calls.length - 1, "it had to wait for the large one");
    const read = await big.call({ type: BlkType.in, sector: 8, read: 6 * MiB, piece: 2 * MiB });
    assert.equal(read.status, BlkStatus.ok);
    assert.ok(read.data.every((byte, i) => byte === data[i]));
    const over = await big.call({ type: BlkType.in, sector: 8192, read: 6 * MiB });
    assert.equal(over.status, BlkStatus.ioError);
  } finally {
    await bed.close();
  }
});

Deno.test("large requests leave others their turns after a mebibyte, unless nothing is copied for them", async () => {
  const length = 64 * 1024;
  const bed = await ExportBed.make({}, 16 * length);
  // A clock of our own: how long a request takes decides.
  const { sys, loop } = bed.context;
  let ns = 0;
  const clock = sys.monotonicNs;
  sys.monotonicNs = () => ns;
  try {
    const { frontend, disk } = await bed.start({ queueSize: 256, memory: 64 << 20 });
    /** The most bytes that were read in one turn. */
    const most = async (nsPerKib: number) => {
      bed.disk.later = () => void (ns += nsPerKib * length / 1024);
      const answers: Promise<unknown>[] = [];
      let [most, before] = [0, bed.disk.calls.length];
      const other = loop.addPoller(() => {
        most = Math.max(most, bed.disk.calls.length - before);
        before = bed.disk.calls.length;
        return false;
      });
      // What is refused, or moves next to nothing, is not taken for a copy that takes no time.
      const refused = { type: BlkType.in, sector: 1 << 20, read: length };
      for (let i = 0; i < 36; i++) {
        answers.push(disk.submit({ type: BlkType.in, read: length }));
        answers.push(disk.submit(refused));
        answers.push(disk.submit({ type: BlkType.getId, read: length }));
        answers.push(disk.submit(refused));
      }
      frontend.kick();
      await disk.wait(Promise.all(answers));
      other.remove();
      return most;
    };
    // In each turn the ring is looked at twice at most: for the kick, and in any case.
    for (let round = 0; round < 4; round++) assert.ok(await most(100) <= 2 * 4);
    for (let round = 0; round < 3; round++) await most(1);
    const uncopied = await most(1);
    assert.ok(uncopied > 2 * 4, `${uncopied}`);
  } finally {
    sys.monotonicNs = clock;
    await bed.close();
  }
});

Deno.test("two queues are served, each with its own notifications", async () => {
  await withExport({ "num-queues": 2 }, async (bed) => {
    const { frontend } = await bed.start({ queues: 2 });
    const disks = [new BlkDriver(frontend, 0), new BlkDriver(frontend, 1)];
    for (let i = 0; i < 20; i++) {
      const disk = disks[i % 2]!;
      const wrote = await disk.call({ type: 1, sector: i, write: pattern(512, i) });
      assert.equal(wrote.status, BlkStatus.ok);
      assert.deepEqual(
        (await disks[1 - i % 2]!.call({ type: 0, sector: i, read: 512 })).data,
        pattern(512, i),
      );
    }
  });
});
