/** qcow2 images with broken tables: made by qemu-img, then changed where it hurts, from a seed. */
import { Dice } from "../harness/dice.ts";
import { ok } from "../harness/tools.ts";

/** Bits 9 to 55 of a table entry. */
const OFFSET = 0x00fffffffffffe00n;
const COPIED = 1n << 63n;
const COMPRESSED = 1n << 62n;

/** The bytes of an image, and where its tables are. Reads and writes behind the end do nothing. */
export class ImageBytes {
  view: DataView;
  constructor(public bytes: Uint8Array) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }
  word(at: number): bigint {
    return at + 8 <= this.bytes.length ? this.view.getBigUint64(at) : 0n;
  }
  put(at: number, value: bigint): void {
    if (at + 8 <= this.bytes.length) this.view.setBigUint64(at, BigInt.asUintN(64, value));
  }
  put32(at: number, value: number): void {
    if (at + 4 <= this.bytes.length) this.view.setUint32(at, value);
  }
  flip(at: number, bit: number): void {
    if (at < this.bytes.length) this.bytes[at] = this.bytes[at]! ^ (1 << bit);
  }
  cut(length: number): void {
    this.bytes = this.bytes.slice(0, Math.max(1024, length));
    this.view = new DataView(this.bytes.buffer);
  }
  get clusterSize(): number {
    return 1 << this.view.getUint32(20);
  }
  get extended(): boolean {
    return this.view.getUint32(4) === 3 && (this.word(72) & 16n) !== 0n;
  }
  get l1(): number {
    return Number(this.word(40));
  }
  get l1Size(): number {
    return Math.min(this.view.getUint32(36), 1024);
  }
  get refcountTable(): number {
    return Number(this.word(48));
  }
  /** Where the data of the header extension "bitmaps" lies; 0: there is none. */
  bitmapsExtension(): number {
    if (this.view.getUint32(4) < 3) return 0;
    for (let at = this.view.getUint32(100); at + 8 <= this.clusterSize;) {
      const [type, length] = [this.view.getUint32(at), this.view.getUint32(at + 4)];
      if (type === 0x23852875) return at + 8;
      if (type === 0) return 0;
      at += 8 + Math.ceil(length / 8) * 8;
    }
    return 0;
  }
  get snapshotCount(): number {
    return this.view.getUint32(60);
  }
  get snapshots(): number {
    return Number(this.word(64));
  }
  /** Offsets of the L2 tables that the active L1 table leads to. */
  l2Tables(): number[] {
    return Array.from(
      { length: this.l1Size },
      (_, i) => Number(this.word(this.l1 + 8 * i) & OFFSET),
    )
      .filter((offset) => offset > 0 && offset < this.bytes.length);
  }
}

const WRITES = ["write -P 1 0 20k", "write -P 2 100k 30k", "write -P 3 390k 10k"];
const ZEROES = "write -z 200k 20k";
const TWO = "snapshot";

/** What images to begin with: options of qemu-img create, commands of qemu-io, and whether to take snapshots. */
const SHAPES: readonly { options: string; io: readonly string[]; then?: string }[] = [
  { options: "cluster_size=4k", io: [...WRITES, ZEROES], then: TWO },
  { options: "cluster_size=512", io: [...WRITES, ZEROES], then: TWO },
  { options: "compat=v2,cluster_size=1k", io: WRITES, then: TWO },
  { options: "cluster_size=16k,extended_l2=on", io: [...WRITES, ZEROES], then: TWO },
  { options: "cluster_size=2k,refcount_bits=1", io: [...WRITES, ZEROES] },
  { options: "cluster_size=2k,refcount_bits=64", io: [...WRITES, ZEROES], then: TWO },
  { options: "cluster_size=1k,refcount_bits=2", io: WRITES, then: "one" },
  { options: "cluster_size=4k", io: [...WRITES, "write -c 40k 4k", "write -c 44k 8k"], then: TWO },
  { options: "cluster_size=4k", io: [...WRITES, ZEROES], then: "bitmaps" },
  { options: "cluster_size=64k,refcount_bits=8", io: [...WRITES, ZEROES], then: TWO },
  { options: "cluster_size=512,refcount_bits=32", io: [...WRITES, "write -c 40k 4k"], then: TWO },
  { options: "cluster_size=4k,preallocation=metadata", io: ["write 0 4k"], then: TWO },
  {
    options: "cluster_size=16k,extended_l2=on,compression_type=zstd",
    io: [...WRITES, ZEROES, "write -c 64k 16k"],
    then: TWO,
  },
  { options: "cluster_size=4k,lazy_refcounts=on", io: [...WRITES, ZEROES], then: TWO },
];

/** Makes the images in `folder`; their bytes. */
export async function makeImages(folder: string): Promise<Uint8Array[]> {
  const images: Uint8Array[] = [];
  for (const [index, { options, io, then }] of SHAPES.entries()) {
    const path = `${folder}/base${index}.qcow2`;
    const write = (...commands: string[]) =>
      ok("qemu-io", ["-t", "unsafe", ...commands.flatMap((one) => ["-c", one]), path]);
    await ok("qemu-img", ["create", "-q", "-f", "qcow2", "-o", options, path, "400k"]);
    await write(...io);
    if (then === "bitmaps") {
      await ok("qemu-img", ["bitmap", "--add", path, "b0"]);
      await ok("qemu-img", ["bitmap", "--add", "-g", "512", path, "b1"]);
    } else if (then !== undefined) {
      await ok("qemu-img", ["snapshot", "-c", "s1", path]);
      if (then === TWO) {
        await write("write -P 9 0 8k");
        await ok("qemu-img", ["snapshot", "-c", "snap2", path]);
        await write("write -P 7 102k 9k");
      }
    }
    images.push(Deno.readFileSync(path));
  }
  return images;
}

/** Chooses what is put where. */
class Breaker {
  constructor(private readonly image: ImageBytes, private readonly random: Dice) {}

  #offset(): bigint {
    const { image: { bytes, clusterSize }, random } = this;
    const inside = random.below(Math.ceil(bytes.length / clusterSize)) * clusterSize;
    const end = bytes.length;
    return BigInt(random.pick([
      inside,
      inside,
      inside + 512 * random.below(8),
      end,
      end + clusterSize,
      0,
      2 ** 40,
      end - (end % clusterSize),
    ]));
  }

  #entry(old: bigint): bigint {
    const { image, random } = this;
    const compressed = BigInt(random.below(image.bytes.length)) | BigInt(random.below(4)) << 58n;
    return random.pick([
      old ^ 1n << BigInt(random.below(64)),
      this.#offset() | COPIED,
      this.#offset(),
      this.#offset() | 1n,
      compressed | COMPRESSED,
      old ^ COPIED,
      0n,
    ]);
  }

  #l1At(): number {
    return this.image.l1 + 8 * this.random.below(Math.max(1, this.image.l1Size));
  }
  #l2At(): number {
    const { image: { extended, clusterSize }, random } = this;
    const tables = this.image.l2Tables();
    const size = extended ? 16 : 8;
    if (tables.length === 0) return this.#l1At();
    return random.pick(tables) + size * random.below(random.below(2) ? 40 : clusterSize / size);
  }
  #change(at: number): void {
    this.image.put(at, this.#entry(this.image.word(at)));
  }

  /** What is broken, for messages, and how; each kind of structure about as often as another. */
  readonly ways: readonly (readonly [string, () => void])[] = [
    ["L1", () => this.#change(this.#l1At())],
    ["L2", () => this.#change(this.#l2At())],
    ["L2", () => this.#change(this.#l2At())],
    ["L2", () => this.#change(this.#l2At())],
    ["L2 bit", () => {
      const at = this.#l2At() + (this.image.extended ? 8 : 0);
      this.image.put(at, this.image.word(at) ^ 1n << BigInt(this.random.below(64)));
    }],
    ["refcount table", () => {
      const { image, random } = this;
      const at = image.refcountTable +
        8 * random.below(random.below(2) ? 2 : image.clusterSize / 8);
      const flipped = image.word(at) ^ 1n << BigInt(random.below(64));
      image.put(at, random.below(3) ? this.#offset() : flipped);
    }],
    ["refcount block", () => this.#refcount()],
    ["refcount block", () => this.#refcount()],
    ["snapshot table", () => {
      const { image, random } = this;
      const at = image.snapshots + random.pick([4, 8, 12, 14, 36, 40, 48, 0]);
      if (image.snapshotCount === 0) return;
      if (random.below(2)) image.put(image.snapshots, this.#offset());
      else image.flip(at + random.below(4), random.below(8));
    }],
    ["header", () => {
      const field = this.random.pick([36, 40, 48, 56, 60, 64]);
      if ([40, 48, 64].includes(field)) this.image.put(field, this.#offset());
      else this.image.put32(field, this.random.below(this.random.below(3) ? 6 : 70000));
    }],
    ["length", () => {
      const { image, random } = this;
      if (random.below(4) === 0) {
        image.cut(image.bytes.length - random.below(3 * image.clusterSize));
      }
    }],
    ["a bit", () => {
      this.image.flip(this.random.below(this.image.bytes.length), this.random.below(8));
    }],
  ];

  /** The directory of bitmaps, the table of its first one, or the extension (its place) that leads there. */
  bitmaps(extension: number): void {
    const { image, random } = this;
    const directory = Number(image.word(extension + 16));
    const table = Number(image.word(directory));
    switch (random.below(5)) {
      case 0:
        return this.#change(table + 8 * random.below(4));
      case 1:
        return image.put(directory, this.#offset());
      case 2:
        return image.flip(extension + random.below(24), random.below(8));
      default:
        return image.flip(directory + 8 + random.below(20), random.below(8));
    }
  }

  #refcount(): void {
    const { image, random } = this;
    const block = Number(image.word(image.refcountTable) & OFFSET);
    if (block === 0) return;
    image.flip(block + random.below(Math.min(image.clusterSize, 64)), random.below(8));
  }
}

/** Image number `seed` of those that are made from `images`, broken in one to three places, and how. */
export function brokenImage(
  images: readonly Uint8Array[],
  seed: number,
): { image: ImageBytes; how: string } {
  const random = new Dice(seed * 7919 + 13);
  const image = new ImageBytes(images[seed % images.length]!.slice());
  const places = 1 + (seed % 3 === 0 ? random.below(3) : 0);
  const breaker = new Breaker(image, random);
  const extension = image.bitmapsExtension();
  const how = Array.from({ length: places }, () => {
    if (extension !== 0 && random.below(2) === 0) {
      breaker.bitmaps(extension);
      return "bitmaps";
    }
    const [what, act] = random.pick(breaker.ways);
    act();
    return what;
  });
  return { image, how: how.join(", ") };
}
