/**
 * All block drivers. A new one is a line here, its own file or folder, and a branch in the schema. What has many modules
 * is loaded when it is first needed.
 */
import { BlockdevOptionsQcow2 } from "../../qmp/schema/blockdev.ts";
import { type DriverDefinition, laterDriver } from "../mod.ts";
import { compress } from "./compress.ts";
import { file, hostCdrom, hostDevice } from "./file/mod.ts";
import type { ImageChecker } from "./checks.ts";
import { nullAio, nullCo } from "./null.ts";
import { type ImageMeasurer, measureRaw } from "./measures.ts";
import { raw } from "./raw.ts";

export type { MeasuredSource, Measurement } from "./measures.ts";
export type { CheckableImage, CheckFix, CheckResult } from "./checks.ts";

/** Every driver's definition, by QEMU's names. */
export const drivers: readonly DriverDefinition<unknown>[] = [
  file,
  hostDevice,
  hostCdrom,
  compress,
  laterDriver(
    { name: "qcow2", kind: "format", options: BlockdevOptionsQcow2, creates: true },
    async () => (await import("./qcow2/mod.ts")).qcow2 as DriverDefinition<unknown>,
  ),
  raw,
  nullCo,
  nullAio,
] as readonly DriverDefinition<unknown>[];

/** Formats whose images can be checked, by QEMU's names. */
export const checkers: ReadonlyMap<string, ImageChecker> = new Map([
  ["qcow2", {
    open: async (context, file) =>
      (await import("./qcow2/check/mod.ts")).qcow2Checker.open(context, file),
  }],
]);

/** Formats whose images can be measured before they are made, by QEMU's names. */
export const measurers: ReadonlyMap<string, ImageMeasurer> = new Map([
  [
    "qcow2",
    async (options, source) =>
      (await import("./qcow2/measure_options.ts")).measureQcow2(options, source),
  ],
  ["raw", measureRaw],
]);
