/** Machines for tests: as the real one, with faults. */
export * from "./faults.ts";
