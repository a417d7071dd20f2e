/** `qsd measure`: options by qemu-img's names, and what is in the source. Sizes in bytes. */
import { alignUp, CommandError } from "../../../base/mod.ts";
import { parseSize } from "../../../qmp/schema/visit_keyval.ts";
import type { MeasuredSource, Measurement } from "../measures.ts";
import { entryLength } from "./bitmap_directory.ts";
import { clustersOf, refcountBitsOf } from "./create.ts";
import { Bounds } from "./format.ts";
import { l1EntriesFor } from "./header.ts";
import { measure } from "./measure.ts";

type Options = ReadonlyMap<string, string>;

/** All names; some make no difference here. */
const NAMES: ReadonlySet<string> = new Set([
  "backing_file",
  "backing_fmt",
  "cluster_size",
  "compat",
  "compression_type",
  "data_file",
  "data_file_raw",
  "extended_l2",
  "lazy_refcounts",
  "preallocation",
  "refcount_bits",
  "size",
]);
const PREALLOCATION = ["off", "metadata", "falloc", "full"];

function checkNames(options: Options): void {
  for (const name of options.keys()) {
    if (name === "encryption" || name.startsWith("encrypt.")) {
      throw new CommandError("Encrypted images cannot be created yet");
    }
    if (NAMES.has(name)) continue;
    throw new CommandError(`Invalid parameter '${name}'`, "GenericError", [
      "PROGRAM: Invalid options for file format 'qcow2'",
    ]);
  }
}

function flag(options: Options, name: string): boolean {
  const value = options.get(name);
  if (value === undefined || value === "off") return false;
  if (value === "on") return true;
  throw new CommandError(`Parameter '${name}' expects 'on' or 'off'`);
}

/** The figure under the name that it has in blockdev-create, if it is given. */
function figure<Name extends string>(
  options: Options,
  name: string,
  as: Name,
): { [name in Name]?: number } {
  const value = options.get(name);
  if (value === undefined) return {};
  const bytes = parseSize(value);
  if (bytes === undefined || bytes > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new CommandError(`Parameter '${name}' expects a number`);
  }
  return { [as]: Number(bytes) } as { [name in Name]?: number };
}

function versionOf(options: Options): 2 | 3 {
  const compat = options.get("compat") ?? "1.1";
  if (compat === "0.10" || compat === "v2") return 2;
  if (compat === "1.1" || compat === "v3") return 3;
  throw new CommandError(`Invalid compatibility level: '${compat}'`);
}

/** Bytes of the bitmaps, their tables and their directory, in clusters. */
function bitmapsSize({ bitmaps = [], size }: MeasuredSource, clusterSize: number): number {
  let bytes = 0, directory = 0;
  for (const { name, granularity } of bitmaps) {
    const data = alignUp(Math.ceil(Math.ceil(size / granularity) / 8), clusterSize);
    bytes += data + alignUp((data / clusterSize) * 8, clusterSize);
    directory += entryLength(name);
  }
  return bytes + alignUp(directory, clusterSize);
}

/** The words that follow an option of another name than in blockdev-create. */
function inTheseWords<T>(task: () => T): T {
  try {
    return task();
  } catch (error) {
    if (!(error instanceof CommandError)) throw error;
    throw new CommandError(error.message.replace("use version=v3", "use compat=1.1"));
  }
}

/** Measures a qcow2 image; see ImageMeasurer. */
export async function measureQcow2(
  options: Options,
  source: MeasuredSource,
): Promise<Measurement> {
  checkNames(options);
  const version = versionOf(options);
  const preallocation = options.get("preallocation") ?? "off";
  if (!PREALLOCATION.includes(preallocation)) {
    throw new CommandError(`invalid parameter value: ${preallocation}`);
  }
  // As in the original the version does not matter to subclusters here.
  const clusters = {
    ...figure(options, "cluster_size", "cluster-size"),
    "extended-l2": flag(options, "extended_l2"),
  };
  const { clusterSize, extendedL2 } = inTheseWords(() => clustersOf(clusters, 3));
  const counts = figure(options, "refcount_bits", "refcount-bits");
  const refcountBits = inTheseWords(() => refcountBitsOf(counts, version));
  const { size } = source;
  if (l1EntriesFor(size, Math.log2(clusterSize), extendedL2) * 8 > Bounds.maxL1Bytes) {
    throw new CommandError("The image size is too large (try using a larger cluster size)");
  }
  const all = preallocation === "falloc" || preallocation === "full";
  const data = all ? alignUp(size, clusterSize) : await source.data(clusterSize);
  const figures = measure({ size, clusterSize, refcountBits, extendedL2, data });
  if (version < 3 || source.bitmaps === undefined) return figures;
  return { ...figures, bitmaps: bitmapsSize(source, clusterSize) };
}
