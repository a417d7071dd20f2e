/** All block drivers. A new one is a line here, its own file or folder, and a branch in the schema. */
import type { DriverDefinition } from "../mod.ts";
import { compress } from "./compress.ts";
import { file, hostCdrom, hostDevice } from "./file/mod.ts";
import type { ImageChecker } from "./checks.ts";
import { nullAio, nullCo } from "./null.ts";
import { qcow2Checker } from "./qcow2/check/mod.ts";
import { type ImageMeasurer, measureRaw } from "./measures.ts";
import { measureQcow2 } from "./qcow2/measure_options.ts";
import { qcow2 } from "./qcow2/mod.ts";
import { raw } from "./raw.ts";

export type { ImageMeasurer, MeasuredSource, Measurement } from "./measures.ts";
export type { CheckableImage, CheckedNode, CheckFix, CheckResult, ImageChecker } from "./checks.ts";

/** Every driver's definition, by QEMU's names. */
export const drivers: readonly DriverDefinition<unknown>[] = [
  file,
  hostDevice,
  hostCdrom,
  compress,
  qcow2,
  raw,
  nullCo,
  nullAio,
] as readonly DriverDefinition<unknown>[];

/** Formats whose images can be checked, by QEMU's names. */
export const checkers: ReadonlyMap<string, ImageChecker> = new Map([["qcow2", qcow2Checker]]);

/** Formats whose images can be measured before they are made, by QEMU's names. */
export const measurers: ReadonlyMap<string, ImageMeasurer> = new Map([
  ["qcow2", measureQcow2],
  ["raw", measureRaw],
]);
