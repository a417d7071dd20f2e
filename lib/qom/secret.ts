/**
 * The object `secret`: bytes that others use as a password or key. Given as they are or in base64, in the option
 * or in a file, and perhaps encrypted (AES-256-CBC) with another secret.
 */
import { CommandError } from "../base/mod.ts";
import type { SecretPropertiesValue } from "../qmp/schema/qom.ts";
import { loadCrypto } from "../sys/mod.ts";

/** What a secret needs of its surroundings. */
export interface SecretSources {
  /** The bytes of another secret. Throws CommandError. */
  readonly secret: (id: string) => Uint8Array;
  /** A file's bytes. Throws CommandError. */
  readonly readFile: (path: string) => Uint8Array;
}

const KEY_BYTES = 32;
const BLOCK_BYTES = 16;

/** The secret's bytes. Throws CommandError with QEMU's text. */
export function loadSecret(properties: SecretPropertiesValue, sources: SecretSources): Uint8Array {
  const { data, file, keyid } = properties;
  if (data !== undefined && file !== undefined) {
    throw new CommandError("'file' and 'data' are mutually exclusive");
  }
  let bytes: Uint8Array;
  if (file !== undefined) bytes = sources.readFile(file);
  else if (data !== undefined) bytes = new TextEncoder().encode(data);
  else throw new CommandError("Either 'file' or 'data' must be provided");
  if (properties.format === "base64") bytes = decodeBase64(new TextDecoder().decode(bytes));
  return keyid === undefined ? bytes : decrypt(bytes, sources.secret(keyid), properties.iv);
}

/** White space is skipped; an incomplete group at the end is dropped, as in the original. */
function decodeBase64(text: string): Uint8Array {
  if (!/^[A-Za-z0-9+/=\r\n]*$/.test(text)) {
    throw new CommandError("Base64 data contains invalid characters");
  }
  const symbols = text.replace(/[\r\n]/g, "").replace(/=+$/, "");
  const whole = symbols.length % 4 === 1 ? symbols.slice(0, -1) : symbols;
  return Uint8Array.from(
    atob(whole.replace(/=/g, "A")),
    (char) => char.charCodeAt(0),
  );
}

function decrypt(bytes: Uint8Array, key: Uint8Array, ivText: string | undefined): Uint8Array {
  if (key.length !== KEY_BYTES) {
    throw new CommandError(`Key should be ${KEY_BYTES} bytes in length`);
  }
  if (ivText === undefined) throw new CommandError("IV is required to decrypt secret");
  const iv = decodeBase64(ivText);
  if (iv.length !== BLOCK_BYTES) {
    throw new CommandError(`IV should be ${BLOCK_BYTES} bytes in length not ${iv.length}`);
  }
  if (bytes.length === 0 || bytes.length % BLOCK_BYTES !== 0) {
    throw new CommandError(
      `Length ${bytes.length} must be a multiple of block size ${BLOCK_BYTES}`,
    );
  }
  const cipher = loadCrypto().createDecipheriv("aes-256-cbc", key, iv).setAutoPadding(false);
  const plain = new Uint8Array([...cipher.update(bytes), ...cipher.final()]);
  const padding = plain[plain.length - 1]!;
  if (padding === 0 || padding > BLOCK_BYTES) {
    throw new CommandError(
      `Incorrect number of padding bytes (${padding}) found on decrypted data`,
    );
  }
  return plain.subarray(0, plain.length - padding);
}
