/**
 * The gate: everything that an image's own header asks to have opened (a backing file, an external data file)
 * passes here, and `ImpliedPolicy` says what may. An image comes from anywhere, so a name in it is not trusted:
 *
 * - A backing file is opened read-only, whatever the name says. It may be a plain name (relative to the image's
 *   directory), a `protocol:` name, or `json:` options. These may not refer to nodes of this daemon or name new
 *   ones: that is for its user, not for an image.
 * - A data file is a plain file, whatever its name looks like (CVE-2024-4467: no `json:`, no protocol).
 * - A format is probed only for a backing file without one, as in QEMU.
 */
import { CommandError } from "../base/mod.ts";
import { BlockdevOptions, type BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import { visitJson } from "../qmp/schema/visit_json.ts";
import type { Sys } from "../sys/mod.ts";
import {
  isObject,
  JSON_PREFIX,
  nested,
  protocolOf,
  resolveName,
  withoutFilePrefix,
} from "./filenames.ts";
import type { NamedChild } from "./driver_types.ts";

/** What a name may stand for. */
export interface ImpliedPolicy {
  /** `json:` names. */
  readonly json: boolean;
  /** Names with a protocol, as `nbd://host`. Otherwise such a name is a file's. */
  readonly protocols: boolean;
  /** Opened read-only, whatever the name asks for. */
  readonly readOnly: boolean;
  /** The format is probed when it is not given. */
  readonly probe: boolean;
  /** Relative names are looked for beside the image; otherwise in the working directory. */
  readonly besideImage: boolean;
}

/** The policy for each kind of child. */
const impliedPolicies: Readonly<Record<NamedChild["kind"], ImpliedPolicy>> = {
  backing: { json: true, protocols: true, readOnly: true, probe: true, besideImage: true },
  // As in QEMU: the name of a data file is relative to the working directory.
  "data-file": {
    json: false,
    protocols: false,
    readOnly: false,
    probe: false,
    besideImage: false,
  },
};

/** What is to be opened. */
export type Implied =
  /** A node of these options, and nothing else. */
  | { readonly options: BlockdevOptionsValue; readonly probe: false }
  /** The protocol node; the format above it shows when its first bytes are read. */
  | { readonly options: BlockdevOptionsValue; readonly probe: true };

/** Protocols by the prefix of their names, with the option that takes the name. */
const NAMED_PROTOCOLS: ReadonlySet<string> = new Set(["file", "host_device", "host_cdrom"]);
const NULL_PROTOCOLS: ReadonlySet<string> = new Set(["null-co", "null-aio"]);

/**
 * The name of `named` as seen from here; `directory` is the image's (see directoryOf), undefined when the image is
 * nothing that has one.
 */
export function impliedName(named: NamedChild, directory: string | undefined): string {
  const { filename } = named;
  if (!impliedPolicies[named.kind].besideImage) return filename;
  if (resolveName("beside/", filename) === filename) return filename;
  if (directory === undefined) {
    throw new CommandError("Cannot generate a base directory with the extra options given");
  }
  return resolveName(directory, filename);
}

/** What the image's words mean. Throws CommandError where the policy forbids it. */
export function impliedOptions(
  sys: Sys,
  named: NamedChild,
  directory: string | undefined,
): Implied {
  const policy = impliedPolicies[named.kind];
  const name = impliedName(named, directory);
  const options = policy.json && name.startsWith(JSON_PREFIX)
    ? jsonOptions(name)
    : { file: protocolOptions(sys, name, policy) };
  const format = named.format === undefined || named.format === "" ? undefined : named.format;
  const implied = withFormat(options, format, policy);
  const checked = check(implied.options);
  return { ...implied, options: policy.readOnly ? readOnly(checked) : checked };
}

/** Decides between a node as it is, a format above it, and probing. */
function withFormat(
  options: Record<string, unknown>,
  format: string | undefined,
  policy: ImpliedPolicy,
): { options: Record<string, unknown>; probe: boolean } {
  const { file, driver } = options;
  if (driver !== undefined && format === undefined) return { options, probe: false };
  if (format !== undefined) {
    if (file === undefined) return { options: { ...options, driver: format }, probe: false };
    // A protocol's name as the format: the node itself.
    const itself = isObject(file) && file["driver"] === format && driver === undefined;
    return { options: itself ? file : { ...options, driver: format }, probe: false };
  }
  if (!isObject(file)) throw new CommandError("Parameter 'driver' is missing");
  return { options: file, probe: policy.probe };
}

function jsonOptions(name: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(name.slice(JSON_PREFIX.length));
  } catch {
    throw new CommandError("Could not parse the JSON options: JSON parse error");
  }
  if (!isObject(value)) throw new CommandError("Invalid JSON object given");
  const options = nested(value);
  if (options === undefined) throw new CommandError("Parameters are used inconsistently");
  refuseReferences(options);
  const { file } = options;
  if (isObject(file) && file["driver"] === undefined) file["driver"] = "file";
  return options;
}

/** Children by which an image could get hold of nodes that are none of its business. */
const CHILDREN: ReadonlySet<string> = new Set(["file", "backing", "data-file"]);

function refuseReferences(options: Readonly<Record<string, unknown>>): void {
  if (options["node-name"] !== undefined) {
    throw new CommandError("The name of a backing file in an image cannot give a node a name");
  }
  for (const [name, value] of Object.entries(options)) {
    if (CHILDREN.has(name) && typeof value === "string") {
      throw new CommandError(
        `The name of a backing file in an image cannot refer to node '${value}'`,
      );
    }
    if (isObject(value)) refuseReferences(value);
  }
}

/** A node that gives the bytes of what `name` says. */
function protocolOptions(
  sys: Sys,
  name: string,
  policy: ImpliedPolicy,
): BlockdevOptionsValue {
  const protocol = policy.protocols ? protocolOf(name) : undefined;
  if (protocol === undefined) {
    return { driver: policy.protocols ? fileDriver(sys, name) : "file", filename: name };
  }
  if (NULL_PROTOCOLS.has(protocol)) {
    if (name === `${protocol}://`) return { driver: protocol };
    throw new CommandError(`The only allowed filename for this driver is '${protocol}://'`);
  }
  if (NAMED_PROTOCOLS.has(protocol)) {
    const rest = protocol === "file" ? withoutFilePrefix(name) : name.slice(protocol.length + 1);
    return { driver: protocol, filename: rest };
  }
  throw new CommandError(`Unknown protocol '${protocol}'`);
}

/** Devices have a driver of their own. */
function fileDriver(sys: Sys, name: string): string {
  const stat = name.includes("\0") ? -1 : sys.stat(name);
  if (typeof stat === "number") return "file";
  return stat.kind === "block" || stat.kind === "character" ? "host_device" : "file";
}

/** Options from an image are checked as if a user had typed them. */
function check(options: Record<string, unknown>): BlockdevOptionsValue {
  const { driver } = options;
  try {
    return visitJson(BlockdevOptions, options) as BlockdevOptionsValue;
  } catch (error) {
    if (error instanceof CommandError && error.message.includes("'driver' does not accept value")) {
      throw new CommandError(`Unknown driver '${String(driver)}'`);
    }
    throw error;
  }
}

/** The same options, read-only all the way down; a backing file of it is read-only by default. */
function readOnly(options: BlockdevOptionsValue): BlockdevOptionsValue {
  const result: BlockdevOptionsValue = { ...options, driver: options.driver };
  for (const name of ["read-only", "auto-read-only"]) delete result[name];
  for (const name of CHILDREN) {
    const child = result[name];
    if (isObject(child)) result[name] = readOnly(child as BlockdevOptionsValue);
  }
  return result;
}
