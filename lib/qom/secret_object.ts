/** The class `secret`: its properties, and how an object of it is made. The bytes are read once (secret.ts). */
import { CommandError } from "../base/mod.ts";
import { str } from "../qmp/schema/core.ts";
import { QCryptoSecretFormat, type SecretPropertiesValue } from "../qmp/schema/qom.ts";
import { type Context, errnoText, O } from "../sys/mod.ts";
import { USER_CREATABLE } from "./classes.ts";
import { loadSecret } from "./secret.ts";
import type { ObjectKind, Property, QomClass, QomObject } from "./types.ts";

/** Longest secret file, in bytes. */
const MAX_FILE = 1 << 20;

const text = (name: string): Property => ({ name, type: "string", writable: str, creatable: true });

/** `secret` and what it inherits from. */
export const secretClasses: readonly QomClass[] = [
  {
    name: "secret_common",
    parent: "object",
    abstract: true,
    implements: [USER_CREATABLE],
    properties: [
      text("iv"),
      text("keyid"),
      { name: "loaded", type: "bool", creatable: false },
      {
        name: "format",
        type: "QCryptoSecretFormat",
        writable: QCryptoSecretFormat,
        creatable: true,
      },
    ],
  },
  { name: "secret", parent: "secret_common", properties: [text("file"), text("data")] },
];

/** As in QEMU, properties may be set later and read back, but the bytes stay those of the beginning. */
class SecretObject implements QomObject {
  readonly #values: Map<string, unknown>;

  constructor(readonly secret: Uint8Array, options: SecretPropertiesValue) {
    const { iv = "", keyid = "", format = "raw", file = "", data = "" } = options;
    this.#values = new Map(Object.entries({ iv, keyid, format, file, data, loaded: true }));
  }

  get(property: string): unknown {
    return this.#values.get(property);
  }
  set(property: string, value: unknown): void {
    this.#values.set(property, value);
  }
}

/** Makes secrets; `secret` finds the one that decrypts another. */
export function secretKind(
  context: Pick<Context, "sys">,
  secret: (id: string) => Uint8Array,
): ObjectKind<SecretPropertiesValue> {
  const sources = { secret, readFile: (path: string) => readFile(context, path) };
  return {
    type: "secret",
    make(_id, options) {
      // In the schema it is a member of object-add all the same.
      if (options.loaded !== undefined) {
        throw new CommandError("Property 'secret.loaded' is not writable");
      }
      return new SecretObject(loadSecret(options, sources), options);
    },
  };
}

function readFile({ sys }: Pick<Context, "sys">, path: string): Uint8Array {
  const failed = (what: string, rc: number) =>
    new CommandError(`Unable to read ${path}: ${what}: ${errnoText(-rc)}`);
  const fd = sys.open(path, O.RDONLY | O.CLOEXEC);
  if (fd < 0) throw failed(`Failed to open file “${path}”`, fd);
  const memory = sys.allocate(MAX_FILE + 1);
  try {
    let length = 0;
    while (length <= MAX_FILE) {
      const got = sys.read(fd, memory.address + length, MAX_FILE + 1 - length);
      if (got < 0) throw failed(`Failed to read from file “${path}”`, got);
      if (got === 0) return memory.bytes.slice(0, length);
      length += got;
    }
    throw new CommandError(`Unable to read ${path}: it has more than ${MAX_FILE} bytes`);
  } finally {
    memory.unmap();
    sys.close(fd);
  }
}
