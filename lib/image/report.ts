/** What a check found, in qemu-img's shapes. */
import type { CheckResult } from "../block/drivers/mod.ts";
import { type JsonObject, jsonObject } from "../qmp/json/mod.ts";

/** Exit status of a check that was done. */
export function checkStatus(result: CheckResult): number {
  if (result.checkErrors > 0) return 1;
  if (result.corruptions > 0) return 2;
  return result.leaks > 0 ? 3 : 0;
}

/** QAPI's ImageCheck: counts of zero are left out. */
export function checkJson(result: CheckResult, filename: string, format: string): JsonObject {
  const object = jsonObject();
  const some = (name: string, count: number) => {
    if (count !== 0) object[name] = count;
  };
  some("image-end-offset", result.imageEndOffset);
  some("compressed-clusters", result.compressedClusters);
  some("total-clusters", result.totalClusters);
  some("corruptions-fixed", result.corruptionsFixed);
  some("corruptions", result.corruptions);
  object["check-errors"] = result.checkErrors;
  some("leaks", result.leaks);
  some("leaks-fixed", result.leaksFixed);
  some("allocated-clusters", result.allocatedClusters);
  object.filename = filename;
  object.format = format;
  some("fragmented-clusters", result.fragmentedClusters);
  return object;
}

/** The same as text. */
export function checkText(result: CheckResult): string {
  const { corruptions, leaks, checkErrors } = result;
  const parts: string[] = [];
  if (corruptions + leaks + checkErrors === 0) parts.push("No errors were found on the image.\n");
  if (corruptions > 0) {
    parts.push(
      `\n${corruptions} errors were found on the image.\n` +
        "Data may be corrupted, or further writes to the image may corrupt it.\n",
    );
  }
  if (leaks > 0) {
    parts.push(
      `\n${leaks} leaked clusters were found on the image.\n` +
        "This means waste of disk space, but no harm to data.\n",
    );
  }
  if (checkErrors > 0) {
    parts.push(`\n${checkErrors} internal errors have occurred during the check.\n`);
  }
  const { totalClusters: total, allocatedClusters: allocated } = result;
  if (total > 0 && allocated > 0) {
    parts.push(
      `${allocated}/${total} = ${share(allocated, total)} allocated, ` +
        `${share(result.fragmentedClusters, allocated)} fragmented, ` +
        `${share(result.compressedClusters, allocated)} compressed clusters\n`,
    );
  }
  if (result.imageEndOffset > 0) parts.push(`Image end offset: ${result.imageEndOffset}\n`);
  return parts.join("");
}

/** Per cent with two digits, halves to the even one as C does it. */
function share(part: number, of: number): string {
  const cents = (part * 10000) / of;
  const tie = cents % 1 === 0.5 && cents % 2 < 1;
  return `${tie ? (Math.floor(cents) / 100).toFixed(2) : ((part * 100) / of).toFixed(2)}%`;
}

/** What was repaired, before the image is looked at again. */
export function repairText(result: CheckResult): string {
  return "The following inconsistencies were found and repaired:\n\n" +
    `    ${result.leaksFixed} leaked clusters\n    ${result.corruptionsFixed} corruptions\n\n` +
    "Double checking the fixed image now...\n";
}
