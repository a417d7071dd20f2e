/** Steps that several suites take. */
import type { Step } from "./mould.ts";

/** Asks for a property of an object. */
export const qomGet = (path: string, property: string): Step => ({
  execute: "qom-get",
  arguments: { path, property },
});

/** Sets one. */
export const qomSet = (path: string, property: string, value: unknown): Step => ({
  execute: "qom-set",
  arguments: { path, property, value },
});
