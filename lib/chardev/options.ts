/** `--chardev`: flat options to a device's description, with QEMU's texts. */
import { CommandError } from "../base/mod.ts";
import type { ChardevBackendValue } from "../qmp/schema/chardev.ts";
import type { SocketAddressLegacyValue } from "../qmp/schema/sockets.ts";
import { parseBool, parseInteger, parseSize } from "../qmp/schema/visit_keyval.ts";

/** A device as wanted. */
export interface ChardevDescription {
  readonly id: string;
  readonly backend: ChardevBackendValue;
  /** The device of that id multiplexes one that is called ID-base. */
  readonly mux: boolean;
}

/** Options as `--chardev` gives them (lib/cli/qemuopts.ts): flat keys, in order. */
export interface FlatOptions {
  readonly id: string | undefined;
  readonly options: readonly { readonly key: string; readonly value: string }[];
}

/** Backends that work, in the order in which help lists them. */
export const chardevBackends = [
  "serial",
  "mux",
  "pipe",
  "parallel",
  "null",
  "ringbuf",
  "stdio",
  "socket",
  "file",
  "memory",
  "udp",
  "pty",
] as const;

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
  logtimestamp: "bool",
  mouse: "bool",
  mux: "bool",
  name: "string",
  nodelay: "bool",
  path: "string",
  port: "string",
  reconnect: "number",
  "reconnect-ms": "number",
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
/** Keys of displays and of guests' devices, and those that are taken only to be refused. */
const unlisted =
  "clipboard cols debug height mouse name rows tls-authz tls-creds tn3270 websocket width".split(
    " ",
  );
const typeWords = { bool: "bool (on/off)", number: "num", string: "str", size: "size" };

/** What `--chardev help` prints; after a back end's name: the keys, those of all back ends as in QEMU. */
export function chardevHelp(backend: string): string {
  if (isHelp(backend)) {
    const names = chardevBackends.map((name) => `  ${name}\n`).join("");
    return `Available chardev backend types: \n${names}`;
  }
  const keys = Object.entries(optionTypes).filter(([key]) => !unlisted.includes(key))
    .map(([key, type]) => `  ${key}=<${typeWords[type]}>\n`);
  return `chardev options:\n${keys.join("")}`;
}

const isHelp = (word: string) => word === "help" || word === "?";

const sizeHints = [
  "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-",
  "and exabytes, respectively.",
];

const MAX_PORT = 65535;

function readNumber(key: string, text: string): bigint {
  const value = parseInteger(text);
  if (value === undefined || value < 0n) {
    throw new CommandError(`Parameter '${key}' expects a number`);
  }
  return value;
}

function readSize(key: string, text: string): bigint {
  const value = parseSize(text);
  if (value !== undefined) return value;
  throw new CommandError(
    `Parameter '${key}' expects a non-negative number below 2^64`,
    "GenericError",
    sizeHints,
  );
}

function limit(key: string, text: string, value: bigint, problem: string): void {
  if (value >= 2n ** 64n) {
    throw new CommandError(`Value '${text}' is ${problem} for parameter '${key}'`);
  }
  if (key === "to" && value > MAX_PORT) {
    throw new CommandError(`Parameter '${key}' expects a value between 0 and ${MAX_PORT}`);
  }
}

/** As the schema's exact types have it; QEMU's are signed. */
function exactly(value: bigint): number | bigint {
  const signed = BigInt.asIntN(64, value);
  const plain = Number(signed);
  return Number.isSafeInteger(plain) ? plain : signed;
}

/** The last value given for each key, checked for its type. */
class Values {
  readonly #values = new Map<string, string>();

  constructor(options: FlatOptions) {
    for (const { key, value } of options.options) {
      const type = Object.hasOwn(optionTypes, key) ? optionTypes[key] : undefined;
      if (type === undefined) throw new CommandError(`Invalid parameter '${key}'`);
      if (type === "bool" && parseBool(value) === undefined) {
        throw new CommandError(`Parameter '${key}' expects 'on' or 'off'`);
      }
      if (type === "number") limit(key, value, readNumber(key, value), "too large");
      if (type === "size") limit(key, value, readSize(key, value), "out of range");
      this.#values.set(key, value);
    }
  }

  string(key: string): string | undefined {
    return this.#values.get(key);
  }
  has(key: string): boolean {
    return this.#values.has(key);
  }
  bool(key: string): boolean | undefined {
    const value = this.#values.get(key);
    return value === undefined ? undefined : parseBool(value);
  }
  number(key: string): number | bigint | undefined {
    const value = this.#values.get(key);
    return value === undefined ? undefined : exactly(parseInteger(value)!);
  }
  size(key: string): number | bigint | undefined {
    const value = this.#values.get(key);
    return value === undefined ? undefined : exactly(parseSize(value)!);
  }
}

/** Old names, with the backends' own. */
const aliases: Readonly<Record<string, string>> = { tty: "serial", parport: "parallel" };

/** The device that the options describe; `warn` is told of an old name. Throws CommandError. */
export function describeChardev(
  options: FlatOptions,
  warn: (text: string) => void,
): ChardevDescription {
  const values = new Values(options);
  const { id } = options;
  const asked = values.string("backend");
  const alias = asked !== undefined && Object.hasOwn(aliases, asked) ? aliases[asked] : undefined;
  if (alias !== undefined) warn(`The alias '${asked}' is deprecated, use '${alias}' instead`);
  if (id === undefined) throw new CommandError("chardev: no id specified");
  if (asked === undefined) throw new CommandError(`chardev: "${id}" missing backend`);
  const backend = alias ?? asked;
  const describe = Object.hasOwn(describers, backend) ? describers[backend] : undefined;
  if (describe === undefined) {
    throw new CommandError(`'${backend}' is not a valid char driver name`);
  }
  return { id, backend: describe(values), mux: values.bool("mux") ?? false };
}

/** Members that are there. */
function given<T extends Record<string, unknown>>(
  members: T,
): { [K in keyof T]?: Exclude<T[K], undefined> } {
  const entries = Object.entries(members).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as { [K in keyof T]?: Exclude<T[K], undefined> };
}

const common = (values: Values) =>
  given({
    logfile: values.string("logfile"),
    logappend: values.bool("logappend"),
    logtimestamp: values.bool("logtimestamp"),
  });

/** The path that a device needs; `shown` is how its absence is told. */
function path(values: Values, shown: string): string {
  const found = values.string("path");
  if (found === undefined) throw new CommandError(`chardev: ${shown} given`);
  return found;
}

const describers: Readonly<Record<string, (values: Values) => ChardevBackendValue>> = {
  null: (values) => ({ type: "null", data: common(values) }),
  pty: (values) => ({
    type: "pty",
    data: { ...common(values), ...given({ path: values.string("path") }) },
  }),
  stdio: (values) => ({
    type: "stdio",
    data: { ...common(values), ...given({ signal: values.bool("signal") }) },
  }),
  file: (values) => ({
    type: "file",
    data: {
      ...common(values),
      out: path(values, "file: no filename"),
      ...given({ append: values.bool("append") }),
    },
  }),
  pipe: (values) => ({
    type: "pipe",
    data: { ...common(values), device: path(values, "pipe: no device path") },
  }),
  serial: (values) => ({
    type: "serial",
    data: { ...common(values), device: path(values, "serial/tty: no device path") },
  }),
  parallel: (values) => ({
    type: "parallel",
    data: { ...common(values), device: path(values, "parallel: no device path") },
  }),
  ringbuf: (values) => ({ type: "ringbuf", data: ringbuf(values) }),
  memory: (values) => ({ type: "memory", data: ringbuf(values) }),
  mux(values) {
    const chardev = values.string("chardev");
    if (chardev === undefined) throw new CommandError("chardev: mux: no chardev given");
    return { type: "mux", data: { ...common(values), chardev } };
  },
  udp: describeUdp,
  socket: describeSocket,
};

const ringbuf = (values: Values) => ({
  ...common(values),
  ...given({ size: values.size("size") }),
});

function describeUdp(values: Values): ChardevBackendValue {
  const text = (key: string) => values.string(key) ?? "";
  if (text("port") === "") throw new CommandError("chardev: udp: remote port not specified");
  const families = given({ ipv4: values.bool("ipv4"), ipv6: values.bool("ipv6") });
  const host = text("host") === "" ? "localhost" : text("host");
  const remote = { type: "inet" as const, data: { host, port: text("port"), ...families } };
  const data = { host: text("localaddr"), port: text("localport") };
  const local = values.has("localaddr") || values.has("localport");
  return {
    type: "udp",
    data: { ...common(values), remote, ...(local ? { local: { type: "inet", data } } : {}) },
  };
}

function describeSocket(values: Values): ChardevBackendValue {
  const ways = ["path", "fd", "host"].filter((key) => values.has(key));
  if (ways.length > 1) {
    throw new CommandError("None or one of 'path', 'fd' or 'host' option required.");
  }
  const server = values.bool("server") ?? false;
  return {
    type: "socket",
    data: {
      ...common(values),
      addr: socketAddress(values),
      server,
      // A server waits, unless it is told not to; the schema's own default is the other way round.
      ...given({
        wait: values.bool("wait") ?? (server ? true : undefined),
        nodelay: values.bool("nodelay"),
        telnet: values.bool("telnet"),
        tn3270: values.bool("tn3270"),
        websocket: values.bool("websocket"),
        reconnect: values.number("reconnect"),
        "reconnect-ms": values.number("reconnect-ms"),
        "tls-creds": values.string("tls-creds"),
        "tls-authz": values.string("tls-authz"),
      }),
    },
  };
}

/** It is at most MAX_PORT. */
const toPort = (to: number | bigint | undefined) => to === undefined ? undefined : Number(to);

function socketAddress(values: Values): SocketAddressLegacyValue {
  const path = values.string("path");
  if (path !== undefined) {
    const flags = given({ abstract: values.bool("abstract"), tight: values.bool("tight") });
    return { type: "unix", data: { path, ...flags } };
  }
  const host = values.string("host");
  if (host === undefined) return { type: "fd", data: { str: values.string("fd") ?? "" } };
  const port = values.string("port");
  if (port === undefined) throw new CommandError("chardev: socket: no port given");
  const more = given({
    to: toPort(values.number("to")),
    ipv4: values.bool("ipv4"),
    ipv6: values.bool("ipv6"),
  });
  return { type: "inet", data: { host, port, ...more } };
}
