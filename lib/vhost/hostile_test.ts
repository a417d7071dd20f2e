/**
 * Rings that break the rules. Goal: the queue stops with a message (or the request gets an error), nothing is
 * touched outside guest memory, and a queue that is set up anew is served. Method: the ring is written by hand.
 */
import assert from "node:assert/strict";
import { BlkStatus, BlkType } from "./device.ts";
import { BlkDriver } from "./testing_blk.ts";
import { SplitDriver } from "./testing_driver.ts";
import { type Frontend, GUEST_BASE } from "./testing.ts";
import { type ExportBed, withExport } from "./testing_export.ts";
import { Feature } from "./wire.ts";

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

/** Writes descriptor `index` of a table in guest memory. */
function put(
  frontend: Frontend,
  table: number,
  index: number,
  guest: number | bigint,
  length: number,
  flags: number,
  next = 0,
): void {
  const { view } = frontend.memory;
  const at = table + 16 * index;
  view.setBigUint64(at, BigInt(guest), true);
  view.setUint32(at + 8, length, true);
  view.setUint16(at + 12, flags, true);
  view.setUint16(at + 14, next, true);
}

/** Rings that stop the queue: what the message says, and what the driver does. */
const broken: Record<string, { says: RegExp; act: (f: Frontend, ring: SplitDriver) => void }> = {
  "a chain that loops": {
    says: /loops or is too long/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 16, NEXT, 1);
      put(f, ring.descriptor, 1, GUEST_BASE, 16, NEXT, 0);
      ring.offer(0);
    },
  },
  "a descriptor that is its own next": {
    says: /loops or is too long/,
    act: (f, ring) => {
      put(f, ring.descriptor, 3, GUEST_BASE, 16, NEXT, 3);
      ring.offer(3);
    },
  },
  "a next beyond the table": {
    says: /descriptor 64 in a ring of 64/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 16, NEXT, 64);
      ring.offer(0);
    },
  },
  "a head beyond the table": {
    says: /descriptor 65535 in a ring of 64/,
    act: (_, ring) => ring.offer(65535),
  },
  "an index that jumps": {
    says: /the available index jumped from 0 to 65\b/,
    act: (f, ring) => f.memory.view.setUint16(ring.available + 2, 65, true),
  },
  "an index that goes back": {
    says: /the available index jumped from 0 to 65535/,
    act: (f, ring) => f.memory.view.setUint16(ring.available + 2, 65535, true),
  },
  "an indirect table of 17 bytes": {
    says: /an indirect table of 17 bytes/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 17, INDIRECT);
      ring.offer(0);
    },
  },
  "an empty indirect table": {
    says: /an indirect table of 0 bytes/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 0, INDIRECT);
      ring.offer(0);
    },
  },
  "an indirect table of 4 GiB": {
    says: /an indirect table of 4294967280 bytes/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 0xfffffff0, INDIRECT);
      ring.offer(0);
    },
  },
  "an indirect table outside memory": {
    says: /an indirect table outside guest memory/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, 0, 32, INDIRECT);
      ring.offer(0);
    },
  },
  "an indirect table at 2^64-16": {
    says: /an indirect table outside guest memory/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, 2n ** 64n - 16n, 32, INDIRECT);
      ring.offer(0);
    },
  },
  "an indirect table that goes on": {
    says: /an indirect descriptor that is not allowed/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 32, INDIRECT | NEXT, 1);
      ring.offer(0);
    },
  },
  "an indirect table in an indirect table": {
    says: /an indirect table in another/,
    act: (f, ring) => {
      const table = f.memory.allocate(64);
      put(f, table, 0, GUEST_BASE + table, 32, INDIRECT);
      put(f, ring.descriptor, 0, GUEST_BASE + table, 32, INDIRECT);
      ring.offer(0);
    },
  },
  "a loop in an indirect table": {
    says: /loops or is too long/,
    act: (f, ring) => {
      const table = f.memory.allocate(64);
      put(f, table, 0, GUEST_BASE, 16, NEXT, 1);
      put(f, table, 1, GUEST_BASE, 16, NEXT, 0);
      put(f, ring.descriptor, 0, GUEST_BASE + table, 32, INDIRECT);
      ring.offer(0);
    },
  },
  "a next beyond an indirect table": {
    says: /descriptor 2 of an indirect table of 2/,
    act: (f, ring) => {
      const table = f.memory.allocate(64);
      put(f, table, 0, GUEST_BASE, 16, NEXT, 2);
      put(f, ring.descriptor, 0, GUEST_BASE + table, 32, INDIRECT);
      ring.offer(0);
    },
  },
  "readable behind writable": {
    says: /a readable descriptor behind a writable one/,
    act: (f, ring) => {
      put(f, ring.descriptor, 0, GUEST_BASE, 16, WRITE | NEXT, 1);
      put(f, ring.descriptor, 1, GUEST_BASE, 16, 0);
      ring.offer(0);
    },
  },
};

Deno.test("a ring that breaks the rules stops its queue, no more", async (t) => {
  for (const [name, { says, act }] of Object.entries(broken)) {
    await t.step(name, async () => {
      await withExport({ "num-queues": 2 }, async (bed) => {
        const { frontend } = await bed.start({ queues: 2, queueSize: 64 });
        act(frontend, frontend.rings[0] as SplitDriver);
        frontend.kick(0, true);
        await frontend.until(() => bed.messages.length > 0);
        assert.match(bed.messages.join("\n"), says);
        assert.deepEqual(bed.disk.calls, []);
        const other = new BlkDriver(frontend, 1);
        assert.equal((await other.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
        // The driver resets the queue: it is served again.
        await frontend.stopQueue(0);
        frontend.makeRing(0, 64);
        await frontend.startQueue(0, 0);
        const disk = new BlkDriver(frontend);
        assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
        assert.equal(bed.messages.length, 1);
      });
    });
  }
});

Deno.test("an indirect descriptor without the feature stops the queue", async () => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start({ features: [] });
    const ring = frontend.rings[0] as SplitDriver;
    put(frontend, ring.descriptor, 0, GUEST_BASE, 32, INDIRECT);
    ring.offer(0);
    frontend.kick(0, true);
    await frontend.until(() => bed.messages.length > 0);
    assert.match(bed.messages[0]!, /not allowed/);
  });
});

interface Crafted {
  readonly buffers: (
    f: Frontend,
    header: number,
    status: number,
  ) => [number | bigint, number, number][];
  /** The status that the guest sees; undefined: none can be told. */
  readonly status?: number;
}

/** Requests whose descriptors are well linked, but say nonsense. */
const crafted: Record<string, Crafted> = {
  "data outside memory": {
    buffers: (_, header, status) => [[header, 16, 0], [4096, 512, WRITE], [status, 1, WRITE]],
    status: 1,
  },
  "data that ends outside memory": {
    buffers: (f, header, status) => [
      [header, 16, 0],
      [GUEST_BASE + f.memory.length - 256, 512, WRITE],
      [status, 1, WRITE],
    ],
    status: 1,
  },
  "data at 2^64-1": {
    buffers: (_, header, status) => [
      [header, 16, 0],
      [2n ** 64n - 1n, 512, WRITE],
      [status, 1, WRITE],
    ],
    status: 1,
  },
  "data of 4 GiB": {
    buffers: (_, header, status) => [
      [header, 16, 0],
      [GUEST_BASE, 0xffffffff, WRITE],
      [status, 1, WRITE],
    ],
    status: 1,
  },
  "a header outside memory": {
    buffers: (_, __, status) => [[0, 16, 0], [status, 1, WRITE]],
    status: 1,
  },
  "half a header": {
    buffers: (_, header, status) => [[header, 8, 0], [status, 1, WRITE]],
    status: 1,
  },
  "no header": { buffers: (_, __, status) => [[status, 1, WRITE]], status: 1 },
  "no status": { buffers: (_, header) => [[header, 16, 0]] },
  "an empty status": { buffers: (_, header, status) => [[header, 16, 0], [status, 0, WRITE]] },
  "a status outside memory": { buffers: (_, header) => [[header, 16, 0], [0, 1, WRITE]] },
  "a status at 2^63": { buffers: (_, header) => [[header, 16, 0], [2n ** 63n, 1, WRITE]] },
  "a header in four pieces": {
    buffers: (_, header, status) => [
      [header, 1, 0],
      [header + 1, 0, 0],
      [header + 1, 9, 0],
      [header + 10, 6, 0],
      [status - 512, 513, WRITE],
    ],
    status: 0,
  },
};

Deno.test("nonsense in descriptors is answered with an error where it can be", async (t) => {
  for (const [name, { buffers, status }] of Object.entries(crafted)) {
    await t.step(name, async () => {
      await withExport({}, async (bed) => {
        const { frontend, disk } = await bed.start({ features: [Feature.indirectDesc] });
        const { memory } = frontend;
        const header = memory.allocate(16);
        const room = memory.allocate(1024);
        const at = room + 512;
        memory.view.setUint8(at, 0xff);
        const list = buffers(frontend, GUEST_BASE + header, GUEST_BASE + at);
        const ring = frontend.rings[0] as SplitDriver;
        const table = memory.allocate(16 * list.length);
        list.forEach(([guest, length, flags], i) => {
          const last = i === list.length - 1;
          put(frontend, table, i, guest, length, flags | (last ? 0 : NEXT), i + 1);
        });
        ring.add([{ guest: GUEST_BASE + table, length: 16 * list.length, writable: false }], false);
        put(frontend, ring.descriptor, 0, GUEST_BASE + table, 16 * list.length, INDIRECT);
        frontend.kick(0, true);
        const used = await frontend.until(() => ring.take());
        assert.equal(memory.view.getUint8(at), status ?? 0xff);
        assert.equal(used.length > 0, status !== undefined);
        assert.equal(bed.disk.calls.length, status === 0 ? 1 : 0);
        assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
        assert.deepEqual(bed.messages, []);
      });
    });
  }
});

Deno.test("the same head again and again does not take more than the ring has", async () => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start({ features: [], queueSize: 64 });
    const ring = frontend.rings[0] as SplitDriver;
    const gates: (() => void)[] = [];
    bed.disk.later = () => new Promise<void>((resolve) => gates.push(resolve));
    const header = frontend.memory.allocate(16);
    frontend.memory.view.setUint32(header, BlkType.flush, true);
    put(frontend, ring.descriptor, 0, GUEST_BASE + header, 16, NEXT, 1);
    put(frontend, ring.descriptor, 1, GUEST_BASE + header + 8, 1, WRITE);
    for (let round = 0; round < 40; round++) {
      for (let i = 0; i < 60; i++) ring.offer(0);
      frontend.kick(0, true);
      for (let i = 0; i < 5; i++) await new Promise<void>((r) => bed.context.loop.defer(r));
    }
    assert.ok(gates.length <= 1024, `${gates.length} requests in flight`);
    bed.disk.later = undefined;
    for (const gate of gates) gate();
  });
});

/** A generator of numbers from a seed. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

async function fuzz(bed: ExportBed, features: number[], seed: number): Promise<void> {
  const next = random(seed);
  const { frontend } = await bed.start({ features, queueSize: 16, memory: 256 * 1024 });
  const ring = frontend.rings[0]!;
  for (let round = 0; round < 40; round++) {
    // Noise over descriptors and indices, with some sense in it, so that it gets further.
    for (let i = 0; i < 24; i++) {
      const guest = next(4) === 0 ? next(2 ** 32) : GUEST_BASE + next(256 * 1024);
      const flags = next(8) | (next(3) === 0 ? next(65536) : 0);
      put(
        frontend,
        ring.descriptor,
        next(16),
        guest,
        next(3) === 0 ? next(2 ** 32) : next(5000),
        flags,
        next(20),
      );
    }
    const { view } = frontend.memory;
    view.setUint16(
      ring.available + 2,
      (view.getUint16(ring.available + 2, true) + next(4)) & 0xffff,
      true,
    );
    for (let i = 0; i < 4; i++) view.setUint16(ring.available + 4 + 2 * next(16), next(18), true);
    for (let i = 0; i < 8; i++) view.setUint8(4096 + next(200 * 1024), next(16));
    frontend.kick(0, true);
    await new Promise<void>((resolve) => bed.context.loop.defer(resolve));
  }
  frontend.disconnect();
}

Deno.test("noise in rings ends in statuses and messages, never in more", async () => {
  await withExport({}, async (bed) => {
    const all = [[], [Feature.indirectDesc, Feature.eventIdx], [
      Feature.ringPacked,
      Feature.indirectDesc,
    ]];
    for (let seed = 1; seed <= 60; seed++) await fuzz(bed, all[seed % 3]!, seed);
    const { disk } = await bed.start();
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
  });
});
