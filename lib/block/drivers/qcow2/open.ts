/**
 * Opening an image: its header, what has to be put right before it may be written to, and its children.
 */
import { BlockError, CommandError, type MaybePromise } from "../../../base/mod.ts";
import type { Context } from "../../../sys/mod.ts";
import type { Child, FactsRound, NamedChild, OpenContext } from "../../mod.ts";
import { CompressedClusters } from "./compressed.ts";
import { checkImage, childFile } from "./check/mod.ts";
import { Autoclear, AUTOCLEAR_KNOWN, geometryOf, Incompatible } from "./format.ts";
import {
  badImage,
  type Header,
  type HeaderRules,
  MAX_HEADER_BYTES,
  parseHeader,
  refuseCorrupt,
} from "./header.ts";
import { serialiseHeader } from "./header_write.ts";
import { openImage } from "./instance.ts";
import type { Origin } from "./info.ts";
import { readBytes, writeBytes } from "./metadata.ts";
import { type Qcow2Options, resolveOptions } from "./options.ts";
import { findSnapshot, snapshotHeader } from "./snapshots.ts";
import type { ClusterCipher, ImageHooks, OpenedImage } from "./types.ts";

/** Reads and parses the header of the image in `file`. */
async function readHeader(
  context: Context,
  file: Child,
  rules: HeaderRules = {},
): Promise<Header> {
  const length = Math.min(MAX_HEADER_BYTES, file.size);
  return parseHeader(await readBytes(context, file, 0, length), rules);
}

/** Whether the bits of `features` are set among the incompatible ones. */
function has(header: Header, feature: bigint): boolean {
  return (header.incompatibleFeatures & feature) !== 0n;
}

/** Whether an image must be changed before it may be written to. */
export function needsPreparation(header: Header): boolean {
  return has(header, Incompatible.dirty) || (header.autoclearFeatures & ~AUTOCLEAR_KNOWN) !== 0n ||
    header.staleBitmaps === true;
}

/**
 * What comes before the first write: counts of an image that was not closed are repaired, marks of features that are
 * not kept up here are cleared. Returns the header as it then is.
 */
async function prepareForWriting(
  context: Context,
  nodeName: string,
  file: Child,
  header: Header,
): Promise<Header> {
  let now = header;
  if (has(now, Incompatible.dirty)) {
    const mended = await repair(context, nodeName, file, now);
    now = await readHeader(context, file);
    // What no repair mends is left for whoever meets it, as in QEMU, and the mark until the image is closed.
    const left = mended ? Incompatible.dirty : 0n;
    now = { ...now, incompatibleFeatures: now.incompatibleFeatures & ~left };
  }
  if (now !== header || needsPreparation(now)) {
    now = {
      ...now,
      autoclearFeatures: now.autoclearFeatures & AUTOCLEAR_KNOWN &
        ~(now.bitmaps === undefined ? Autoclear.bitmaps : 0n),
      staleBitmaps: undefined,
    };
    await file.flush();
    await writeBytes(context, file, 0, serialiseHeader(now));
    await file.flush();
  }
  return now;
}

/** Repairs the counts; whether nothing is wrong any more. Throws where they could not be looked at. */
async function repair(
  context: Context,
  nodeName: string,
  file: Child,
  header: Header,
): Promise<boolean> {
  const { log } = context;
  const result = await checkImage(childFile(context, file), header, {
    fix: "all",
    say: (line) => log.info(line),
    complain: (message) => log.warn(`node '${nodeName}': ${message}`),
  });
  if (result.checkErrors > 0) {
    throw new BlockError("EIO", "Could not repair dirty image: Input/output error", {
      node: nodeName,
      op: "open",
    });
  }
  return result.corruptions === 0;
}

/**
 * Makes the cipher of an image whose header and options fit together. Undefined: its data is not encrypted. Throws
 * CommandError.
 */
export type CipherSource = (
  open: OpenContext,
  options: Qcow2Options,
  header: Header,
) => MaybePromise<ClusterCipher | undefined>;

/** Encrypted images are refused: no cipher is there yet. */
function noCiphers(
  _open: OpenContext,
  _options: Qcow2Options,
  { cryptMethod }: Header,
): undefined {
  if (cryptMethod === "none") return undefined;
  throw new CommandError(`Images with '${cryptMethod}' encryption are not supported yet`);
}

/** Options about encryption against what the header says. */
export function checkEncryption(options: Qcow2Options, header: Header): void {
  const { encrypt } = options;
  const { cryptMethod } = header;
  if (cryptMethod === "none") {
    if (encrypt === undefined) return;
    throw new CommandError(
      `No encryption in image header, but options specified format '${encrypt.format}'`,
    );
  }
  if (encrypt !== undefined && encrypt.format !== cryptMethod) {
    throw new CommandError(
      `Header reported '${cryptMethod}' encryption format but options specify '${encrypt.format}'`,
    );
  }
  if (encrypt?.["key-secret"] === undefined) {
    throw new CommandError("Parameter 'encrypt.key-secret' is required for cipher");
  }
}

/** A snapshot is not written to. */
export function onlyRead(): CommandError {
  return new CommandError("'x-qsd-snapshot' can only be used with read-only images");
}

/** What the header says about the backing file. */
export function namedBacking(header: Header): NamedChild | undefined {
  const { backingFile, backingFormat } = header;
  if (backingFile === undefined || backingFile === "") return undefined;
  return { kind: "backing", filename: backingFile, format: backingFormat };
}

/** The node that guest data lies in. */
async function openData(
  open: OpenContext,
  options: Qcow2Options,
  header: Header,
  file: Child,
): Promise<Child> {
  if (!has(header, Incompatible.externalData)) {
    if (options["data-file"] !== undefined) {
      throw new CommandError(
        "'data-file' can only be set for images with an external data file",
      );
    }
    if ((header.autoclearFeatures & Autoclear.rawExternalData) !== 0n) {
      throw badImage("data-file-raw requires a data file");
    }
    return file;
  }
  const { dataFile } = header;
  const named: NamedChild | undefined = dataFile === undefined
    ? undefined
    : { kind: "data-file", filename: dataFile };
  const data = await open.namedChild("data-file", { role: ["data"] }, named);
  if (data === undefined) throw new CommandError("'data-file' is required for this image");
  return data;
}

/** What the header says of the backing file, which is `implied` if it was opened because of that. */
export async function originOf(
  open: OpenContext,
  header: Header,
  implied?: Child,
  round?: FactsRound,
): Promise<Origin> {
  const named = namedBacking(header);
  const full = named && await open.nameOf(named, round);
  const own = (await implied?.facts(round))?.filename ?? full;
  return { fullBackingFilename: full, ownBackingFilename: own };
}

/** The header of what the options ask for: the image, or a snapshot in it. Throws BlockError, CommandError. */
async function shown(
  context: Context,
  file: Child,
  options: Qcow2Options,
  header: Header,
): Promise<Header> {
  const { "x-qsd-snapshot": wanted } = options;
  if (wanted === undefined) return header;
  const read = (offset: number, length: number) => readBytes(context, file, offset, length);
  return snapshotHeader(header, await findSnapshot(read, header, wanted));
}

/** The header as it is to be used, when the node became active, or writable: as on opening. */
export async function headerArrived(
  options: Qcow2Options,
  image: OpenedImage,
  header: Header,
): Promise<Header> {
  const { context, file, nodeName } = image;
  if (header.cryptMethod !== image.header.cryptMethod) {
    throw new CommandError("The image's encryption was changed by somebody else");
  }
  if (image.readOnly) return await shown(context, file, options, header);
  refuseCorrupt(header);
  return await prepareForWriting(context, nodeName, file, header);
}

/** Opens the image of the node that `open` speaks of. */
export async function openNode(
  open: OpenContext,
  options: Qcow2Options,
  hooks: (open: OpenContext, origin: Origin) => ImageHooks,
  cipherOf: CipherSource = noCiphers,
): Promise<OpenedImage> {
  const { context, nodeName } = open;
  const file = await open.child("file", { role: ["data", "metadata", "primary"] });
  const writable = !open.readOnly && open.active;
  if (!open.readOnly && options["x-qsd-snapshot"] !== undefined) throw onlyRead();
  let header = await readHeader(context, file, { refuseCorrupt: writable });
  checkEncryption(options, header);
  const cipher = await cipherOf(open, options, header);
  const resolved = resolveOptions(options, header, open.discard);
  if (header.staleBitmaps === true) warnOfBitmaps(open, header);
  const data = await openData(open, options, header, file);
  const named = namedBacking(header);
  const backing = await open.namedChild("backing", { role: ["cow"] }, named);
  const implied = options.backing === undefined ? backing : undefined;
  if (writable) header = await prepareForWriting(context, nodeName, file, header);
  const { clusterSize, compression } = geometryOf(header);
  return await openImage({
    context,
    open,
    nodeName,
    header: await shown(context, file, options, header),
    file,
    data,
    backing,
    readOnly: open.readOnly,
    options: resolved,
    codec: new CompressedClusters(context, nodeName, clusterSize, compression),
    ...(cipher !== undefined && { cipher }),
    hooks: hooks(open, await originOf(open, header, implied, open.round)),
  });
}

function warnOfBitmaps(open: OpenContext, header: Header): void {
  const { log } = open.context;
  log.warn(
    header.version < 3
      ? `node '${open.nodeName}': bitmaps in an image of version 2 cannot be trusted`
      : `node '${open.nodeName}': a program lacking bitmap support modified this file, so all ` +
        "bitmaps are now considered inconsistent",
  );
}
