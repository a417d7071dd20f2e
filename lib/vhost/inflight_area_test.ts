/** The memory of the in-flight log: what is refused, where regions lie, what a shared one holds. */
import assert from "node:assert/strict";
import { createContext, type Sys } from "../sys/mod.ts";
import { inflightSize } from "./inflight.ts";
import { InflightArea } from "./inflight_area.ts";
import { type InflightDescription, ProtocolError } from "./wire.ts";

async function withSys(body: (sys: Sys) => void): Promise<void> {
  const context = createContext({ name: "test" });
  try {
    body(context.sys);
  } finally {
    await context.close();
  }
}

Deno.test("an area is as large as its queues need, in whole pages", async () => {
  await withSys((sys) => {
    for (const packed of [false, true]) {
      for (const [queues, queueSize] of [[1, 1], [2, 128], [7, 100], [1, 32768]] as const) {
        const { fd, description } = InflightArea.make(sys, queues, queueSize, packed);
        const stat = sys.fstat(fd);
        assert.ok(typeof stat !== "number" && stat.size === description.size);
        assert.equal(description.size % 4096, 0);
        assert.ok(description.size >= queues * inflightSize(queueSize, packed));
        const area = InflightArea.map(sys, fd, description);
        for (let i = 0; i < queues; i++) area.region(i, queueSize, packed);
        area.memory.unmap();
        sys.close(fd);
      }
    }
    for (const [queues, queueSize] of [[0, 128], [1, 0], [1, 32769], [0, 0]] as const) {
      assert.throws(() => InflightArea.make(sys, queues, queueSize, false), ProtocolError);
    }
  });
});

Deno.test("an area that is not there, or says nonsense, is not mapped", async () => {
  await withSys((sys) => {
    const { fd, description } = InflightArea.make(sys, 1, 128, false);
    const bad: Record<string, Partial<InflightDescription>> = {
      "no bytes": { size: 0 },
      "more bytes than the file has": { size: description.size + 1 },
      "a part beyond the file": { offset: 1 },
      "an offset beyond the file": { offset: 2 ** 50 },
      "no queues": { queues: 0 },
      "no descriptors": { queueSize: 0 },
      "a ring that is too large": { queueSize: 65535 },
    };
    for (const [name, part] of Object.entries(bad)) {
      assert.throws(
        () => InflightArea.map(sys, fd, { ...description, ...part }),
        ProtocolError,
        name,
      );
    }
    assert.throws(() => InflightArea.map(sys, -1, description), /is not there/);
    sys.close(fd);
  });
});

Deno.test("regions have room for what was agreed, and no more", async () => {
  await withSys((sys) => {
    const { fd, description } = InflightArea.make(sys, 2, 64, false);
    const area = InflightArea.map(sys, fd, description);
    area.region(0, 64, false);
    area.region(1, 32, false);
    for (const [index, size] of [[2, 64], [0, 65], [0, 128]] as const) {
      assert.throws(() => area.region(index, size, false), /has no room for queue/);
    }
    area.memory.unmap();
    // It says two queues, but has room for one: the second has none.
    const short = { ...description, size: inflightSize(64, false) };
    const cut = InflightArea.map(sys, fd, short);
    cut.region(0, 64, false);
    assert.throws(() => cut.region(1, 64, false), /has no room for queue 1/);
    // Packed regions are larger: the same area has no room for one.
    assert.throws(() => cut.region(0, 64, true), /has no room/);
    cut.memory.unmap();
    sys.close(fd);
  });
});

Deno.test("what one back-end noted the next one finds, at any offset in the file", async () => {
  await withSys((sys) => {
    for (const offset of [0, 64, 4096 + 128]) {
      const made = InflightArea.make(sys, 2, 16, false);
      assert.equal(sys.ftruncate(made.fd, offset + made.description.size), 0);
      const description = { ...made.description, offset };
      const first = InflightArea.map(sys, made.fd, description);
      const region = first.region(1, 16, false);
      assert.ok(region.kind === "split");
      assert.equal(region.attach(5), undefined, "new");
      for (const head of [9, 3, 12]) region.take(head);
      region.stage(3);
      region.published(6);
      first.memory.unmap();
      const second = InflightArea.map(sys, made.fd, description);
      const again = second.region(1, 16, false);
      assert.ok(again.kind === "split");
      assert.equal(again.attach(6), 2);
      assert.deepEqual(again.pending(), [9, 12], "in the order in which they were taken");
      const other = second.region(0, 16, false);
      assert.ok(other.kind === "split");
      assert.equal(other.attach(0), undefined, "the other queue's has not been used");
      second.retire(1, 16, false);
      assert.equal(again.attach(6), undefined, "the front-end was told: it says nothing any more");
      second.retire(9, 16, false); // a queue without a region
      second.memory.unmap();
      sys.close(made.fd);
    }
  });
});
