/** Node's crypto module, loaded when it is first needed: loading takes 20 to 30 ms, which a start should not pay. */
import type * as Crypto from "node:crypto";

/** What Deno offers of Node's `process`. */
interface Builtins {
  getBuiltinModule(name: "node:crypto"): typeof Crypto;
}

/** The module `node:crypto`. */
export function loadCrypto(): typeof Crypto {
  return (globalThis as unknown as { process: Builtins }).process.getBuiltinModule("node:crypto");
}
