/** User-creatable objects (QAPI qom.json, crypto.json). Only types that work are listed. */
import { bool, command, empty, enumeration, type Infer, opt, str, struct, union } from "./core.ts";

export const QCryptoSecretFormat = enumeration("QCryptoSecretFormat", ["raw", "base64"]);
export const SecretProperties = struct("SecretProperties", {
  loaded: opt(bool, { features: ["deprecated"] }),
  format: opt(QCryptoSecretFormat),
  keyid: opt(str),
  iv: opt(str),
  data: opt(str),
  file: opt(str),
});
export type SecretPropertiesValue = Infer<typeof SecretProperties>;

export const ObjectType = enumeration("ObjectType", ["secret"]);
/** `--object` and object-add. */
export const ObjectOptions = union(
  "ObjectOptions",
  { "qom-type": ObjectType, id: str },
  "qom-type",
  { secret: SecretProperties },
);
export type ObjectOptionsValue = Infer<typeof ObjectOptions>;

/** Commands on objects. */
export const objectCommands = {
  "object-add": command(ObjectOptions, empty, { doc: "Makes an object." }),
  "object-del": command(struct("q_obj_object-del-arg", { id: str }), empty, {
    doc: "Removes an object that nothing uses.",
  }),
} as const;
