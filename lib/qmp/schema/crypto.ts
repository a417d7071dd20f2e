/** Encryption of images (QAPI crypto.json). */
import { array, bool, enumeration, int, opt, str, struct } from "./core.ts";
import { QCryptoBlockOptionsLUKS } from "./blockdev.ts";

export const QCryptoCipherAlgorithm = enumeration("QCryptoCipherAlgorithm", [
  "aes-128",
  "aes-192",
  "aes-256",
  "des",
  "3des",
  "cast5-128",
  "serpent-128",
  "serpent-192",
  "serpent-256",
  "twofish-128",
  "twofish-192",
  "twofish-256",
]);
export const QCryptoCipherMode = enumeration("QCryptoCipherMode", ["ecb", "cbc", "xts", "ctr"]);
export const QCryptoIVGenAlgorithm = enumeration("QCryptoIVGenAlgorithm", [
  "plain",
  "plain64",
  "essiv",
]);
export const QCryptoHashAlgorithm = enumeration("QCryptoHashAlgorithm", [
  "md5",
  "sha1",
  "sha224",
  "sha256",
  "sha384",
  "sha512",
  "ripemd160",
]);
export const QCryptoBlockFormat = enumeration("QCryptoBlockFormat", ["qcow", "luks"]);

/** A new LUKS container. `iter-time` in milliseconds. */
export const QCryptoBlockCreateOptionsLUKS = struct("QCryptoBlockCreateOptionsLUKS", {
  ...QCryptoBlockOptionsLUKS.members,
  "cipher-alg": opt(QCryptoCipherAlgorithm),
  "cipher-mode": opt(QCryptoCipherMode),
  "ivgen-alg": opt(QCryptoIVGenAlgorithm),
  "ivgen-hash-alg": opt(QCryptoHashAlgorithm),
  "hash-alg": opt(QCryptoHashAlgorithm),
  "iter-time": opt(int),
});

export const QCryptoBlockLUKSKeyslotState = enumeration("QCryptoBlockLUKSKeyslotState", [
  "active",
  "inactive",
]);
/** A change of key slots. */
export const QCryptoBlockAmendOptionsLUKS = struct("QCryptoBlockAmendOptionsLUKS", {
  state: QCryptoBlockLUKSKeyslotState,
  "new-secret": opt(str),
  "old-secret": opt(str),
  keyslot: opt(int),
  "iter-time": opt(int),
  secret: opt(str),
});

/** A key slot. Bytes. */
export const QCryptoBlockInfoLUKSSlot = struct("QCryptoBlockInfoLUKSSlot", {
  active: bool,
  iters: opt(int),
  stripes: opt(int),
  "key-offset": int,
});
/** A LUKS container. Bytes. */
export const QCryptoBlockInfoLUKS = struct("QCryptoBlockInfoLUKS", {
  "cipher-alg": QCryptoCipherAlgorithm,
  "cipher-mode": QCryptoCipherMode,
  "ivgen-alg": QCryptoIVGenAlgorithm,
  "ivgen-hash-alg": opt(QCryptoHashAlgorithm),
  "hash-alg": QCryptoHashAlgorithm,
  "payload-offset": int,
  "master-key-iters": int,
  uuid: str,
  slots: array(QCryptoBlockInfoLUKSSlot),
});
