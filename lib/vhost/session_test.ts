/** What a front-end can say, and what comes of it. */
import assert from "node:assert/strict";
import { BlkStatus, BlkType } from "./device.ts";
import { BlkDriver } from "./testing_blk.ts";
import { type Frontend, GUEST_BASE, payload, USER_BASE } from "./testing.ts";
import { type ExportBed, withExport } from "./testing_export.ts";
import { Feature, ProtocolFeature, Request } from "./wire.ts";

const configRequest = (offset: number, size: number) =>
  payload.join(payload.words(offset, size, 0), new Uint8Array(size));

Deno.test("features and protocol features are offered as documented", async () => {
  await withExport({}, async (bed) => {
    const frontend = bed.connect();
    // The original's, and RING_PACKED.
    assert.equal(await frontend.askNumber(Request.getFeatures), 0x1_7500_7e46n | 1n << 34n);
    const offered = await frontend.askNumber(Request.getProtocolFeatures);
    for (const bit of Object.values(ProtocolFeature)) assert.equal(offered >> BigInt(bit) & 1n, 1n);
    assert.equal(await frontend.askNumber(Request.getQueueNum), 1n);
    assert.equal(await frontend.askNumber(Request.getMaxMemSlots), 509n);
  });
});

Deno.test("the configuration space shows the disk, and only wce can be written", async () => {
  await withExport({ "logical-block-size": 4096, "num-queues": 3 }, async (bed) => {
    const { frontend } = await bed.start();
    const { payload: reply } = await frontend.ask(Request.getConfig, configRequest(0, 60));
    const at = (offset: number) => 12 + offset;
    assert.equal(reply.getBigUint64(at(0), true), 2048n);
    assert.equal(reply.getUint32(at(12), true), 126);
    assert.equal(reply.getUint32(at(20), true), 4096);
    assert.equal(reply.getUint8(at(32)), 1);
    assert.equal(reply.getUint16(at(34), true), 3);
    assert.equal(reply.getUint32(at(44), true), 8);
    const wce = payload.join(payload.words(32, 1, 0), Uint8Array.of(0));
    assert.equal(await frontend.granted(Request.setConfig, wce), true);
    const again = await frontend.ask(Request.getConfig, configRequest(32, 1));
    assert.equal(again.payload.getUint8(12), 0);
    const size = payload.join(payload.words(0, 8, 0), new Uint8Array(8));
    assert.equal(await frontend.granted(Request.setConfig, size), false);
    const long = await frontend.ask(Request.getConfig, configRequest(200, 100));
    assert.equal(long.payload.byteLength, 0);
  });
});

Deno.test("a resize is told, once there is a channel for it", async () => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start();
    bed.exported.resized(); // nobody listens: nothing happens
    await frontend.openChannel();
    bed.disk.resize(512 * 1024);
    bed.exported.resized();
    assert.deepEqual(await frontend.until(() => frontend.channelMessages().at(0)), 2);
    const { payload: reply } = await frontend.ask(Request.getConfig, configRequest(0, 8));
    assert.equal(reply.getBigUint64(12, true), 1024n);
  });
});

Deno.test("a driver without virtio 1.0 is refused, as are features that were not offered", async () => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start();
    assert.equal(await frontend.granted(Request.setFeatures, payload.u64(1n << 30n)), false);
    assert.equal(await frontend.granted(Request.setFeatures, payload.u64(1n << 40n)), false);
    assert.equal(await frontend.granted(Request.setProtocolFeatures, payload.u64(4n)), false);
  });
});

Deno.test("a disabled ring is not served; enabling it does", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start();
    await frontend.mustGrant(Request.setVringEnable, payload.words(0, 0));
    const answer = disk.submit({ type: BlkType.in, read: 512 });
    frontend.kick(0, true);
    await frontend.askNumber(Request.getFeatures); // whatever the kick does comes before this
    await frontend.askNumber(Request.getFeatures);
    assert.deepEqual(bed.disk.calls, []);
    await frontend.mustGrant(Request.setVringEnable, payload.words(0, 1));
    assert.equal((await disk.wait(answer)).status, BlkStatus.ok);
  });
});

Deno.test("GET_VRING_BASE answers when nothing is in flight any more", async () => {
  for (const features of [[], [Feature.ringPacked]]) {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features });
      await disk.call({ type: BlkType.flush });
      let open = () => {};
      bed.disk.later = () => new Promise<void>((resolve) => open = resolve);
      const answer = disk.submit({ type: BlkType.in, read: 512 });
      frontend.kick();
      await frontend.until(() => bed.disk.calls.length === 2);
      const base = frontend.stopQueue(0);
      assert.equal(disk.collect(), 0);
      open();
      const packed = features.length > 0;
      const count = packed ? 5 : 2;
      assert.equal(await base, packed ? (count | count << 16 | 0x8000 | 1 << 31) >>> 0 : count);
      assert.equal(disk.collect(), 1); // it was shown before the reply
      assert.equal((await answer).status, BlkStatus.ok);
      // And the ring goes on from there.
      bed.disk.later = undefined;
      await frontend.startQueue(0, await base);
      assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    });
  }
});

Deno.test("guest memory may move to another address of the front-end", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start();
    await disk.call({ type: BlkType.flush });
    const base = await frontend.stopQueue(0);
    await frontend.shareMemory(USER_BASE + 0x1000_0000);
    await frontend.startQueue(0, base);
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
  });
});

Deno.test("the memory table may be replaced under a running ring", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start();
    for (let i = 0; i < 5; i++) {
      await frontend.shareMemory();
      assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    }
  });
});

const region = (guest: number, size: number, user: number, offset: number) =>
  payload.longs(0, guest, size, user, offset);

Deno.test("memory slots are added and removed; requests in flight keep theirs", async () => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start({ memory: 4 * 1024 * 1024 });
    const extra = region(GUEST_BASE * 2, 65536, USER_BASE * 1.5, 0);
    await frontend.mustGrant(Request.addMemReg, extra, [frontend.memoryFd]);
    assert.equal(await frontend.granted(Request.addMemReg, extra, [frontend.memoryFd]), false);
    // A buffer in the new slot, in flight while it is removed: the removal waits.
    let open = () => {};
    bed.disk.later = () => new Promise<void>((resolve) => open = resolve);
    const { memory } = frontend;
    const header = memory.allocate(16);
    const status = memory.allocate(1);
    memory.view.setUint32(header, BlkType.in, true);
    frontend.rings[0]!.add([
      { guest: GUEST_BASE + header, length: 16, writable: false },
      { guest: GUEST_BASE * 2 + 8192, length: 512, writable: true },
      { guest: GUEST_BASE + status, length: 1, writable: true },
    ]);
    frontend.kick();
    await frontend.until(() => bed.disk.calls.length === 1);
    const removed = frontend.granted(Request.remMemReg, extra);
    assert.equal(frontend.rings[0]!.take(), undefined);
    open();
    assert.equal(await removed, true);
    assert.notEqual(frontend.rings[0]!.take(), undefined);
    assert.equal(await frontend.granted(Request.remMemReg, extra), false);
  });
});

/** Counts this process's descriptors. */
function descriptors(): number {
  return [...Deno.readDirSync("/proc/self/fd")].length;
}

Deno.test("requests that cannot be granted are refused, and no descriptor is left behind", async (t) => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start();
    const fd = frontend.memoryFd;
    const before = descriptors();
    const cases: [string, number, Uint8Array, number[]?][] = [
      ["nine regions", Request.setMemTable, nineRegions(), [fd, fd, fd, fd, fd, fd, fd, fd, fd]],
      ["fewer descriptors than regions", Request.setMemTable, table(2), [fd]],
      ["more descriptors than regions", Request.setMemTable, table(1), [fd, fd, fd]],
      ["more descriptors than any message has", Request.setMemTable, table(1), forty(fd)],
      ["overlapping regions", Request.setMemTable, table(2, 4096), [fd, fd]],
      ["a region beyond its file", Request.addMemReg, region(0, 1 << 30, 0, 0), [fd]],
      ["a region that wraps", Request.addMemReg, wrapping(), [fd]],
      ["an empty region", Request.addMemReg, region(0, 0, 0, 0), [fd]],
      ["a region without memory", Request.addMemReg, region(0, 4096, 0, 0), []],
      ["a region in a socket", Request.addMemReg, region(0, 4096, 0, 0), [frontend.fd]],
      ["a ring of no descriptors", Request.setVringNum, payload.words(0, 0)],
      ["a ring that is too large", Request.setVringNum, payload.words(0, 65536)],
      ["a ring of 100 descriptors", Request.setVringNum, payload.words(0, 100)],
      ["a queue that is not there", Request.setVringNum, payload.words(1, 128)],
      ["a kick in a file", Request.setVringKick, payload.longs(0), [fd]],
      ["a kick without descriptor", Request.setVringKick, payload.longs(0)],
      ["a call for no queue", Request.setVringCall, payload.longs(7), [fd]],
      ["half a state", Request.setVringBase, new Uint8Array(4)],
      ["half an address", Request.setVringAddr, new Uint8Array(32)],
      ["enable with 2", Request.setVringEnable, payload.words(0, 2)],
      ["an in-flight area of nothing", Request.setInflightFd, inflight(0, 1, 128), [fd]],
      ["an in-flight area beyond its file", Request.setInflightFd, inflight(2 ** 40, 1, 128), [fd]],
      ["an in-flight area of no queues", Request.setInflightFd, inflight(4096, 0, 128), [fd]],
      ["a channel without descriptor", Request.setBackendReqFd, new Uint8Array()],
      ["a channel that is this connection", Request.setBackendReqFd, new Uint8Array(), [
        frontend.fd,
      ]],
      ["a channel in a file", Request.setBackendReqFd, new Uint8Array(), [fd]],
      ["a configuration of more than there is", Request.setConfig, payload.words(0, 99, 0)],
      ["IOTLB", 22, new Uint8Array(32)],
      ["SET_VRING_ENDIAN", 23, payload.words(0, 1)],
      ["an unknown request", 999, new Uint8Array(100), [fd, fd]],
    ];
    for (const [name, type, body, fds] of cases) {
      await t.step(name, async () => {
        assert.equal(await frontend.granted(type, body, fds), false);
        assert.equal(descriptors(), before);
      });
    }
    const disk = new BlkDriver(frontend);
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
  });
});

function table(count: number, distance = 65536): Uint8Array {
  const regions = Array.from(
    { length: count },
    (_, i) => payload.longs(i * distance, 65536, i * distance, 0),
  );
  return payload.join(payload.words(count, 0), ...regions);
}
const forty = (fd: number) => Array.from({ length: 40 }, () => fd);
const nineRegions = () => table(9);
const wrapping = () =>
  payload.join(payload.longs(0), new Uint8Array(8).fill(0xff), payload.longs(8192, 0, 0));
const inflight = (size: number, queues: number, queueSize: number) =>
  payload.join(payload.longs(size, 0), payload.words(queues | queueSize << 16));

/** Each of these must end the connection, since the front-end could not know otherwise. */
const fatal: Record<string, (frontend: Frontend) => void> = {
  "GET_VRING_BASE of a queue that is not there": (f) => f.send(11, payload.words(9, 0)),
  "SET_VRING_NUM that is not acknowledged": (f) => f.send(8, payload.words(0, 3)),
  "postcopy": (f) => f.send(28),
  "an unknown version": (f) => f.sendRaw(payload.words(1, 2, 0)),
  "a payload that is too long": (f) => f.sendRaw(payload.words(1, 1, 2 ** 31)),
  "bytes of noise": (f) => f.sendRaw(new Uint8Array(500).fill(0xa5)),
};

Deno.test("what cannot be answered ends the connection; the next one is served", async (t) => {
  await withExport({}, async (bed) => {
    const before = descriptors();
    for (const [name, act] of Object.entries(fatal)) {
      await t.step(name, async () => {
        const { frontend } = await bed.start();
        act(frontend);
        assert.equal(await frontend.reply(), "end");
        frontend.close();
        assert.equal(descriptors(), before);
      });
    }
    const { disk } = await bed.start();
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
  });
});

Deno.test("a front-end that hangs up in the middle of anything leaves nothing behind", async () => {
  await withExport({}, async (bed) => {
    const before = descriptors();
    const whole = payload.join(
      payload.words(5, 1 | 8, 40),
      payload.words(1, 0),
      payload.longs(0, 4096, 0, 0),
    );
    for (let length = 0; length < whole.length; length += 3) {
      const frontend = bed.connect();
      await frontend.askNumber(Request.getFeatures);
      frontend.makeMemory(65536);
      frontend.sendRaw(whole.subarray(0, length), length > 0 ? [frontend.memoryFd] : []);
      frontend.close();
    }
    const steps = [
      (f: Frontend) => f.negotiate(),
      (f: Frontend) => Promise.resolve(f.makeMemory(1 << 20)),
      (f: Frontend) => f.shareMemory(),
      (f: Frontend) => f.setInflight(1, 64),
      (f: Frontend) => f.openChannel(),
      (f: Frontend) => Promise.resolve(void f.makeRing(0, 64)),
      (f: Frontend) => f.startQueue(0),
      async (f: Frontend) => void await new BlkDriver(f).call({ type: 0, read: 512 }),
    ];
    for (let last = 0; last <= steps.length; last++) {
      const frontend = bed.connect();
      for (const step of steps.slice(0, last)) await step(frontend);
      frontend.close();
    }
    const { frontend } = await bed.start();
    frontend.close();
    await frontend.until(() => !bed.exported.inUse);
    assert.equal(descriptors(), before);
    assert.deepEqual(bed.messages, []);
  });
});

Deno.test("a front-end that leaves its own connection behind as a channel has left all the same", async () => {
  await withExport({}, async (bed) => {
    const { frontend } = await bed.start();
    frontend.send(Request.setBackendReqFd, new Uint8Array(), [frontend.fd]);
    frontend.close();
    const { disk } = await bed.start();
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
  });
});

Deno.test("one front-end at a time: the next one waits until the first has left", async () => {
  await withExport({}, async (bed) => {
    const first = bed.connect();
    await first.askNumber(Request.getFeatures);
    const second = bed.connect();
    second.send(Request.getQueueNum);
    await first.askNumber(Request.getFeatures);
    first.disconnect();
    const reply = await second.reply();
    assert.ok(reply !== "end" && reply.type === Request.getQueueNum);
  });
});

Deno.test("requests in flight when the front-end leaves are not shown; the next session waits for them", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start();
    let open = () => {};
    bed.disk.later = () => new Promise<void>((resolve) => open = resolve);
    void disk.submit({ type: BlkType.in, read: 512 });
    frontend.kick();
    await frontend.until(() => bed.disk.calls.length === 1);
    frontend.disconnect();
    const next = bed.connect();
    next.send(Request.getFeatures);
    for (let i = 0; i < 10; i++) await new Promise<void>((r) => bed.context.loop.defer(r));
    assert.equal(bed.exported.inUse, true);
    open();
    assert.notEqual(await next.reply(), "end");
    assert.equal(frontend.rings[0]!.take(), undefined);
  });
});

Deno.test("an export that is removed answers what is in flight, then hangs up", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start();
    let open = () => {};
    bed.disk.later = () => new Promise<void>((resolve) => open = resolve);
    const answer = disk.submit({ type: BlkType.in, read: 512 });
    frontend.kick();
    await frontend.until(() => bed.disk.calls.length === 1);
    const gone = bed.exported.shutdown();
    bed.exported.shutdown = () => gone;
    open();
    await gone;
    assert.equal(disk.collect(), 1);
    assert.equal((await answer).status, BlkStatus.ok);
    assert.equal(await frontend.reply(), "end");
  });
});

Deno.test("RESET_OWNER disables, RESET_DEVICE and status 0 stop the rings", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start();
    await frontend.mustGrant(Request.setStatus, payload.u64(15n));
    assert.equal(await frontend.askNumber(Request.getStatus), 15n);
    for (const reset of [Request.resetOwner, Request.resetDevice, Request.setStatus]) {
      await disk.call({ type: BlkType.flush });
      await frontend.mustGrant(reset, reset === Request.setStatus ? payload.u64(0n) : undefined);
      void disk.submit({ type: BlkType.flush });
      frontend.kick(0, true);
      await frontend.askNumber(Request.getFeatures);
      const before = bed.disk.calls.length;
      await frontend.askNumber(Request.getFeatures);
      assert.equal(bed.disk.calls.length, before);
      await frontend.startQueue(0);
      await frontend.until(() => disk.collect() > 0);
    }
    assert.equal(await frontend.askNumber(Request.getStatus), 0n);
  });
});

Deno.test("a machine that is stopped by status 0, as QEMU 7.2 does it, goes on where its rings ended", async () => {
  for (const features of [[], [Feature.ringPacked]]) {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, inflight: true, queueSize: 64 });
      const want: string[] = [];
      for (let round = 0; round < 4; round++) {
        for (let i = 0; i < 30; i++) {
          await disk.call({ type: BlkType.in, sector: i, read: 512 });
          want.push(`read ${i * 512} 512`);
        }
        await frontend.mustGrant(Request.setVringEnable, payload.words(0, 0));
        await frontend.mustGrant(Request.setStatus, payload.u64(0n));
        const base = await frontend.stopQueue(0);
        assert.notEqual(base, 0);
        await frontend.startQueue(0, base);
      }
      assert.deepEqual(bed.disk.calls, want);
      assert.deepEqual(bed.messages, []);
    });
  }
});

/** The bed's disk lets nothing complete until `open`. */
function gated(bed: ExportBed): { open(): void; count(): number } {
  const gates: (() => void)[] = [];
  bed.disk.later = () => new Promise<void>((resolve) => gates.push(resolve));
  return { open: () => gates.splice(0).forEach((gate) => gate()), count: () => gates.length };
}

Deno.test("the in-flight log: what was taken and not answered runs once more, in order", async () => {
  for (const features of [[], [Feature.ringPacked], [Feature.ringPacked, Feature.indirectDesc]]) {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, inflight: true, queueSize: 64 });
      for (let i = 0; i < 40; i++) await disk.call({ type: BlkType.flush });
      const gate = gated(bed);
      const sectors = [5, 3, 9, 1, 7];
      const answers = sectors.map((sector) => disk.submit({ type: BlkType.in, sector, read: 512 }));
      frontend.kick();
      await frontend.until(() => gate.count() === 5);
      bed.disk.calls.length = 0;
      frontend.disconnect();
      for (let i = 0; i < 10; i++) await new Promise<void>((r) => bed.context.loop.defer(r));
      gate.open();
      bed.disk.later = undefined;
      const next = bed.connect();
      await next.start({ features, inflight: true, from: frontend });
      const after = new BlkDriver(next);
      await next.until(() =>
        next.rings[0] !== undefined && disk.collect() > 0 && disk.inFlight === 0
      );
      await Promise.all(answers);
      assert.deepEqual(bed.disk.calls, sectors.map((sector) => `read ${sector * 512} 512`));
      bed.disk.calls.length = 0;
      for (let i = 0; i < 70; i++) await after.call({ type: BlkType.in, sector: i, read: 512 });
      assert.equal(bed.disk.calls.length, 70);
      assert.deepEqual(bed.messages, []);
    });
  }
});

Deno.test("a ring that goes on calls the driver: what was used last may not have been told", async () => {
  for (const features of [[], [Feature.ringPacked]]) {
    await withExport({}, async (bed) => {
      const { frontend, disk } = await bed.start({ features, inflight: true });
      await disk.call({ type: BlkType.flush });
      frontend.disconnect();
      const next = bed.connect();
      await next.start({ features, inflight: true, from: frontend });
      await next.until(() => next.takeCalls() > 0);
    });
  }
});

Deno.test("the log of dirty pages has the pages that were written for the guest", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start({ features: [Feature.logAll] });
    const { sys } = bed.context;
    const fd = sys.memfd("log");
    const bytes = (GUEST_BASE + frontend.memory.length) / 4096 / 8;
    sys.ftruncate(fd, bytes);
    await frontend.ask(Request.setLogBase, payload.longs(bytes, 0), [fd]);
    await disk.call({ type: BlkType.in, read: 8192 });
    const log = sys.map(fd, 0, bytes, false);
    assert.ok(typeof log !== "number");
    const dirty = [...log.bytes.subarray(GUEST_BASE / 4096 / 8)].reduce(
      (sum, byte) => sum + byte.toString(2).replaceAll("0", "").length,
      0,
    );
    assert.ok(dirty >= 2 && dirty <= 4, `${dirty} pages`);
    log.unmap();
    sys.close(fd);
  });
});

Deno.test("an export whose front-end is idle takes no turns of the loop, and then serves the next kick", async () => {
  await withExport({ "num-queues": 2 }, async (bed) => {
    const { frontend, disk } = await bed.start({ queues: 2 });
    const { counters } = bed.context.loop;
    for (let round = 0; round < 3; round++) {
      assert.equal((await disk.call({ type: 0, sector: round, read: 512 })).status, 0);
      const parks = counters.parks;
      const limit = performance.now() + 10_000;
      while (counters.parks === parks) {
        assert.ok(performance.now() < limit, "the loop never sleeps");
        await new Promise((resolve) => setTimeout(resolve, 1));
      }
      const { turns } = counters;
      await new Promise((resolve) => setTimeout(resolve, 20)); // as long as some naps: no turn is taken
      assert.equal(counters.turns, turns);
    }
    assert.equal(frontend.rings.length, 2);
  });
});
