/** `x-qsd-reload`, a command of our own: --config's files are read again. */
import { array, command, type Infer, int, opt, str, struct } from "./core.ts";
import { BlockExportRemoveMode } from "./export.ts";

/** What was done, as "blockdev:disk", "export:e"; `unchanged` is a count. */
export const XQsdReloadReport = struct("XQsdReloadReport", {
  added: array(str),
  removed: array(str),
  /** Changed in place: clients noticed nothing. */
  reopened: array(str),
  /** Removed and made again, since they changed or stand on something that did. */
  replaced: array(str),
  unchanged: int,
});
/** As XQsdReloadReport's value. */
export type XQsdReloadReportValue = Infer<typeof XQsdReloadReport>;

/** The command. */
export const reloadCommands = {
  "x-qsd-reload": command(
    struct("x-qsd-reload-arg", { mode: opt(BlockExportRemoveMode) }),
    XQsdReloadReport,
    {
      features: ["unstable"],
      doc:
        "Reads the files of --config again; adds, removes and changes only what differs. With mode=safe (the " +
        "default) exports that clients use are left alone: if one would have to go, nothing is changed.",
    },
  ),
} as const;
