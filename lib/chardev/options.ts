/** `--chardev`: flat options to a device's description, with QEMU's texts. */
import { CommandError } from "../base/mod.ts";
import type { SocketAddressValue } from "../qmp/schema/sockets.ts";
import { parseBool, parseInteger } from "../qmp/schema/visit_keyval.ts";

/** A device as wanted. */
export type ChardevDescription =
  | { kind: "null" }
  | { kind: "stdio"; signal: boolean }
  | { kind: "file"; path: string; append: boolean }
  | {
    kind: "socket";
    address: SocketAddressValue;
    server: boolean;
    /** Start-up goes on only once a client is there. */
    wait: boolean;
    nodelay: boolean;
    reconnect: number;
  };

/** Options as `--chardev` gives them (lib/cli/qemuopts.ts): flat keys, in order. */
export interface FlatOptions {
  readonly id: string | undefined;
  readonly options: readonly { readonly key: string; readonly value: string }[];
}

/** Backends that work, in the order in which help lists them. */
export const chardevBackends = ["file", "null", "socket", "stdio"] as const;

type OptionType = "bool" | "number" | "string" | "size";
/** Every key that QEMU takes: those of other backends are accepted, and have no effect, as there. */
const optionTypes: Readonly<Record<string, OptionType>> = {
  abstract: "bool",
  append: "bool",
  backend: "string",
  chardev: "string",
  clipboard: "bool",
  cols: "number",
  debug: "number",
  delay: "bool",
  fd: "string",
  height: "number",
  host: "string",
  ipv4: "bool",
  ipv6: "bool",
  localaddr: "string",
  localport: "string",
  logappend: "bool",
  logfile: "string",
  mouse: "bool",
  mux: "bool",
  name: "string",
  nodelay: "bool",
  path: "string",
  port: "string",
  reconnect: "number",
  rows: "number",
  server: "bool",
  signal: "bool",
  size: "size",
  telnet: "bool",
  tight: "bool",
  "tls-authz": "string",
  "tls-creds": "string",
  tn3270: "bool",
  to: "number",
  wait: "bool",
  websocket: "bool",
  width: "number",
};

/** The last value given for each key, checked for its type. */
class Values {
  private readonly values = new Map<string, string>();

  constructor(options: FlatOptions) {
    for (const { key, value } of options.options) {
      const type = Object.hasOwn(optionTypes, key) ? optionTypes[key] : undefined;
      if (type === undefined) throw new CommandError(`Invalid parameter '${key}'`);
      if (type === "bool" && parseBool(value) === undefined) {
        throw new CommandError(`Parameter '${key}' expects 'on' or 'off'`);
      }
      if (type === "number" && !((parseInteger(value) ?? -1n) >= 0n)) {
        throw new CommandError(`Parameter '${key}' expects a number`);
      }
      this.values.set(key, value);
    }
  }

  string(key: string): string | undefined {
    return this.values.get(key);
  }
  has(key: string): boolean {
    return this.values.has(key);
  }
  bool(key: string): boolean | undefined {
    const value = this.values.get(key);
    return value === undefined ? undefined : parseBool(value);
  }
  number(key: string): number | undefined {
    const value = this.values.get(key);
    return value === undefined ? undefined : Number(parseInteger(value));
  }
}

/** Options that would change what a device does, and that qsd cannot do yet. */
const refused = ["mux", "telnet", "tn3270", "websocket", "tls-creds", "tls-authz", "logfile"];

/** The device that the options describe. Throws CommandError. */
export function describeChardev(options: FlatOptions): { id: string } & ChardevDescription {
  const values = new Values(options);
  const { id } = options;
  if (id === undefined) throw new CommandError("chardev: no id specified");
  const backend = values.string("backend");
  if (backend === undefined) throw new CommandError(`chardev: "${id}" missing backend`);
  const describe = Object.hasOwn(describers, backend) ? describers[backend] : undefined;
  if (describe === undefined) {
    throw new CommandError(`'${backend}' is not a valid char driver name`);
  }
  for (const key of refused) {
    if (!values.has(key) || values.bool(key) === false) continue;
    throw new CommandError(`Parameter '${key}' is not supported`);
  }
  return { id, ...describe(values) };
}

const describers: Readonly<Record<string, (values: Values) => ChardevDescription>> = {
  null: () => ({ kind: "null" }),
  stdio: (values) => ({ kind: "stdio", signal: values.bool("signal") ?? true }),
  file(values) {
    const path = values.string("path");
    if (path === undefined) throw new CommandError("chardev: file: no filename given");
    return { kind: "file", path, append: values.bool("append") ?? false };
  },
  socket: describeSocket,
};

function describeSocket(values: Values): ChardevDescription {
  const server = values.bool("server") ?? false;
  const reconnect = values.number("reconnect") ?? 0;
  const given = ["path", "fd", "host"].filter((key) => values.has(key));
  if (given.length > 1) {
    throw new CommandError("None or one of 'path', 'fd' or 'host' option required.");
  }
  if (server && reconnect > 0) {
    throw new CommandError("'reconnect' option is incompatible with socket in server listen mode");
  }
  if (!server && values.has("wait")) {
    throw new CommandError("'wait' option is incompatible with socket in client connect mode");
  }
  return {
    kind: "socket",
    address: socketAddress(values),
    server,
    wait: server && (values.bool("wait") ?? true),
    nodelay: values.bool("nodelay") ?? false,
    reconnect,
  };
}

function socketAddress(values: Values): SocketAddressValue {
  const optional = <T>(key: string, value: T | undefined) =>
    value === undefined ? {} : { [key]: value };
  const path = values.string("path");
  if (path !== undefined) {
    return {
      type: "unix",
      path,
      ...optional("abstract", values.bool("abstract")),
      ...optional("tight", values.bool("tight")),
    } as SocketAddressValue;
  }
  const host = values.string("host");
  if (host === undefined) return { type: "fd", str: values.string("fd") ?? "" };
  const port = values.string("port");
  if (port === undefined) throw new CommandError("chardev: socket: no port given");
  return {
    type: "inet",
    host,
    port,
    ...optional("to", values.number("to")),
    ...optional("ipv4", values.bool("ipv4")),
    ...optional("ipv6", values.bool("ipv6")),
  } as SocketAddressValue;
}
