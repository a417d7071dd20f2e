/**
 * Memory that a front-end takes away while its rings are served. Goal: that connection ends or its requests fail;
 * nobody else notices. Every such access would end the process by SIGBUS otherwise.
 */
import assert from "node:assert/strict";
import { createContext } from "../sys/mod.ts";
import { BlkStatus, BlkType } from "./device.ts";
import { GuestMemory, mapRegion } from "./memory.ts";
import { withExport } from "./testing_export.ts";
import { Feature } from "./wire.ts";

const rings: Record<string, number[]> = {
  split: [],
  "split, indirect, event index": [Feature.indirectDesc, Feature.eventIdx],
  packed: [Feature.ringPacked, Feature.indirectDesc],
};

Deno.test("a front-end that cuts its memory off loses its connection; another goes on", async (t) => {
  for (const [name, features] of Object.entries(rings)) {
    for (const asleep of [false, true]) {
      await t.step(`${name}, ${asleep ? "asleep" : "in the middle of requests"}`, async () => {
        await withExport({}, async (bed) => {
          await withExport({}, async (other) => {
            const { frontend, disk } = await bed.start({ features, inflight: true });
            const { disk: good } = await other.start();
            const read = { type: BlkType.in, read: 4096 };
            assert.equal((await disk.call(read)).status, BlkStatus.ok);
            if (asleep) {
              const { counters } = bed.context.loop;
              const before = counters.parks;
              for (let i = 0; i < 400 && counters.parks === before; i++) {
                await new Promise((go) => setTimeout(go, 5));
              }
            } else void disk.submit(read);
            assert.equal(bed.context.sys.ftruncate(frontend.memoryFd, 0), 0);
            frontend.kick(0, true);
            assert.equal(await frontend.reply(), "end");
            assert.match(bed.messages.join("\n"), /took away memory that it shares/);
            assert.equal((await good.call(read)).status, BlkStatus.ok);
            assert.deepEqual(other.messages, []);
            const { disk: next } = await bed.start({ features });
            assert.equal((await next.call(read)).status, BlkStatus.ok, "the next front-end");
          });
        });
      });
    }
  }
});

Deno.test("a front-end that cuts the log of requests in flight off loses its connection", async () => {
  await withExport({}, async (bed) => {
    const { frontend, disk } = await bed.start({ inflight: true });
    assert.equal((await disk.call({ type: BlkType.in, read: 512 })).status, BlkStatus.ok);
    assert.equal(bed.context.sys.ftruncate(frontend.inflightFd, 0), 0);
    void disk.submit({ type: BlkType.in, read: 512 });
    frontend.kick(0, true);
    assert.equal(await frontend.reply(), "end");
    assert.match(bed.messages.join("\n"), /took away memory/);
  });
});

Deno.test("memory is found in every region, across regions that touch, and nowhere else", async () => {
  const context = createContext({ name: "test" });
  const { sys } = context;
  const fd = sys.memfd("guest");
  assert.equal(sys.ftruncate(fd, 0x4000), 0);
  const memory = new GuestMemory();
  const add = (guest: number, size: number, user: number, offset: number) =>
    memory.add(
      mapRegion({ sys, buffers: { surrendered: () => false } }, fd, { guest, size, user, offset }),
    );
  add(0x10000, 0x1000, 0x700000, 0);
  add(0x11000, 0x1000, 0x900000, 0x2800); // an offset within a page
  assert.throws(() => add(0x10800, 0x1000, 0, 0), /overlap/);
  assert.throws(() => add(0x20000, 0x4001, 0, 0), /memory region of/);
  for (const region of memory.regions) sys.fill(region.address, region.guest / 0x1000, region.size);
  const byte = (guest: number) => memory.locate(guest, 1) ? memory.view.getUint8(memory.at) : -1;
  assert.deepEqual([0xffff, 0x10000, 0x10fff, 0x11000, 0x11fff, 0x12000].map(byte), [
    ...[-1, 0x10, 0x10, 0x11, 0x11, -1],
  ]);
  assert.equal(memory.locate(0x10fff, 2), false, "not in one region");
  assert.equal(memory.userAddress(0x700fff, 2), -1);
  assert.equal(memory.userAddress(0x900000, 0x1000), memory.regions[1]!.address);
  assert.deepEqual([0x700010, 0x900fff, 0x901000].map((user) => memory.guestAddress(user)), [
    ...[0x10010, 0x11fff, -1],
  ]);
  memory.remove(memory.regions[0]!);
  assert.deepEqual([byte(0x10000), byte(0x11000)], [-1, 0x11]);
  memory.clear();
  assert.equal(byte(0x11000), -1);
  sys.close(fd);
  await context.close();
});
