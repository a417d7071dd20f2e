/** Measuring images that are to be made: what formats that can tell offer. Sizes in bytes. */
import { CommandError } from "../../base/mod.ts";

/** What is to be converted. */
export interface MeasuredSource {
  /** Length of the virtual disk. */
  readonly size: number;
  /** Bytes of units of `unit` bytes with data in them, over all backing files. */
  data(unit: number): Promise<number>;
  /** Its persistent bitmaps; undefined where there cannot be any. */
  readonly bitmaps: readonly { readonly name: string; readonly granularity: number }[] | undefined;
}

/** What `qemu-img measure` prints. */
export interface Measurement {
  /** Bytes that the file takes with the data that is there. */
  readonly required: number;
  /** Bytes when all of the disk was written. */
  readonly fullyAllocated: number;
  /** Bytes of the source's bitmaps, if they can be copied. */
  readonly bitmaps?: number;
}

/** Measures an image with these options, by qemu-img's names. Throws CommandError. */
export type ImageMeasurer = (
  options: ReadonlyMap<string, string>,
  source: MeasuredSource,
) => Promise<Measurement>;

/** The file is the disk. */
export function measureRaw(
  options: ReadonlyMap<string, string>,
  { size }: MeasuredSource,
): Promise<Measurement> {
  for (const name of options.keys()) {
    if (["size", "preallocation", "nocow", "extent_size_hint"].includes(name)) continue;
    throw new CommandError(`Invalid parameter '${name}'`, "GenericError", [
      "PROGRAM: Invalid options for file format 'raw'",
    ]);
  }
  return Promise.resolve({ required: size, fullyAllocated: size });
}
