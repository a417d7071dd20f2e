/** `qsd status SOCKET`. */
import type { Context } from "../sys/mod.ts";
import type { Terminal } from "./terminal.ts";

/** How it is used. */
export const statusUsage = "";

/** Runs it; returns the exit status. Throws CommandError. */
export function statusCommand(_c: Context, _t: Terminal, _a: readonly string[]): Promise<number> {
  return Promise.resolve(1);
}
