/** Check and repair of qcow2 images. */
import type { ImageChecker } from "../../checks.ts";
import { Autoclear, Incompatible } from "../format.ts";
import { badImage, type Header, MAX_HEADER_BYTES, parseHeader } from "../header.ts";
import { checkImage } from "./check.ts";
import { childFile } from "./child_file.ts";

export { checkImage, childFile };
export type { CheckFile, CheckResult } from "./types.ts";

/** Checks qcow2 images that nobody has open. The header is read anew each time: repairs change it. */
export const qcow2Checker: ImageChecker = {
  async open(context, node) {
    const file = childFile(context, node);
    const header = async () => {
      const bytes = new Uint8Array(Math.min(MAX_HEADER_BYTES, file.size));
      await file.read(0, bytes);
      return parseHeader(bytes, { forCheck: true });
    };
    refuseOddData(await header());
    return { check: async (options) => await checkImage(file, await header(), options) };
  },
};

/**
 * A mark about a data file that contradicts the rest of the header may be all that is damaged: with it no entry leads
 * to clusters of the image, and a repair would give all data back.
 */
function refuseOddData(header: Header): void {
  const external = (header.incompatibleFeatures & Incompatible.externalData) !== 0n;
  if (external && header.dataFile === undefined) {
    throw badImage("'data-file' is required for this image");
  }
  if (!external && (header.autoclearFeatures & Autoclear.rawExternalData) !== 0n) {
    throw badImage("data-file-raw requires a data file");
  }
}
