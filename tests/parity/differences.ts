/** Intentional differences that several suites share. */
import { type Case, says } from "./mould.ts";

/** A command line that makes an IOThread, as one case: qsd has none yet. */
export const noIothread = (...args: string[]): Case => ({
  name: args.join(" "),
  args,
  differs: says(
    "a type whose feature is still to come is refused as one that was not built in",
    () => `qemu-storage-daemon: ${args.slice(0, 2).join(" ")}: invalid object type: iothread\n`,
  ),
});
