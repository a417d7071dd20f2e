/** What each option of pass 2 does. */
import { CommandError } from "../base/mod.ts";
import { BlockdevOptions, type BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { BlockExportOptions, NbdServerOptions } from "../qmp/schema/export.ts";
import { type Option, parseValue } from "./options.ts";
import type { Services } from "./services.ts";

/** Does what the option says. Throws CommandError; the caller adds which option it was. */
export async function applyOption(services: Services, option: Option): Promise<void> {
  switch (option.name) {
    case "blockdev": {
      const value = parseValue(option.argument, "driver", BlockdevOptions);
      await services.graph.add(value as BlockdevOptionsValue, { monitorOwned: true });
      return;
    }
    case "nbd-server":
      return await services.nbd.start(parseValue(option.argument, undefined, NbdServerOptions));
    case "export":
      await services.exports.add(parseValue(option.argument, "type", BlockExportOptions));
      return;
    default:
      throw new CommandError(`option ${option.typed} is not supported`);
  }
}
