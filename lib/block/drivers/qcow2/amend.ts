/** x-blockdev-amend: only encryption can be changed, so that there is nothing to change while there is none. */
import { CommandError } from "../../../base/mod.ts";
import type { OpenedImage } from "./types.ts";

/** Changes an image as BlockdevAmendOptionsQcow2 says. Nothing given: nothing to do. */
export function amendImage(
  image: OpenedImage,
  options: Readonly<Record<string, unknown>>,
): void {
  if (options["encrypt"] === undefined) return;
  if (image.header.cryptMethod === "none") {
    throw new CommandError("image is not encrypted, can't amend");
  }
  throw new CommandError("Key slots of encrypted images cannot be changed yet");
}
