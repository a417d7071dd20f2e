/**
 * blockdev-create: a new image in a file that exists. First an image of no length is written (header, refcount table,
 * one refcount block), then it is opened and grown, so that allocation and preallocation are those of any image.
 * What the file holds otherwise is left as it is: its creator may have allocated it on purpose.
 */
import { BlockError, CommandError, IoVec, isPowerOfTwo, KiB, SECTOR } from "../../../base/mod.ts";
import type { BlockdevCreateOptionsQcow2Value } from "../../../qmp/schema/qcow2.ts";
import { type BlockBackend, type CreateContext, Perm } from "../../mod.ts";
import { defaultFeatureTable } from "./extensions.ts";
import { Autoclear, Bounds, Compatible, CompressionType, Incompatible } from "./format.ts";
import { type Header, l1EntriesFor, NEW_HEADER_LENGTH } from "./header.ts";
import { headerFits, serialiseHeader } from "./header_write.ts";

type CreateOptions = BlockdevCreateOptionsQcow2Value;

/** Bytes of a cluster where nothing else is asked for. */
const DEFAULT_CLUSTER = 64 * KiB;
const DEFAULT_REFCOUNT_BITS = 16;
/** Clusters of an empty image: header, refcount table, refcount block. */
const FIRST_CLUSTERS = 3;

/** What a new image is to be, checked. */
interface Shape {
  readonly version: 2 | 3;
  readonly clusterSize: number;
  readonly refcountBits: number;
  readonly extendedL2: boolean;
  readonly preallocation: "off" | "metadata" | "falloc" | "full";
}

function needsV3(version: 2 | 3, what: string): void {
  if (version === 3) return;
  throw new CommandError(`${what} (use version=v3 or greater)`);
}

/** Refuses what cannot be made, in QEMU's words and order. */
function shapeOf(options: CreateOptions): Shape {
  const version = options.version === "v2" ? 2 : 3;
  if (options.size % SECTOR !== 0) {
    throw new CommandError("Image size must be a multiple of 512 bytes");
  }
  const { clusterSize, extendedL2 } = clustersOf(options, version);
  refuseBacking(options, extendedL2);
  if (options["lazy-refcounts"] === true) {
    needsV3(version, "Lazy refcounts only supported with compatibility level 1.1 and above");
  }
  const refcountBits = refcountBitsOf(options, version);
  const preallocation = withDataFile(options, version);
  if (options["compression-type"] === "zstd") {
    needsV3(
      version,
      "Non-zlib compression type is only supported with compatibility level 1.1 and above",
    );
  }
  return { version, clusterSize, refcountBits, extendedL2, preallocation };
}

/** Size and kind of clusters. Throws CommandError where there are no such. */
export function clustersOf(
  options: Pick<CreateOptions, "cluster-size" | "extended-l2">,
  version: 2 | 3,
): Pick<Shape, "clusterSize" | "extendedL2"> {
  const clusterSize = options["cluster-size"] ?? DEFAULT_CLUSTER;
  const extendedL2 = options["extended-l2"] ?? false;
  if (extendedL2) {
    needsV3(
      version,
      "Extended L2 entries are only supported with compatibility level 1.1 and above",
    );
  }
  const clusterBits = Math.log2(clusterSize);
  const { minClusterBits, maxClusterBits } = Bounds;
  if (
    !isPowerOfTwo(clusterSize) || clusterBits < minClusterBits || clusterBits > maxClusterBits
  ) {
    throw new CommandError(
      `Cluster size must be a power of two between ${2 ** minClusterBits} and ` +
        `${2 ** maxClusterBits / KiB}k`,
    );
  }
  if (extendedL2 && clusterBits < Bounds.minExtendedClusterBits) {
    throw new CommandError(
      "Extended L2 entries are only supported with cluster sizes of at least " +
        `${2 ** Bounds.minExtendedClusterBits} bytes`,
    );
  }
  return { clusterSize, extendedL2 };
}

function refuseBacking(options: CreateOptions, extendedL2: boolean): void {
  const preallocation = options.preallocation ?? "off";
  const backing = options["backing-file"];
  if (preallocation !== "off" && backing !== undefined && !extendedL2) {
    throw new CommandError(
      "Backing file and preallocation can only be used at the same time if extended_l2 is on",
    );
  }
  if (options["backing-fmt"] !== undefined && backing === undefined) {
    throw new CommandError("Backing format cannot be used without backing file");
  }
}

/** The preallocation that there is to be. Throws CommandError where there can be no such data file. */
function withDataFile(options: CreateOptions, version: 2 | 3): Shape["preallocation"] {
  const raw = options["data-file-raw"] === true;
  const dataFile = options["data-file"] !== undefined;
  if (dataFile) {
    needsV3(
      version,
      "External data files are only supported with compatibility level 1.1 and above",
    );
  }
  if (raw && !dataFile) throw new CommandError("data-file-raw requires data-file");
  if (raw && options["backing-file"] !== undefined) {
    throw new CommandError("Backing file and data-file-raw cannot be used at the same time");
  }
  const preallocation = options.preallocation ?? "off";
  // Whoever reads the data file alone sees what a reader of the image sees: all of it is mapped.
  return raw && preallocation === "off" ? "metadata" : preallocation;
}

/** Bits of a reference count. Throws CommandError where there are no such. */
export function refcountBitsOf(
  options: Pick<CreateOptions, "refcount-bits">,
  version: 2 | 3,
): number {
  const bits = options["refcount-bits"] ?? DEFAULT_REFCOUNT_BITS;
  if (bits > 64 || !isPowerOfTwo(bits)) {
    throw new CommandError("Refcount width must be a power of two and may not exceed 64 bits");
  }
  if (bits !== DEFAULT_REFCOUNT_BITS) {
    needsV3(
      version,
      "Different refcount widths than 16 bits require compatibility level 1.1 or above",
    );
  }
  return bits;
}

function refuseEncryption({ encrypt }: CreateOptions): void {
  if (encrypt === undefined) return;
  if (encrypt["key-secret"] === undefined) {
    throw new CommandError("Parameter 'encrypt.key-secret' is required for cipher");
  }
  throw new CommandError("Encrypted images cannot be created yet");
}

/** The header of the image while it has no length. */
function headerOf(options: CreateOptions, shape: Shape, dataFile: string | undefined): Header {
  const { version, clusterSize, refcountBits, extendedL2 } = shape;
  let incompatible = 0n;
  if (extendedL2) incompatible |= Incompatible.extendedL2;
  if (dataFile !== undefined) incompatible |= Incompatible.externalData;
  const zstd = options["compression-type"] === "zstd";
  if (zstd) incompatible |= Incompatible.compressionType;
  const backingFile = options["backing-file"];
  return {
    version,
    clusterBits: Math.log2(clusterSize),
    size: 0,
    cryptMethod: "none",
    l1Offset: 0,
    l1Size: 0,
    refcountTableOffset: clusterSize,
    refcountTableClusters: 1,
    snapshotsOffset: 0,
    snapshotCount: 0,
    incompatibleFeatures: incompatible,
    compatibleFeatures: options["lazy-refcounts"] === true ? Compatible.lazyRefcounts : 0n,
    autoclearFeatures: options["data-file-raw"] === true ? Autoclear.rawExternalData : 0n,
    refcountOrder: Math.log2(refcountBits),
    compressionType: zstd ? CompressionType.zstd : CompressionType.zlib,
    headerLength: version === 2 ? Bounds.headerV2 : NEW_HEADER_LENGTH,
    laterFields: new Uint8Array(),
    backingFile: backingFile === "" ? undefined : backingFile,
    backingFormat: backingFile === "" ? undefined : options["backing-fmt"],
    dataFile,
    featureTable: version === 2 ? undefined : defaultFeatureTable(),
    unknown: [],
  };
}

/** The bytes of an image of no length: three clusters. */
function emptyImage(header: Header, refcountBits: number): Uint8Array {
  const clusterSize = 2 ** header.clusterBits;
  const bytes = new Uint8Array(FIRST_CLUSTERS * clusterSize);
  bytes.set(serialiseHeader(header));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(clusterSize, BigInt(2 * clusterSize));
  for (let cluster = 0; cluster < FIRST_CLUSTERS; cluster++) {
    const at = 2 * clusterSize;
    const bit = cluster * refcountBits;
    if (refcountBits >= 8) bytes[at + (bit + refcountBits) / 8 - 1] = 1;
    else bytes[at + Math.floor(bit / 8)]! |= 1 << (bit % 8);
  }
  return bytes;
}

/** QEMU driver qcow2's part of blockdev-create. */
export async function createImage(
  create: CreateContext,
  given: Readonly<Record<string, unknown>>,
): Promise<void> {
  const options = given as unknown as CreateOptions;
  const used: BlockBackend[] = [];
  try {
    const file = await create.node(options.file);
    used.push(file);
    const shape = shapeOf(options);
    refuseEncryption(options);
    let data: BlockBackend | undefined;
    if (options["data-file"] !== undefined) {
      data = await create.node(options["data-file"]);
      used.push(data);
    }
    await writeEmpty(create, file, options, shape, await nameOf(data));
    for (const backend of used) await backend.setPermissions(Perm.none, Perm.all);
    const nodes = { file: file.node.name, data: data?.node.name };
    await grow(create, nodes, options.size, shape);
  } finally {
    for (const backend of used.reverse()) await backend.detach();
  }
}

/** The name that the header gives the data file. */
async function nameOf(data: BlockBackend | undefined): Promise<string | undefined> {
  return data === undefined ? undefined : (await data.facts()).filename ?? data.node.name;
}

async function writeEmpty(
  { context }: CreateContext,
  file: BlockBackend,
  options: CreateOptions,
  shape: Shape,
  dataFile: string | undefined,
): Promise<void> {
  const name = options["backing-file"];
  const refuse = (why: string): never => {
    const format = options["backing-fmt"] ?? "(null)";
    throw new CommandError(
      `Could not assign backing file '${name}' with format '${format}': ${why}`,
    );
  };
  if (name !== undefined && new TextEncoder().encode(name).length > Bounds.maxBackingName) {
    refuse("Invalid argument");
  }
  const header = headerOf(options, shape, dataFile);
  if (name !== undefined && !headerFits(header)) refuse("No space left on device");
  const bytes = emptyImage(header, shape.refcountBits);
  if (file.size < bytes.length) {
    await file.truncate(bytes.length, { exact: false, preallocation: "off" });
  }
  const buffer = context.buffers.acquire(bytes.length);
  try {
    buffer.bytes.set(bytes);
    // The header last: what is there before it is no image yet.
    const { clusterSize } = shape;
    const rest = bytes.length - clusterSize;
    await file.write(clusterSize, IoVec.of(buffer.address + clusterSize, rest));
    await file.flush();
    await file.write(0, IoVec.of(buffer.address, clusterSize));
    await file.flush();
  } finally {
    context.buffers.release(buffer);
  }
}

/** Opens the image of no length and gives it its own. */
async function grow(
  create: CreateContext,
  nodes: { file: string; data: string | undefined },
  size: number,
  { clusterSize, extendedL2, preallocation }: Shape,
): Promise<void> {
  const l1Bytes = l1EntriesFor(size, Math.log2(clusterSize), extendedL2) * 8;
  if (l1Bytes > Bounds.maxL1Bytes) {
    throw new CommandError("Could not resize image: Failed to grow the L1 table: File too large");
  }
  const image = await create.node({
    driver: "qcow2",
    file: nodes.file,
    backing: null,
    ...(nodes.data !== undefined && { "data-file": nodes.data }),
  });
  try {
    await image.truncate(size, { exact: false, preallocation, goOn: () => create.goOn() });
    await image.flush();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new BlockError(error.errno, `Could not resize image: ${error.message}`, {
      op: "create",
      cause: error,
    });
  } finally {
    await image.detach();
  }
}
