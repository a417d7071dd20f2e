/** What each option of pass 2 does. */
import { CommandError } from "../base/mod.ts";
import { chardevHelp } from "../chardev/mod.ts";
import { type Option, parseObject, parseQemuOpts, parseValue } from "../cli/mod.ts";
import { BlockdevOptions, type BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { BlockExportOptions, NbdServerOptions } from "../qmp/schema/export.ts";
import { MonitorOptions, type MonitorOptionsValue } from "../qmp/schema/monitor.ts";
import { writeStdout } from "../sys/mod.ts";
import type { Configuration, Makers } from "./config_reload.ts";
import type { LocatedLog } from "./located_log.ts";
import type { Monitor } from "../qmp/mod.ts";
import type { Services } from "./services.ts";
import type { Tracing } from "./trace.ts";

/** What options act on. */
export interface Applying {
  readonly services: Services;
  readonly configuration: Configuration;
  readonly tracing: Tracing;
  readonly log: LocatedLog;
  readonly daemonize: boolean;
}

/**
 * Does what the option says. Returns a text to print when that is all the daemon is to do (help). Throws
 * CommandError.
 */
export async function applyOption(
  { name, argument }: Option,
  applying: Applying,
): Promise<string | undefined> {
  const { services } = applying;
  switch (name) {
    case "blockdev": {
      const value = parseValue(argument, "driver", BlockdevOptions);
      await services.graph.add(value as BlockdevOptionsValue, { monitorOwned: true });
      return undefined;
    }
    case "nbd-server":
      await services.nbd.start(parseValue(argument, undefined, NbdServerOptions));
      return undefined;
    case "export":
      await services.exports.add(parseValue(argument, "type", BlockExportOptions));
      return undefined;
    case "config":
      await applying.configuration.load(argument);
      return undefined;
    case "chardev":
      return await makeChardev(argument, applying);
    case "monitor":
      makeMonitor(parseValue(argument, "chardev", MonitorOptions), services);
      return undefined;
    case "object": {
      const parsed = parseObject(argument);
      if ("help" in parsed) return services.objects.classes.help(parsed.wanted);
      services.objects.add(parsed.options);
      return undefined;
    }
    case "trace":
      return applying.tracing.apply(argument, applying.log);
    case "positional":
      throw new CommandError("Unexpected argument");
    default:
      throw new Error(`unreachable: pass 1 lets --${name} through`);
  }
}

/** How --config makes what needs more than the services. */
export function configMakers(applying: Omit<Applying, "configuration" | "tracing">): Makers {
  const { services, log, daemonize } = applying;
  return {
    chardev: async (id, members, wait) => {
      const { id: _id, ...rest } = members;
      const options = Object.entries(rest).map(([key, value]) => ({ key, value }));
      // As on the command line the backend comes first.
      options.sort((a, b) => Number(b.key === "backend") - Number(a.key === "backend"));
      await services.chardevs.add({ id, options }, {
        daemonized: daemonize,
        stopped: wait ? services.stopRequested : Promise.resolve(),
        info: (line) => wait && log.info(line),
      });
    },
    monitor: (options) => makeMonitor(options, services),
  };
}

async function makeChardev(argument: string, applying: Applying): Promise<string | undefined> {
  const { services, log, daemonize } = applying;
  const parsed = parseQemuOpts(argument, "backend");
  if (parsed.help) {
    const first = parsed.options[0];
    return chardevHelp(first?.key === "backend" ? first.value : "");
  }
  for (const { message, hint } of parsed.warnings) {
    log.warn(message);
    log.hint(hint);
  }
  const { pty } = await services.chardevs.add(parsed, {
    daemonized: daemonize,
    stopped: services.stopRequested,
    info: (line) => log.info(line),
  });
  if (pty !== undefined) {
    writeStdout(`char device redirected to ${pty} (label ${parsed.id})\n`);
  }
  return undefined;
}

function makeMonitor(options: MonitorOptionsValue, services: Services): Monitor {
  if (options.mode === "readline" && services.chardevs.has(options.chardev)) {
    throw new CommandError("Only QMP is supported");
  }
  const name = options.id ?? options.chardev;
  return services.qmp.addMonitor(
    { name, pretty: options.pretty ?? false },
    (user) => services.chardevs.attach(options.chardev, user),
  );
}
