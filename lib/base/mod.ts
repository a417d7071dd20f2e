/** Plain building blocks: no I/O, no Deno.*, nothing imported from outside this folder. */
export * from "./assert.ts";
export * from "./bytes.ts";
export * from "./chance.ts";
export * from "./errors.ts";
export * from "./identifier.ts";
export * from "./iovec.ts";
export * from "./maybe.ts";
export * from "./units.ts";
