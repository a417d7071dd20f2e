/** The header of a qcow2 image, as bytes. Pure. All offsets and lengths are in bytes. */
import { BlockError } from "../../../base/mod.ts";
import { serialiseExtensions } from "./extensions.ts";
import { Bounds, CompressionType, QCOW_MAGIC } from "./format.ts";
import { At, CRYPT_METHODS, type Header, NEW_HEADER_LENGTH } from "./header.ts";

/**
 * The first cluster of an image with this header: header, extensions, backing file name (not before `nameFrom`, where
 * it fits), zeroes. BlockError ENOSPC when they do not fit.
 */
export function serialiseHeader(header: Header, nameFrom = 0): Uint8Array {
  const cluster = new Uint8Array(2 ** header.clusterBits);
  const view = new DataView(cluster.buffer);
  view.setUint32(At.magic, QCOW_MAGIC);
  view.setUint32(At.version, header.version);
  view.setUint32(At.clusterBits, header.clusterBits);
  view.setBigUint64(At.size, BigInt(header.size));
  view.setUint32(At.cryptMethod, CRYPT_METHODS.indexOf(header.cryptMethod));
  view.setUint32(At.l1Size, header.l1Size);
  view.setBigUint64(At.l1Offset, BigInt(header.l1Offset));
  view.setBigUint64(At.refcountTableOffset, BigInt(header.refcountTableOffset));
  view.setUint32(At.refcountTableClusters, header.refcountTableClusters);
  view.setUint32(At.snapshotCount, header.snapshotCount);
  view.setBigUint64(At.snapshotsOffset, BigInt(header.snapshotsOffset));
  let at: number = Bounds.headerV2;
  if (header.version === 3) at = writeVersion3(view, cluster, header);
  const name = new TextEncoder().encode(header.backingFile ?? "");
  const extensions = extensionsThatFit(header, cluster.length - at - name.length);
  if (extensions === undefined) {
    throw new BlockError("ENOSPC", "The header does not fit into the first cluster");
  }
  cluster.set(extensions, at);
  if (header.backingFile !== undefined) {
    const nameAt = Math.max(at + extensions.length, nameFrom);
    cluster.set(name, nameAt);
    view.setBigUint64(At.backingOffset, BigInt(nameAt));
    view.setUint32(At.backingLength, name.length);
  }
  return cluster;
}

/** Whether the header fits into the first cluster. */
export function headerFits(header: Header): boolean {
  const name = new TextEncoder().encode(header.backingFile ?? "").length;
  const fields = header.version === 3 ? lengthOfVersion3(header) : Bounds.headerV2;
  return extensionsThatFit(header, 2 ** header.clusterBits - fields - name) !== undefined;
}

/** The extensions in at most `room` bytes; names of features, a comfort, are left out for it. */
function extensionsThatFit(header: Header, room: number): Uint8Array | undefined {
  const all = serialiseExtensions(header);
  if (all.length <= room) return all;
  const needed = serialiseExtensions({ ...header, featureTable: undefined });
  return needed.length <= room ? needed : undefined;
}

function lengthOfVersion3({ compressionType, headerLength }: Header): number {
  const zlib = compressionType === CompressionType.zlib;
  return Math.max(headerLength, zlib ? Bounds.headerV3 : NEW_HEADER_LENGTH);
}

/** The fields that version 2 does not have; returns the header's length. */
function writeVersion3(view: DataView, cluster: Uint8Array, header: Header): number {
  view.setBigUint64(At.incompatible, header.incompatibleFeatures);
  view.setBigUint64(At.compatible, header.compatibleFeatures);
  view.setBigUint64(At.autoclear, header.autoclearFeatures);
  view.setUint32(At.refcountOrder, header.refcountOrder);
  const length = lengthOfVersion3(header);
  view.setUint32(At.headerLength, length);
  if (length > At.compression) {
    view.setUint8(At.compression, header.compressionType);
    cluster.set(header.laterFields, At.laterFields);
  }
  return length;
}
