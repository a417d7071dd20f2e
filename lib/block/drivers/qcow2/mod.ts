/** `qcow2`: the format of QEMU with backing files, snapshots, compression. Read types.ts first. */
import { BlockError, CommandError } from "../../../base/mod.ts";
import { BlockdevOptionsQcow2 } from "../../../qmp/schema/blockdev.ts";
import { defineDriver, type DriverDefinition, type OpenContext } from "../../mod.ts";
import { amendImage } from "./amend.ts";
import { Qcow2Bitmaps } from "./bitmaps.ts";
import { createImage } from "./create.ts";
import { Bounds } from "./format.ts";
import { imageFacts, type Origin } from "./info.ts";
import { type CipherSource, headerArrived, openNode, originOf } from "./open.ts";
import type { Qcow2Options } from "./options.ts";
import { prepareReopen } from "./reopen.ts";
import type { ImageHooks, OpenedImage } from "./types.ts";

function hooksOf(open: OpenContext, opened: Origin, options: Qcow2Options): ImageHooks {
  let origin = opened;
  const snapshot = options["x-qsd-snapshot"];
  return {
    facts: (image, round) => imageFacts(image, origin, round),
    prepareReopen: (image, next, given) => {
      const changed = given as Qcow2Options;
      if (changed["x-qsd-snapshot"] !== snapshot) {
        throw new CommandError("Cannot change the option 'x-qsd-snapshot'");
      }
      return prepareReopen(image, next, changed);
    },
    arrived: (image, header) => headerArrived(options, image, header),
    amend: amendImage,
    bitmaps: (image) => new Qcow2Bitmaps(image),
    async changeBackingFile(image, filename, format) {
      await changeBackingFile(image, filename, format);
      origin = await originOf(open, image.header);
    },
  };
}

/** change-backing-file: the name in the header. A format that is not given stays as it is. */
async function changeBackingFile(
  image: OpenedImage,
  filename: string,
  format: string | undefined,
): Promise<void> {
  const refuse = (why: string) =>
    new CommandError(`Could not change backing file to '${filename}': ${why}`);
  if (image.readOnly) throw refuse("Permission denied");
  if (new TextEncoder().encode(filename).length > Bounds.maxBackingName) {
    throw refuse("Invalid argument");
  }
  const none = filename === "";
  try {
    await image.updateHeader({
      backingFile: none ? undefined : filename,
      backingFormat: none ? undefined : format ?? image.header.backingFormat,
    });
  } catch (error) {
    if (error instanceof BlockError && error.errno === "ENOSPC") {
      throw refuse("No space left on device");
    }
    throw error;
  }
}

/** The driver, with the ciphers that `cipherOf` makes; absent: encrypted images are refused. */
export function qcow2With(cipherOf?: CipherSource): DriverDefinition<Qcow2Options> {
  return defineDriver<Qcow2Options>({
    name: "qcow2",
    kind: "format",
    options: BlockdevOptionsQcow2 as DriverDefinition<Qcow2Options>["options"],
    open: (open, options) =>
      openNode(open, options, (context, origin) => hooksOf(context, origin, options), cipherOf),
    create: createImage,
  });
}

/** QEMU driver `qcow2`. */
export const qcow2: DriverDefinition<Qcow2Options> = qcow2With();
