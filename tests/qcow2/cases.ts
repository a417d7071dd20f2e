/** The images of the matrix, made by the original's tools. */
import { noise } from "../harness/images.ts";
import { ok } from "../harness/tools.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

/** One image of the matrix. */
export interface ImageCase {
  readonly name: string;
  /** Options of `qemu-img create -o`. */
  readonly create: string;
  /** Bytes of the guest's disk: a multiple of 512. */
  readonly size: number;
  /** Bytes of a backing file, full of noise. */
  readonly backing?: number;
  /** A qcow2 image as the backing file. */
  readonly over?: ImageCase;
  /** The node's options name the backing image; otherwise only the header does. */
  readonly inline?: true;
  /** `qemu-img convert -c` makes the image, of bytes that can be compressed. */
  readonly converted?: true;
  readonly dataFile?: boolean;
  /** Options of the qcow2 node. */
  readonly options?: Record<string, unknown>;
  /** Neither compressed writes nor internal snapshots can be. */
  readonly noCompression?: boolean;
  readonly noSnapshots?: boolean;
}

/** Version, cluster size, width of counts, subclusters, compression, data files, backing files, odd sizes. */
export const cases: readonly ImageCase[] = [
  { name: "as qemu-img makes it", create: "", size: 8 * MIB },
  { name: "version 2", create: "compat=0.10,cluster_size=4k", size: 4 * MIB + 512 },
  { name: "version 2 over a backing file", create: "compat=0.10", size: 4 * MIB, backing: 3 * MIB },
  { name: "clusters of 512 bytes", create: "cluster_size=512", size: 3 * MIB + 1536 },
  { name: "clusters of 2 MiB", create: "cluster_size=2M", size: 24 * MIB + 512 * 7 },
  {
    name: "counts of 1 bit",
    create: "refcount_bits=1,cluster_size=1k",
    size: 2 * MIB,
    noSnapshots: true,
    // Two streams cannot share a cluster there.
    noCompression: true,
  },
  { name: "counts of 2 bits", create: "refcount_bits=2,cluster_size=2k", size: 2 * MIB },
  { name: "counts of 4 bits", create: "refcount_bits=4,cluster_size=2k", size: 2 * MIB },
  { name: "counts of 8 bits", create: "refcount_bits=8,cluster_size=8k", size: 4 * MIB },
  { name: "counts of 32 bits", create: "refcount_bits=32,cluster_size=1k", size: 2 * MIB },
  { name: "counts of 64 bits", create: "refcount_bits=64,cluster_size=512", size: 2 * MIB },
  {
    name: "a shorter backing file",
    create: "cluster_size=16k",
    size: 6 * MIB,
    backing: 2 * MIB + 512 * 5,
  },
  { name: "a longer backing file", create: "cluster_size=16k", size: 3 * MIB, backing: 5 * MIB },
  { name: "subclusters", create: "extended_l2=on", size: 8 * MIB + 512 },
  {
    name: "subclusters over a backing file",
    create: "extended_l2=on,cluster_size=16k",
    size: 4 * MIB + 512 * 3,
    backing: 3 * MIB + 512,
  },
  { name: "zstd", create: "compression_type=zstd", size: 8 * MIB },
  { name: "zstd, subclusters", create: "compression_type=zstd,extended_l2=on", size: 4 * MIB },
  {
    name: "an external data file",
    create: "cluster_size=32k",
    size: 4 * MIB,
    dataFile: true,
    noCompression: true,
    noSnapshots: true,
  },
  {
    name: "a raw external data file",
    create: "data_file_raw=on",
    size: 4 * MIB,
    dataFile: true,
    noCompression: true,
    noSnapshots: true,
  },
  {
    name: "a raw external data file, subclusters",
    create: "data_file_raw=on,extended_l2=on,cluster_size=32k",
    size: 4 * MIB,
    dataFile: true,
    noCompression: true,
    noSnapshots: true,
  },
  { name: "lazy refcounts", create: "lazy_refcounts=on,cluster_size=4k", size: 4 * MIB },
  { name: "preallocated metadata", create: "preallocation=metadata", size: 8 * MIB },
  {
    name: "caches as small as can be",
    create: "cluster_size=4k",
    size: 16 * MIB,
    options: {
      "l2-cache-size": 8 * KIB,
      "l2-cache-entry-size": 512,
      "refcount-cache-size": 16 * KIB,
    },
  },
];

/** Images over images over images, whose clusters and sizes differ; the bottom one comes first. */
function chain(
  name: string,
  more: Partial<ImageCase>,
  ...layers: readonly Omit<ImageCase, "name">[]
): ImageCase {
  let image: ImageCase | undefined;
  for (const layer of layers) {
    image = { ...more, ...layer, name, ...(image === undefined ? {} : { over: image }) };
  }
  return image!;
}

/** qcow2 images over qcow2 images: shorter ones, longer ones, compressed ones. */
export const chains: readonly ImageCase[] = [
  chain(
    "three images, each longer than the one below",
    {},
    { create: "cluster_size=512", size: MIB + 512 * 3 },
    { create: "cluster_size=64k", size: 2 * MIB + 512 * 7 },
    { create: "cluster_size=4k", size: 4 * MIB },
  ),
  chain(
    "three images, each shorter than the one below",
    { inline: true },
    { create: "cluster_size=2M", size: 6 * MIB },
    { create: "cluster_size=1k", size: 4 * MIB + 512 },
    { create: "cluster_size=32k", size: 3 * MIB + 512 * 9 },
  ),
  chain(
    "a short image between two longer ones hides what is below its end",
    {},
    { create: "cluster_size=64k", size: 5 * MIB, converted: true },
    { create: "compat=0.10,cluster_size=2k", size: MIB + 512 * 5 },
    { create: "extended_l2=on", size: 4 * MIB + 512 },
  ),
  chain(
    "four images, zstd at the bottom, subclusters between",
    { inline: true },
    {
      create: "compression_type=zstd,cluster_size=128k",
      size: 3 * MIB + 512 * 11,
      converted: true,
    },
    { create: "extended_l2=on,cluster_size=16k", size: 4 * MIB },
    { create: "cluster_size=512", size: 2 * MIB + 512 },
    { create: "cluster_size=1M,lazy_refcounts=on", size: 5 * MIB + 512 },
  ),
];

/** Images of `qemu-img convert -c`. */
export const converted: readonly ImageCase[] = ["zlib", "zstd"].flatMap((type) =>
  ["cluster_size=4k", "cluster_size=64k", "cluster_size=2M", "extended_l2=on"].map((more) => ({
    name: `${type}, ${more}`,
    create: `compression_type=${type},${more}`,
    size: more.includes("2M") ? 30 * MIB + 512 : 6 * MIB + 512,
    converted: true as const,
  }))
);

/** Bytes that can be compressed, more or less, different everywhere; now and then some that cannot. */
export function texture(length: number): Uint8Array {
  const bytes = noise(length, 11);
  for (let at = 0; at < length; at++) if ((at >> 15) % 5 !== 4) bytes[at] = bytes[at]! & 15;
  return bytes;
}

/** Makes the image; `data`: where its external data file is to be; `below`: its backing image. */
export async function createImage(
  { create, size, dataFile, converted }: ImageCase,
  path: string,
  data: string,
  below?: string,
): Promise<void> {
  const options = [create, dataFile ? `data_file=${data}` : ""].filter((word) => word !== "");
  const words = options.length === 0 ? [] : ["-o", options.join(",")];
  if (converted) {
    Deno.writeFileSync(`${path}.raw`, texture(size));
    const how = ["-c", "-f", "raw", "-O", "qcow2", ...words];
    await ok("qemu-img", ["convert", ...how, `${path}.raw`, path]);
    return await Deno.remove(`${path}.raw`);
  }
  if (below !== undefined) words.push("-b", below, "-F", "qcow2");
  await ok("qemu-img", ["create", "-q", "-f", "qcow2", ...words, path, String(size)]);
}
