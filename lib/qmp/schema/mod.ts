/** The QAPI schema as data: all commands and events that the daemon does. */
import { bitmapCommandTable } from "./bitmaps.ts";
import { blockCommandTable, blockEventTable } from "./block.ts";
import { chardevCommands } from "./chardev.ts";
import { controlCommands } from "./control.ts";
import { exportCommandTable, exportEventTable, nbdCommandTable } from "./export.ts";
import { jobCommandTable, jobEventTable } from "./job.ts";
import { objectCommands } from "./qom.ts";
import { reloadCommands } from "./reload.ts";
import { statusCommands } from "./status.ts";
import { threadCommands } from "./thread.ts";
import { traceCommands } from "./trace.ts";
import type { CommandTable, EventTable } from "./registry.ts";

/** Every command, by feature. */
export const allCommands: CommandTable = {
  ...controlCommands,
  ...blockCommandTable,
  ...bitmapCommandTable,
  ...jobCommandTable,
  ...exportCommandTable,
  ...nbdCommandTable,
  ...chardevCommands,
  ...objectCommands,
  ...threadCommands,
  ...traceCommands,
  ...statusCommands,
  ...reloadCommands,
};

/** Every event. */
export const allEvents: EventTable = {
  ...blockEventTable,
  ...jobEventTable,
  ...exportEventTable,
};
