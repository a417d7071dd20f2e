/** Check and repair of qcow2 images. */
import type { ImageChecker } from "../../checks.ts";
import { MAX_HEADER_BYTES, parseHeader } from "../header.ts";
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
    await header();
    return { check: async (options) => await checkImage(file, await header(), options) };
  },
};
