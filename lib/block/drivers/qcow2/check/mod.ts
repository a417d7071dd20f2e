/** Check and repair of qcow2 images. */
export { checkImage } from "./check.ts";
export { childFile } from "./child_file.ts";
export type { CheckFile, CheckFix, CheckOptions, CheckResult } from "./types.ts";
