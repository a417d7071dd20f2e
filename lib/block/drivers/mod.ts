/** All block drivers. A new one is a line here, its own file or folder, and a branch in the schema. */
import type { DriverDefinition } from "../mod.ts";
import { compress } from "./compress.ts";
import { file, hostCdrom, hostDevice } from "./file/mod.ts";
import { nullAio, nullCo } from "./null.ts";
import { raw } from "./raw.ts";

/** Every driver's definition, by QEMU's names. */
export const drivers: readonly DriverDefinition<unknown>[] = [
  file,
  hostDevice,
  hostCdrom,
  compress,
  raw,
  nullCo,
  nullAio,
] as readonly DriverDefinition<unknown>[];
