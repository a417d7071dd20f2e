/** What query-named-block-nodes tells about a qcow2 image. */
import type { ImageInfoSpecificQCow2Value } from "../../../qmp/schema/qcow2.ts";
import type { Child, FactsRound, ImageFacts } from "../../mod.ts";
import { jsonFilename, optionsOfName } from "../filename.ts";
import { readDirectory } from "./bitmaps.ts";
import { Autoclear, Compatible, CompressionType, Incompatible } from "./format.ts";
import type { Header } from "./header.ts";
import type { Qcow2Image } from "./types.ts";

/** ImageInfoSpecificQCow2 of an image with this header; `lazy`: the option's value, as the original shows it. */
function specificInfo(header: Header): ImageInfoSpecificQCow2Value {
  const compression = header.compressionType === CompressionType.zstd ? "zstd" : "zlib";
  if (header.version === 2) {
    return { compat: "0.10", "refcount-bits": 16, "compression-type": compression };
  }
  const has = (feature: bigint) => (header.incompatibleFeatures & feature) !== 0n;
  const info: ImageInfoSpecificQCow2Value = {
    compat: "1.1",
    "lazy-refcounts": (header.compatibleFeatures & Compatible.lazyRefcounts) !== 0n,
    corrupt: has(Incompatible.corrupt),
    "extended-l2": has(Incompatible.extendedL2),
    "refcount-bits": 2 ** header.refcountOrder,
    "compression-type": compression,
  };
  if (has(Incompatible.externalData)) {
    if (header.dataFile !== undefined) info["data-file"] = header.dataFile;
    info["data-file-raw"] = (header.autoclearFeatures & Autoclear.rawExternalData) !== 0n;
  }
  return info;
}

/** How the image came by its backing file, for its name. */
export interface Origin {
  /** The header's name as seen from here (relative to the image's directory). */
  readonly fullBackingFilename: string | undefined;
  /** What the backing file's node is called where it is the one that the header names. */
  readonly ownBackingFilename: string | undefined;
}

/** The bitmaps as they are in the image. */
async function bitmapFacts(
  image: Qcow2Image,
): Promise<Pick<ImageInfoSpecificQCow2Value, "bitmaps">> {
  const entries = await readDirectory(image);
  if (entries.length === 0) return {};
  const bitmaps = entries.map(({ name, granularity, inUse, auto }) => {
    const flags: ("in-use" | "auto")[] = [];
    if (inUse) flags.push("in-use");
    if (auto) flags.push("auto");
    return { name, granularity, flags };
  });
  return { bitmaps };
}

/** Facts about an opened image. */
export async function imageFacts(
  image: Qcow2Image,
  origin: Origin,
  round: FactsRound,
): Promise<Partial<ImageFacts>> {
  const { header, geometry, file, backing } = image;
  const own = await file.facts(round);
  const below = backing === undefined ? undefined : await backing.facts(round);
  const facts: Partial<ImageFacts> = {
    format: "qcow2",
    clusterSize: geometry.clusterSize,
    encrypted: header.cryptMethod !== "none",
    dirtyFlag: (header.incompatibleFeatures & Incompatible.dirty) !== 0n,
    formatSpecific: {
      type: "qcow2",
      data: { ...specificInfo(header), ...await bitmapFacts(image) },
    },
  };
  if (own.actualSize !== undefined) facts.actualSize = await allocated(image, own.actualSize);
  const { backingFile, backingFormat } = header;
  if (backingFile !== undefined && backingFile !== "") {
    facts.backingFilename = backingFile;
    facts.fullBackingFilename = origin.fullBackingFilename ?? backingFile;
    if (backingFormat !== undefined && backingFormat !== "") facts.backingFormat = backingFormat;
  }
  const names = naming(file, own, backing, below, origin);
  Object.assign(facts, names.filename === own.filename ? names : await withDataFile(image, names));
  return facts;
}

/** A `json:` name says where the data is, too. */
async function withDataFile(
  { file, data }: Qcow2Image,
  names: Partial<ImageFacts>,
): Promise<Partial<ImageFacts>> {
  if (data === file || names.filename === undefined) return names;
  const there = await data.facts();
  const options = {
    "data-file": there.options ?? optionsOfName(data.node.driver, there.filename ?? ""),
    ...names.options,
  };
  return { options, filename: jsonFilename(options) };
}

/** Bytes that the image takes: with its data file. */
async function allocated({ file, data }: Qcow2Image, own: number): Promise<number> {
  if (data === file) return own;
  return own + ((await data.facts()).actualSize ?? 0);
}

/** A plain name stands for the image with what its header names; anything else shows in a `json:` name. */
function naming(
  file: Child,
  own: Partial<ImageFacts>,
  backing: Child | undefined,
  below: Partial<ImageFacts> | undefined,
  origin: Origin,
): Partial<ImageFacts> {
  const overridden = origin.ownBackingFilename !== below?.filename;
  const inner = own.options ?? optionsOfName(file.node.driver, own.filename ?? "");
  const plain = { driver: "qcow2", file: inner };
  if (!overridden) {
    const filename = own.options === undefined ? own.filename : jsonFilename(plain);
    return { options: plain, ...(filename !== undefined && { filename }) };
  }
  const above = backing === undefined
    ? null
    : below?.options ?? optionsOfName(backing.node.driver, below?.filename ?? "");
  const options = { backing: above, ...plain };
  return { options, filename: jsonFilename(options) };
}
