/** `--image-opts`: an image as the options of its nodes, `driver=qcow2,file.filename=NAME`, as qemu-img takes it. */
import { CommandError } from "../base/mod.ts";
import { drivers } from "../block/drivers/mod.ts";
import { parseKeyval } from "../cli/mod.ts";
import { BlockdevOptions, type BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { type KeyvalValue, parseBool, visitKeyval } from "../qmp/schema/visit_keyval.ts";
import type { Context } from "../sys/mod.ts";

/** Children that are nodes. */
const CHILDREN = ["file", "backing", "data-file"];

/** Options of the image, as text; those of a format's file are apart. */
export interface ImageOpts {
  /** Undefined: to be probed. A protocol has no file of its own: the image is that node. */
  readonly driver: string | undefined;
  /** The node below the format, or the whole. */
  readonly file: BlockdevOptionsValue;
  readonly isProtocol: boolean;
  /** Asked for the image as a whole. */
  readonly readOnly: boolean;
  readonly forceShare: boolean;
  /** The format's own options, typed. Throws CommandError. */
  typed(driver: string): Record<string, unknown>;
}

/** Parses `text`. Throws CommandError. */
export function parseImageOpts(context: Context, text: string): ImageOpts {
  const { value } = parseKeyval(text, "file");
  const { driver, file } = value;
  if (driver === undefined && file === undefined) {
    throw new CommandError("Must specify either driver or file");
  }
  if (driver !== undefined) checkDriver(driver);
  const on = (name: string) => parseBool(String(value[name] ?? "off")) === true;
  const common = { readOnly: on("read-only"), forceShare: on("force-share") };
  const isProtocol = driver !== undefined &&
    drivers.some(({ name, kind }) => name === driver && kind === "protocol");
  if (isProtocol) {
    const whole = typed(driver as string, value, "protocol");
    return { ...common, driver: driver as string, file: whole, isProtocol, typed: () => ({}) };
  }
  if (file === undefined) throw new CommandError('A block device must be specified for "file"');
  if (!isObject(file)) {
    throw new CommandError(`Cannot find device='${String(file)}' nor node-name='${String(file)}'`);
  }
  const whole = withDrivers(context, value);
  const below = whole["file"] as { [key: string]: KeyvalValue };
  return {
    ...common,
    driver: driver as string | undefined,
    file: typed(String(below["driver"]), below, "protocol"),
    isProtocol,
    typed: (name) => {
      const { file: _, ...own } = typed(name, { ...whole, driver: name }, "format");
      return own;
    },
  };
}

function isObject(value: KeyvalValue | undefined): value is { [key: string]: KeyvalValue } {
  return typeof value === "object" && !Array.isArray(value);
}

function checkDriver(driver: KeyvalValue): void {
  if (drivers.some(({ name }) => name === driver)) return;
  throw new CommandError(`Unknown driver '${String(driver)}'`);
}

/** Nodes with a file name and no driver are files, or devices. */
function withDrivers(
  context: Context,
  value: { [key: string]: KeyvalValue },
): { [key: string]: KeyvalValue } {
  const whole = { ...value };
  for (const name of CHILDREN) {
    const child = whole[name];
    if (!isObject(child)) continue;
    const inner = withDrivers(context, child as { [key: string]: KeyvalValue });
    const { driver, filename } = inner;
    if (driver !== undefined) checkDriver(driver);
    else if (typeof filename === "string") {
      const stat = context.sys.stat(filename);
      const isDevice = typeof stat === "object" && stat.kind === "block";
      inner["driver"] = isDevice ? "host_device" : "file";
    }
    whole[name] = inner;
  }
  return whole;
}

/** The options as values, in the original's words where there is one too many. */
function typed(
  driver: string,
  value: { [key: string]: KeyvalValue },
  kind: "format" | "protocol",
): BlockdevOptionsValue {
  try {
    return visitKeyval(BlockdevOptions, value) as BlockdevOptionsValue;
  } catch (error) {
    const option = error instanceof CommandError
      ? /^Parameter '([^'.]+)' is unexpected$/.exec(error.message)?.[1]
      : undefined;
    if (option === undefined) throw error;
    throw new CommandError(
      kind === "format"
        ? `Block format '${driver}' does not support the option '${option}'`
        : `Block protocol '${driver}' doesn't support the option '${option}'`,
    );
  }
}
