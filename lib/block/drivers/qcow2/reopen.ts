/** New options for an open image (blockdev-reopen). */
import { CommandError } from "../../../base/mod.ts";
import type { OpenContext, ReopenChange } from "../../mod.ts";
import { Incompatible } from "./format.ts";
import { refuseCorrupt } from "./header.ts";
import { checkEncryption, namedBacking, needsPreparation, onlyRead } from "./open.ts";
import { type Qcow2Options, resolveOptions } from "./options.ts";
import type { OpenedImage } from "./types.ts";

/** Prepares the change; see DriverInstanceBase.prepareReopen. */
export async function prepareReopen(
  image: OpenedImage,
  next: OpenContext,
  options: Qcow2Options,
): Promise<ReopenChange> {
  const { header } = image;
  await next.child("file", { role: ["data", "metadata", "primary"] });
  if (!next.readOnly) {
    refuseCorrupt(header);
    if (options["x-qsd-snapshot"] !== undefined) throw onlyRead();
  }
  checkEncryption(options, header);
  const resolved = resolveOptions(options, header, next.discard);
  if ((header.incompatibleFeatures & Incompatible.externalData) !== 0n) {
    await next.optionalChild("data-file", { role: ["data"] });
  } else if (options["data-file"] !== undefined) {
    throw new CommandError("Cannot change the option 'data-file'");
  }
  const backing = await next.namedChild("backing", { role: ["cow"] }, namedBacking(header));
  const { readOnly: before } = image;
  // What can fail of going read-only fails now.
  if (next.readOnly && !before) await image.commit();
  return {
    async commit() {
      await image.configure(resolved, next.readOnly);
      // The edge that the image has leads to the new node now, unless there is none, or was none.
      if ((backing === undefined) !== (image.backing === undefined)) image.setBacking(backing);
    },
    async finish() {
      if (next.readOnly || !before || !needsPreparation(image.header)) return;
      try {
        await image.activate();
      } catch (error) {
        await image.configure(resolved, true);
        throw error;
      }
    },
    abort() {},
  };
}
