/** `qsd measure [OPTION]... [IMAGE]`: how large an image will be, with qemu-img's words. Sizes in bytes. */
import { alignDown, alignUp, CommandError, MAX_OFFSET, SECTOR } from "../base/mod.ts";
import { type BlockBackend, emptyStatus, type ImageFacts } from "../block/mod.ts";
import { drivers, type MeasuredSource, type Measurement, measurers } from "../block/drivers/mod.ts";
import { jsonObject, writeJson } from "../qmp/json/mod.ts";
import { parseSize } from "../qmp/schema/visit_keyval.ts";
import type { ImageInfoSpecificQCow2Value } from "../qmp/schema/qcow2.ts";
import type { Context } from "../sys/mod.ts";
import { makeObjects } from "./objects.ts";
import { imageGraph, openImage, useOf } from "./open.ts";
import { accessOf, type ImageAccess, type Output, outputIsJson, parseWords } from "./words.ts";

/** How it is used. */
export const measureUsage = `Usage: PROGRAM measure [OPTION]... [--size SIZE|IMAGE]
Tells how large an image file will be, as qemu-img measure does: one of that size, or one that
IMAGE is converted to.

  --size SIZE       length of the disk; suffixes k, M, G, T, P, E
  -O FORMAT         the format to be: raw (the default) or qcow2
  -o NAME=VALUE,... options of that format, as for qemu-img create
  -f FORMAT         the image's format; by default it is found out by its first bytes
  -l SNAPSHOT       measures an internal snapshot: an ID, a name, snapshot.id=ID or
                    snapshot.name=NAME
  --image-opts      IMAGE is options, as driver=qcow2,file.filename=NAME
  --object OBJECT   makes an object, as the daemon's option does
  -U                does not lock the image, nor cares for others' locks
  --output=human|json

Exit status: 0 when it was done, else 1.
`;

const names = {
  names: ["-O", "-o", "-f", "-l", "-U", "--size", "--output", "--image-opts", "--object"],
  withValue: ["-O", "-o", "-f", "-l", "--size", "--output", "--object"],
  long: { "--force-share": "-U" },
};

/** The command line, parsed. */
interface MeasureArguments extends ImageAccess {
  readonly image: string | undefined;
  readonly size: number | undefined;
  readonly from: string | undefined;
  readonly to: string;
  readonly options: ReadonlyMap<string, string>;
  readonly snapshot: string | undefined;
  readonly json: boolean;
}

function parse(args: readonly string[]): MeasureArguments {
  const words = parseWords(args, names);
  const { operands, given } = words;
  const last = (name: string) => given.get(name)?.at(-1);
  const size = last("--size");
  const json = outputIsJson(words);
  const [image] = operands;
  const bytes = size === undefined ? undefined : sizeOf(size);
  const access = accessOf(words);
  if (operands.length > 1) throw new CommandError("At most one filename argument is allowed.");
  if (image === undefined && (access.imageOpts || given.has("-f") || given.has("-l"))) {
    throw new CommandError("--image-opts, -f, and -l require a filename argument.");
  }
  if (size === undefined && image === undefined) {
    throw new CommandError("Either --size N or one filename must be specified.");
  }
  if (size !== undefined && image !== undefined) {
    throw new CommandError("--size N cannot be used together with a filename.");
  }
  return {
    image,
    size: bytes,
    from: last("-f"),
    to: last("-O") ?? "raw",
    options: optionsOf(given.get("-o") ?? []),
    snapshot: last("-l")?.replace(/^snapshot\.(id|name)=/, ""),
    json,
    ...access,
  };
}

function sizeOf(text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined) {
    throw new CommandError(
      "Invalid image size specified. You may use k, M, G, T, P or E suffixes for",
      "GenericError",
      ["PROGRAM: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes."],
    );
  }
  if (bytes >= 2n ** 63n) {
    throw new CommandError(
      "Invalid image size specified. Must be between 0 and 9223372036854775807.",
    );
  }
  if (bytes > BigInt(MAX_OFFSET)) {
    throw new CommandError(`Invalid image size specified. Must be between 0 and ${MAX_OFFSET}.`);
  }
  return Number(bytes);
}

/** `NAME=VALUE` after commas, which are doubled in values. */
function optionsOf(texts: readonly string[]): Map<string, string> {
  const options = new Map<string, string>();
  for (const [pair] of texts.join(",").matchAll(/(?:[^,]|,,)+/g)) {
    const equals = pair.indexOf("=");
    const name = equals < 0 ? pair : pair.slice(0, equals);
    const value = equals < 0 ? "on" : pair.slice(equals + 1).replaceAll(",,", ",");
    options.set(name, value);
  }
  return options;
}

/** Runs it; returns the exit status. Throws CommandError, with hints. */
export async function measureCommand(
  context: Context,
  _program: string,
  words: Output,
  args: readonly string[],
): Promise<number> {
  const given = parse(args);
  if (makeObjects(context, words, given.objects)) return 0;
  const measurer = measurers.get(given.to);
  if (measurer === undefined) {
    throw new CommandError(
      drivers.some(({ name }) => name === given.to)
        ? `Block driver '${given.to}' does not support size measurement`
        : `Unknown file format '${given.to}'`,
    );
  }
  const { image } = given;
  const result = image === undefined
    ? await measurer(given.options, nothing(given.size ?? 0))
    : await ofImage(context, { ...given, image }, (source) => measurer(given.options, source));
  words.out(given.json ? `${writeJson(asJson(result), true)}\n` : asText(result));
  return 0;
}

/** A disk without data. */
function nothing(size: number): MeasuredSource {
  return {
    size: alignUp(size, SECTOR),
    data: () => Promise.resolve(0),
    bitmaps: undefined,
  };
}

async function ofImage(
  context: Context,
  given: MeasureArguments & { readonly image: string },
  task: (source: MeasuredSource) => Promise<Measurement>,
): Promise<Measurement> {
  const { image, snapshot, from } = given;
  const graph = imageGraph(context);
  const use = useOf(context, { describe: "the measurement", image, writes: false }, given);
  const options = snapshot === undefined ? {} : { "x-qsd-snapshot": snapshot };
  try {
    const { backend, format } = await openImage(context, graph, { ...use, format: from }, options);
    try {
      if (snapshot !== undefined && format !== "qcow2") {
        throw new CommandError(
          `Failed to load snapshot: Block format '${format}' used by device '' does not ` +
            "support temporarily loading internal snapshots",
        );
      }
      const specific = (await backend.facts()).formatSpecific;
      return await task({
        size: alignUp(backend.size, SECTOR),
        data: (unit) => dataOf(backend, unit),
        bitmaps: bitmapsOf(specific),
      });
    } finally {
      await backend.detach();
    }
  } finally {
    await graph.closeAll();
  }
}

/** Old images cannot have any. */
function bitmapsOf(specific: ImageFacts["formatSpecific"] | undefined): MeasuredSource["bitmaps"] {
  if (specific?.type !== "qcow2" || specific.data["compat"] === "0.10") return undefined;
  const { bitmaps = [] } = specific.data as ImageInfoSpecificQCow2Value;
  return bitmaps.filter(({ flags }) => !flags.includes("in-use"));
}

/** Bytes of units with data in them. */
async function dataOf(backend: BlockBackend, unit: number): Promise<number> {
  const status = emptyStatus();
  const { size } = backend;
  let bytes = 0, counted = 0;
  for (let at = 0; at < size; at += status.length) {
    await backend.status(at, size - at, true, status);
    if (!status.data || status.zero) continue;
    const start = Math.max(counted, alignDown(at, unit));
    counted = alignUp(at + status.length, unit);
    if (counted > start) bytes += counted - start;
  }
  return bytes;
}

function asText({ required, fullyAllocated, bitmaps }: Measurement): string {
  const more = bitmaps === undefined ? "" : `bitmaps size: ${bitmaps}\n`;
  return `required size: ${required}\nfully allocated size: ${fullyAllocated}\n${more}`;
}

function asJson({ required, fullyAllocated, bitmaps }: Measurement) {
  const object = jsonObject();
  if (bitmaps !== undefined) object["bitmaps"] = bitmaps;
  object["required"] = required;
  object["fully-allocated"] = fullyAllocated;
  return object;
}
