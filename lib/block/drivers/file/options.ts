/** The options of files, and which of them may change. */
import { CommandError } from "../../../base/mod.ts";
import { refuseChanges, refuseResets } from "../reopen.ts";

/** What blockdev-add said, as far as it matters after opening. */
export interface FileOptions {
  filename: string;
  locking?: "auto" | "on" | "off";
  aio?: "threads" | "native" | "io_uring";
  "aio-max-batch"?: number | bigint;
  [option: string]: unknown;
}

/** Options that blockdev-reopen cannot change, and those that it can but not take back. */
const FIXED = ["filename", "locking", "aio", "aio-max-batch", "pr-manager"];
const STICKY = ["drop-cache", "x-check-cache-dropped"];

/** Throws CommandError unless a node with `present` options can be given these. */
export function checkReopen(present: FileOptions, given: FileOptions): void {
  refuseMigration(given);
  refuseChanges(present, given, FIXED);
  refuseResets(present, given, STICKY);
}

/** Throws CommandError for options, given at opening or reopening, that could never have an effect here (mod.ts). */
export function refuseMigration(options: FileOptions): void {
  const refuse = (name: string, value: boolean) => {
    if (options[name] !== !value) return;
    const why = "it is about live migration, which a storage daemon does not take part in";
    throw new CommandError(`Parameter '${name}' can only be ${value}: ${why}`);
  };
  refuse("drop-cache", true);
  refuse("x-check-cache-dropped", false);
}
