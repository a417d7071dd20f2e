/**
 * `file`, `host_device`, `host_cdrom`: images and disks of the host.
 *
 * Options as in QEMU, with what this system refuses refused. drop-cache and
 * x-check-cache-dropped are about an image that live migration hands over while both hosts have it open: the page
 * cache is dropped when this side takes over. A storage daemon's images are its own from the start, and the
 * moment never comes; so the values that would ask for something else than the default are refused.
 */
import { CommandError } from "../../../base/mod.ts";
import { BlockdevOptionsFile } from "../../../qmp/schema/blockdev.ts";
import type { BlockdevCreateOptionsFileValue } from "../../../qmp/schema/job.ts";
import { defineDriver, type DriverDefinition, type OpenContext, Perm } from "../../mod.ts";
import { stateOf } from "./access.ts";
import { createFile } from "./create.ts";
import { chooseEngine } from "./engines.ts";
import { FileInstance } from "./instance.ts";
import { type DriverName, openFile } from "./open.ts";
import { type FileOptions, refuseMigration } from "./options.ts";

export { FileInstance } from "./instance.ts";

async function open(
  driver: DriverName,
  open: OpenContext,
  options: FileOptions,
): Promise<FileInstance> {
  const manager = options["pr-manager"];
  if (manager !== undefined) {
    throw new CommandError(`No persistent reservation manager with id '${String(manager)}'`);
  }
  if (options.aio === "native" && !open.cache.direct) {
    throw new CommandError(
      "aio=native was specified, but it requires cache.direct=on, which was not specified.",
    );
  }
  refuseMigration(options);
  if (open.handedOver !== undefined) {
    const engine = chooseEngine(open.context, open.nodeName, options);
    return FileInstance.takeOver(open, driver, options, engine, open.handedOver);
  }
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

function define(
  name: DriverName,
  create?: DriverDefinition<FileOptions>["create"],
): DriverDefinition<FileOptions> {
  return defineDriver<FileOptions>({
    name,
    kind: "protocol",
    options: BlockdevOptionsFile as DriverDefinition<FileOptions>["options"],
    open: (context, options) => open(name, context, options),
    ...(create && { create }),
  });
}

/** QEMU driver `file`: a regular file. */
export const file: DriverDefinition<FileOptions> = define(
  "file",
  (context, options) => createFile(context, options as unknown as BlockdevCreateOptionsFileValue),
);
/** QEMU driver `host_device`: a block or character device. */
export const hostDevice: DriverDefinition<FileOptions> = define("host_device");
/** QEMU driver `host_cdrom`: a drive whose media come and go. */
export const hostCdrom: DriverDefinition<FileOptions> = define("host_cdrom");
