import assert from "node:assert/strict";
import { BlkFeature, CONFIG_SIZE, configSpace, SEG_MAX, SIZE_MAX, WCE_AT } from "./config.ts";

const GIB = 2 ** 30;
const shape = { size: 3 * GIB + 512, blockSize: 4096, queues: 5, writeCache: true };

Deno.test("the configuration space lies as virtio 1.2, 5.2.4 says", () => {
  const bytes = configSpace(shape);
  const view = new DataView(bytes.buffer);
  assert.equal(bytes.length, CONFIG_SIZE);
  const fields = {
    capacity: Number(view.getBigUint64(0, true)),
    sizeMax: view.getUint32(8, true),
    segMax: view.getUint32(12, true),
    geometry: view.getUint32(16, true),
    blkSize: view.getUint32(20, true),
    physicalExponent: view.getUint8(24),
    alignmentOffset: view.getUint8(25),
    minIo: view.getUint16(26, true),
    optIo: view.getUint32(28, true),
    writeback: view.getUint8(32),
    queues: view.getUint16(34, true),
    maxDiscardSectors: view.getUint32(36, true),
    maxDiscardSeg: view.getUint32(40, true),
    discardAlignment: view.getUint32(44, true),
    maxZeroesSectors: view.getUint32(48, true),
    maxZeroesSeg: view.getUint32(52, true),
    zeroesMayUnmap: view.getUint8(56),
  };
  assert.deepEqual(fields, {
    capacity: 3 * GIB / 512 + 1,
    sizeMax: SIZE_MAX,
    segMax: SEG_MAX,
    geometry: 0,
    blkSize: 4096,
    physicalExponent: 0,
    alignmentOffset: 0,
    minIo: 1,
    optIo: 1,
    writeback: 1,
    queues: 5,
    maxDiscardSectors: GIB / 512,
    maxDiscardSeg: 16,
    discardAlignment: 8,
    maxZeroesSectors: GIB / 512,
    maxZeroesSeg: 16,
    zeroesMayUnmap: 1,
  });
  // Reserved bytes, and the padding at the end.
  for (const at of [33, 57, 58, 59]) assert.equal(bytes[at], 0);
});

Deno.test("the cache and a tail that is no sector show as they are", () => {
  assert.equal(configSpace({ ...shape, writeCache: false })[WCE_AT], 0);
  const tail = configSpace({ ...shape, size: 1023 });
  assert.equal(new DataView(tail.buffer).getBigUint64(0, true), 1n);
  const huge = configSpace({ ...shape, size: 2 ** 53 - 1 });
  assert.equal(new DataView(huge.buffer).getBigUint64(0, true), 2n ** 44n - 1n);
});

Deno.test("the numbers that drivers multiply stay within what SeaBIOS and Linux count in", () => {
  assert.ok(SEG_MAX * SIZE_MAX / 512 < 65536, "sectors of a request in 16 bits");
  assert.equal(new Set(Object.values(BlkFeature)).size, Object.keys(BlkFeature).length);
});
