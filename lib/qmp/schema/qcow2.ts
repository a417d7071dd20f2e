/** qcow2's own types beside its open options (QAPI block-core): creating, amending, information. */
import {
  array,
  bool,
  enumeration,
  type Infer,
  int,
  opt,
  size,
  str,
  struct,
  uint32,
  union,
} from "./core.ts";
import {
  BlockdevDriver,
  BlockdevQcow2EncryptionFormat,
  BlockdevRef,
  PreallocMode,
  QCryptoBlockOptionsQCow,
} from "./blockdev.ts";
import {
  QCryptoBlockAmendOptionsLUKS,
  QCryptoBlockCreateOptionsLUKS,
  QCryptoBlockFormat,
  QCryptoBlockInfoLUKS,
} from "./crypto.ts";

export const BlockdevQcow2Version = enumeration("BlockdevQcow2Version", ["v2", "v3"]);
export const Qcow2CompressionType = enumeration("Qcow2CompressionType", ["zlib", "zstd"]);

/** How a new image is encrypted. */
export const QCryptoBlockCreateOptions = union(
  "QCryptoBlockCreateOptions",
  { format: QCryptoBlockFormat },
  "format",
  { qcow: QCryptoBlockOptionsQCow, luks: QCryptoBlockCreateOptionsLUKS },
);

/** A new qcow2 image in `file`, which exists. Sizes in bytes. */
export const BlockdevCreateOptionsQcow2 = struct("BlockdevCreateOptionsQcow2", {
  file: BlockdevRef,
  "data-file": opt(BlockdevRef),
  "data-file-raw": opt(bool),
  "extended-l2": opt(bool),
  size,
  version: opt(BlockdevQcow2Version),
  "backing-file": opt(str),
  "backing-fmt": opt(BlockdevDriver),
  encrypt: opt(QCryptoBlockCreateOptions, { hidden: true }),
  "cluster-size": opt(size),
  preallocation: opt(PreallocMode),
  "lazy-refcounts": opt(bool),
  "refcount-bits": opt(int),
  "compression-type": opt(Qcow2CompressionType),
});
export type BlockdevCreateOptionsQcow2Value = Infer<typeof BlockdevCreateOptionsQcow2>;

/** How the encryption of an image is changed. */
export const QCryptoBlockAmendOptions = union(
  "QCryptoBlockAmendOptions",
  { format: QCryptoBlockFormat },
  "format",
  { luks: QCryptoBlockAmendOptionsLUKS },
);
/** What can be changed of a qcow2 image. */
export const BlockdevAmendOptionsQcow2 = struct("BlockdevAmendOptionsQcow2", {
  encrypt: opt(QCryptoBlockAmendOptions, { hidden: true }),
});

export const Qcow2BitmapInfoFlags = enumeration("Qcow2BitmapInfoFlags", ["in-use", "auto"]);
/** A bitmap that is stored in an image. */
export const Qcow2BitmapInfo = struct("Qcow2BitmapInfo", {
  name: str,
  granularity: uint32,
  flags: array(Qcow2BitmapInfoFlags),
});
/** How an image is encrypted. */
export const ImageInfoSpecificQCow2Encryption = union(
  "ImageInfoSpecificQCow2Encryption",
  { format: BlockdevQcow2EncryptionFormat },
  "format",
  { luks: QCryptoBlockInfoLUKS },
);
/** What qcow2 tells about an image. */
export const ImageInfoSpecificQCow2 = struct("ImageInfoSpecificQCow2", {
  compat: str,
  "data-file": opt(str),
  "data-file-raw": opt(bool),
  "extended-l2": opt(bool),
  "lazy-refcounts": opt(bool),
  corrupt: opt(bool),
  "refcount-bits": int,
  encrypt: opt(ImageInfoSpecificQCow2Encryption, { hidden: true }),
  bitmaps: opt(array(Qcow2BitmapInfo)),
  "compression-type": Qcow2CompressionType,
});
export type ImageInfoSpecificQCow2Value = Infer<typeof ImageInfoSpecificQCow2>;

/** What a format tells about its image. */
export const ImageInfoSpecific = union(
  "ImageInfoSpecific",
  { type: enumeration("ImageInfoSpecificKind", ["qcow2"]) },
  "type",
  { qcow2: struct("ImageInfoSpecificQCow2Wrapper", { data: ImageInfoSpecificQCow2 }) },
);
export type ImageInfoSpecificValue = Infer<typeof ImageInfoSpecific>;
