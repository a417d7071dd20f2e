/**
 * `file`, `host_device`, `host_cdrom`: images and disks of the host.
 *
 * Options as in QEMU (qsd-facts 3.8, drivers.md). drop-cache and x-check-cache-dropped speak of the moment when an
 * image is handed over by live migration, which a storage daemon never sees; they are kept and have no other effect.
 */
import { CommandError } from "../../../base/mod.ts";
import { BlockdevOptionsFile } from "../../../qmp/schema/blockdev.ts";
import { defineDriver, type DriverDefinition, type OpenContext, Perm } from "../../mod.ts";
import { chooseEngine } from "./engines.ts";
import { FileInstance, type FileOptions, nativeNeedsDirect, stateOf } from "./instance.ts";
import { type DriverName, openFile } from "./open.ts";

export { FileInstance } from "./instance.ts";

async function open(
  driver: DriverName,
  open: OpenContext,
  options: FileOptions,
): Promise<FileInstance> {
  const manager = options["pr-manager"];
  if (manager !== undefined) {
    throw new CommandError(`No persistent reservation manager with id '${manager}'`);
  }
  if (options.aio === "native" && !open.cache.direct) throw nativeNeedsDirect();
  const mode = stateOf(open, Perm.none);
  const file = await openFile(open.context, driver, options.filename, mode);
  const engine = chooseEngine(open.context, open.nodeName, options);
  try {
    return new FileInstance(open, driver, options, file, engine);
  } catch (error) {
    await engine.close();
    open.context.sys.close(file.fd);
    throw error;
  }
}

function define(name: DriverName): DriverDefinition<FileOptions> {
  return defineDriver<FileOptions>({
    name,
    kind: "protocol",
    options: BlockdevOptionsFile as DriverDefinition<FileOptions>["options"],
    open: (context, options) => open(name, context, options),
  });
}

/** QEMU driver `file`: a regular file. */
export const file: DriverDefinition<FileOptions> = define("file");
/** QEMU driver `host_device`: a block or character device. */
export const hostDevice: DriverDefinition<FileOptions> = define("host_device");
/** QEMU driver `host_cdrom`: a drive whose media come and go. */
export const hostCdrom: DriverDefinition<FileOptions> = define("host_cdrom");
