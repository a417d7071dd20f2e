import assert from "node:assert/strict";
import zlib from "node:zlib";
import { BlockError, IoVec } from "../../../base/mod.ts";
import { SizeClassPool } from "../../../sys/buffers.ts";
import { type Context, LinuxSys, type Memory } from "../../../sys/mod.ts";
import type { Child } from "../../types.ts";
import { CompressedClusters } from "./compressed.ts";
import type { CompressionType } from "./codec.ts";

const CLUSTER = 65536;

/** Bytes that compress well, different for each seed. */
function text(seed: number, length = CLUSTER): Uint8Array {
  return Uint8Array.from({ length }, (_, at) => 97 + (((at * at + seed) >> 3) % 23));
}

function noise(length = CLUSTER): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes;
}

/** Native memory, a file whose reads can be held back, and the clusters under test. */
class Bench implements Disposable {
  readonly sys = new LinuxSys();
  readonly buffers = new SizeClassPool((length) => this.sys.allocate(length));
  readonly memory: Memory[] = [];
  file: Uint8Array = new Uint8Array(0);
  reads = 0;
  held: (() => void)[] | undefined;
  failing: Error | undefined;
  readonly clusters: CompressedClusters;
  readonly child: Child;

  constructor(type: CompressionType, readonly clusterSize = CLUSTER) {
    const context = { sys: this.sys, buffers: this.buffers } as unknown as Context;
    this.clusters = new CompressedClusters(context, "node0", clusterSize, type);
    const read = (offset: number, iov: IoVec) => this.#read(offset, iov);
    this.child = { read } as unknown as Child;
  }

  #read(offset: number, iov: IoVec): void | Promise<void> {
    this.reads++;
    const fill = () => {
      if (this.failing !== undefined) throw this.failing;
      const view = this.sys.viewAt(iov.addresses[0]!, iov.total);
      view.fill(0);
      view.set(this.file.subarray(offset, offset + iov.total));
    };
    if (this.held === undefined) return fill();
    return new Promise<void>((resolve) => this.held!.push(resolve)).then(fill);
  }

  alloc(length: number): Memory {
    const memory = this.sys.allocate(length);
    this.memory.push(memory);
    return memory;
  }

  /** The encoded cluster; undefined when it would not be smaller. */
  encode(iov: IoVec): Uint8Array | undefined {
    const target = this.alloc(this.clusterSize);
    const length = this.clusters.encode(undefined, iov, target.address);
    return length === 0 ? undefined : target.bytes.slice(0, length);
  }

  async read(host: number, length: number, start: number, size: number): Promise<Uint8Array> {
    const memory = this.alloc(size);
    await this.clusters.read(this.child, host, length, start, IoVec.of(memory.address, size));
    return memory.bytes.slice(0, size);
  }

  [Symbol.dispose](): void {
    this.clusters.close();
    assert.equal(this.buffers.inUse, 0, "buffers were not given back");
    this.buffers.trim();
    for (const memory of this.memory) memory.unmap();
    this.sys.dispose();
  }
}

function pack(type: CompressionType, bytes: Uint8Array): Uint8Array {
  return new Uint8Array(
    type === "zlib" ? zlib.deflateRawSync(bytes, { windowBits: 12 }) : zlib.zstdCompressSync(bytes),
  );
}

/** A stream followed by what lies after it in its last sector. */
function stored(stream: Uint8Array, padding = 300): Uint8Array {
  const bytes = new Uint8Array(stream.length + padding).fill(0xa5);
  bytes.set(stream);
  return bytes;
}

for (const type of ["zlib", "zstd"] as const) {
  Deno.test(`${type}: any part of a cluster is read, whatever follows its stream`, async () => {
    using bench = new Bench(type);
    const want = text(1);
    bench.file = stored(pack(type, want));
    for (const [start, size] of [[0, 512], [4096, 4096], [65000, 536], [1, 65535], [0, CLUSTER]]) {
      const got = await bench.read(0, bench.file.length, start!, size!);
      assert.deepEqual(got, want.slice(start, start! + size!));
    }
    assert.equal(bench.reads, 1, "the kept cluster serves all of them");
  });

  Deno.test(`${type}: a whole cluster is decoded to where it is wanted, and not kept`, async () => {
    using bench = new Bench(type);
    bench.file = stored(pack(type, text(2)));
    assert.deepEqual(await bench.read(0, bench.file.length, 0, CLUSTER), text(2));
    assert.deepEqual(await bench.read(0, bench.file.length, 0, CLUSTER), text(2));
    assert.equal(bench.clusters.decoded, 2);
  });

  Deno.test(`${type}: what encode gives is decoded to the same bytes`, async () => {
    using bench = new Bench(type);
    for (let seed = 0; seed < 5; seed++) {
      const memory = bench.alloc(CLUSTER);
      memory.bytes.set(text(seed));
      const half = CLUSTER / 2;
      const iov = seed % 2 === 0
        ? IoVec.of(memory.address, CLUSTER)
        : IoVec.of(memory.address, half).add(memory.address + half, half);
      const encoded = bench.encode(iov)!;
      assert.ok(encoded.length < CLUSTER / 2);
      bench.file = encoded;
      bench.clusters.forget(0, CLUSTER);
      assert.deepEqual(
        await bench.read(0, bench.file.length, 512, 1024),
        text(seed).slice(512, 1536),
      );
    }
  });

  Deno.test(`${type}: a short cluster is encoded as if zeroes followed`, async () => {
    using bench = new Bench(type);
    const memory = bench.alloc(1000);
    memory.bytes.set(text(3, 1000));
    const encoded = bench.encode(IoVec.of(memory.address, 1000))!;
    bench.file = encoded;
    const got = await bench.read(0, bench.file.length, 0, CLUSTER);
    assert.deepEqual(got.slice(0, 1000), text(3, 1000));
    assert.ok(got.subarray(1000).every((byte) => byte === 0));
  });

  Deno.test(`${type}: noise is not encoded, and the next cluster is again`, () => {
    using bench = new Bench(type);
    const memory = bench.alloc(CLUSTER);
    memory.bytes.set(noise());
    assert.equal(bench.encode(IoVec.of(memory.address, CLUSTER)), undefined);
    memory.bytes.set(text(4));
    const encoded = bench.encode(IoVec.of(memory.address, CLUSTER))!;
    assert.ok(encoded.length < CLUSTER / 2);
  });

  Deno.test(`${type}: broken, cut off and short streams are EIO, and change nothing for others`, async () => {
    using bench = new Bench(type);
    const good = pack(type, text(5));
    const cases: [string, Uint8Array, RegExp][] = [
      ["zeroes", new Uint8Array(600), /not a valid/],
      ["ones", new Uint8Array(600).fill(255), /not a valid/],
      ["nothing", new Uint8Array(1), /not a valid|ends after/],
      ["cut off", good.slice(0, good.length >> 1), /ends after|not a valid/],
      ["too little", stored(pack(type, text(5, 1000))), /ends after 1000 of 65536 bytes/],
    ];
    for (const [name, bytes, words] of cases) {
      bench.file = bytes;
      for (const size of [512, CLUSTER]) {
        await assert.rejects(bench.read(0, bytes.length, 0, size), (error) => {
          assert.ok(error instanceof BlockError, name);
          assert.equal(error.errno, "EIO", name);
          assert.match(error.message, words, name);
          return true;
        });
      }
      bench.file = stored(good);
      assert.deepEqual(await bench.read(0, bench.file.length, 9, 99), text(5).slice(9, 108), name);
      bench.clusters.forget(0, 1);
    }
  });

  for (const cluster of [512, 2 * 1024 * 1024]) {
    Deno.test(`${type}: clusters of ${cluster} bytes are encoded and decoded`, async () => {
      using bench = new Bench(type, cluster);
      const memory = bench.alloc(cluster);
      memory.bytes.set(text(9, cluster).map((byte, at) => at % 64 === 0 ? byte : 97));
      const want = memory.bytes.slice(0, cluster);
      const encoded = bench.encode(IoVec.of(memory.address, cluster))!;
      bench.file = encoded;
      assert.deepEqual(await bench.read(0, bench.file.length, 0, cluster), want);
      assert.deepEqual(await bench.read(0, bench.file.length, 100, 400), want.slice(100, 500));
    });
  }
}

/** A frame that does not say how much it holds. */
function zstdUnknownSize(bytes: Uint8Array): Uint8Array {
  const options = { params: { [zlib.constants.ZSTD_c_contentSizeFlag]: 0 } };
  return new Uint8Array(zlib.zstdCompressSync(bytes, options));
}

const bombed = new Uint8Array(64 * 1024 * 1024).fill(7);

Deno.test("zlib: of a bomb only the first cluster is decoded, as the original does", async () => {
  using bench = new Bench("zlib");
  bench.file = stored(pack("zlib", bombed));
  const got = await bench.read(0, bench.file.length, 0, 4096);
  assert.ok(got.every((byte) => byte === 7));
  assert.ok(bench.buffers.inUse < 8 * CLUSTER);
});

Deno.test("zstd: a bomb is EIO, whether it says so or not", async () => {
  using bench = new Bench("zstd");
  for (const frame of [pack("zstd", bombed), zstdUnknownSize(bombed)]) {
    bench.file = stored(frame);
    await assert.rejects(bench.read(0, bench.file.length, 0, 4096), /not a valid zstd stream/);
  }
  assert.ok(bench.buffers.inUse < 8 * CLUSTER);
});

Deno.test("zstd: several frames and skippable ones make one cluster", async () => {
  using bench = new Bench("zstd");
  const skip = new Uint8Array(8 + 5);
  new DataView(skip.buffer).setUint32(0, 0x184d2a53, true);
  new DataView(skip.buffer).setUint32(4, 5, true);
  const parts = [skip, pack("zstd", text(1, 40000)), skip, pack("zstd", text(2, CLUSTER - 40000))];
  bench.file = stored(new Uint8Array(parts.flatMap((part) => [...part])));
  const got = await bench.read(0, bench.file.length, 0, CLUSTER);
  assert.deepEqual(got.slice(0, 40000), text(1, 40000));
  assert.deepEqual(got.slice(40000), text(2, CLUSTER - 40000));
});

Deno.test("zstd: a frame that announces more than a cluster, or an endless one, is refused", async () => {
  using bench = new Bench("zstd");
  for (const content of [CLUSTER + 1, 1e9]) {
    // A single segment, its size in eight bytes, one block that repeats a byte.
    const frame = new Uint8Array(17);
    const view = new DataView(frame.buffer);
    view.setUint32(0, 0xfd2fb528, true);
    view.setUint8(4, 0xe0);
    view.setBigUint64(5, BigInt(content), true);
    view.setUint8(13, 3);
    bench.file = frame;
    await assert.rejects(bench.read(0, 17, 0, 512), /not a valid zstd stream/);
  }
});

Deno.test("zstd: a frame that wants a dictionary, and one of an earlier format, are EIO", async () => {
  using bench = new Bench("zstd");
  const good = pack("zstd", text(4));
  assert.equal(good[4]! & 3, 0, "no dictionary");
  const wanting = Uint8Array.of(...good.subarray(0, 6), 9, ...good.subarray(6));
  wanting[4] = good[4]! | 1;
  const early = good.slice();
  early[0] = 0x27; // version 0.7
  for (const frame of [wanting, early]) {
    bench.file = stored(frame);
    await assert.rejects(bench.read(0, bench.file.length, 0, 512), /not a valid zstd stream/);
  }
});

Deno.test("zstd: a window far larger than a cluster is accepted, and not paid for", async () => {
  using bench = new Bench("zstd");
  const options = { params: { [zlib.constants.ZSTD_c_contentSizeFlag]: 0 } };
  const frame = new Uint8Array(zlib.zstdCompressSync(text(6), options));
  assert.equal(frame[4]! & 0x20, 0, "not a single segment");
  frame[5] = 20 << 3; // 2^30 bytes: decoders refuse more than 2^27 by default
  bench.file = frame;
  assert.deepEqual(await bench.read(0, frame.length, 0, CLUSTER), text(6));
});

Deno.test("readers of one cluster share its decoding, also when it fails", async () => {
  using bench = new Bench("zlib");
  bench.file = stored(pack("zlib", text(7)));
  bench.held = [];
  const size = bench.file.length;
  const readers = Array.from({ length: 8 }, (_, at) => bench.read(0, size, at * 512, 512));
  assert.equal(bench.held.length, 1);
  bench.held[0]!();
  (await Promise.all(readers)).forEach((got, at) =>
    assert.deepEqual(got, text(7).slice(at * 512, at * 512 + 512))
  );
  assert.equal(bench.clusters.decoded, 1);

  bench.clusters.forget(0, 1);
  bench.failing = new BlockError("EIO", "injected");
  bench.held = [];
  const losers = Array.from({ length: 4 }, () => bench.read(0, size, 0, 512));
  bench.held[0]!();
  for (const loser of await Promise.allSettled(losers)) assert.equal(loser.status, "rejected");
  bench.failing = undefined;
  bench.held = undefined;
  assert.deepEqual(await bench.read(0, size, 0, 512), text(7).slice(0, 512));
});

Deno.test("a stream that is replaced while it is read is not kept", async () => {
  using bench = new Bench("zlib");
  bench.file = stored(pack("zlib", text(1)));
  const size = bench.file.length;
  bench.held = [];
  const early = bench.read(0, size, 0, 512);
  bench.clusters.forget(100, 1);
  bench.held[0]!();
  await early;
  bench.held = undefined;
  bench.file = stored(pack("zlib", text(2)));
  assert.deepEqual(await bench.read(0, size, 0, 512), text(2).slice(0, 512));
});

Deno.test("what is kept is bounded: many clusters, and more readers than clusters are kept", async () => {
  using bench = new Bench("zlib");
  const stream = pack("zlib", text(8));
  bench.file = new Uint8Array(stream.length * 400);
  for (let at = 0; at < 400; at++) bench.file.set(stream, at * stream.length);
  for (let at = 0; at < 200; at++) await bench.read(at * stream.length, stream.length, 0, 512);
  assert.ok(bench.buffers.inUse <= 5 * 1024 * 1024, `${bench.buffers.inUse}`);
  bench.held = [];
  const readers = Array.from(
    { length: 150 },
    (_, at) => bench.read((200 + at) * stream.length, stream.length, 7, 512),
  );
  for (const proceed of bench.held) proceed();
  for (const got of await Promise.all(readers)) assert.deepEqual(got, text(8).slice(7, 519));
  assert.ok(bench.buffers.inUse <= 5 * 1024 * 1024, `${bench.buffers.inUse}`);
});

Deno.test("readers of more clusters at once than are kept get each their own, in memory that is still theirs", async () => {
  const size = 2 * 1024 * 1024; // two of them are kept
  using bench = new Bench("zlib", size);
  const wants = Array.from({ length: 6 }, (_, seed) => text(seed, 512));
  const streams = wants.map((want) => {
    const cluster = new Uint8Array(size).fill(want[7]!);
    cluster.set(want);
    return pack("zlib", cluster);
  });
  const places = streams.map((_, at) => at * size);
  bench.file = new Uint8Array(streams.length * size);
  streams.forEach((stream, at) => bench.file.set(stream, places[at]));
  bench.held = [];
  const readers = streams.map((stream, at) => bench.read(places[at]!, stream.length, 0, 512));
  const { inUse } = bench.buffers;
  assert.ok(inUse >= 6 * size, `${inUse} bytes for six clusters that are being read`);
  for (const proceed of bench.held) proceed();
  for (const [at, got] of (await Promise.all(readers)).entries()) {
    assert.deepEqual(got, wants[at], `reader ${at}`);
  }
});
