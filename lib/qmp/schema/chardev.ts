/** Character devices (QAPI char.json). Values and members marked `hidden` are taken only to be refused in words. */
import {
  array,
  bool,
  command,
  empty,
  enumeration,
  exactInt,
  type Infer,
  int,
  opt,
  str,
  struct,
  union,
} from "./core.ts";
import { SocketAddressLegacy } from "./sockets.ts";

export const ChardevInfo = struct("ChardevInfo", {
  label: str,
  filename: str,
  "frontend-open": bool,
});
export const ChardevBackendInfo = struct("ChardevBackendInfo", { name: str });
export const DataFormat = enumeration("DataFormat", ["utf8", "base64"]);

/** Members of every device: what is sent to it is written to `logfile` too; `logtimestamp` is of QEMU 11.0. */
export const ChardevCommon = struct("ChardevCommon", {
  logfile: opt(str),
  logappend: opt(bool),
  logtimestamp: opt(bool),
});
const common = ChardevCommon.members;

export const ChardevFile = struct("ChardevFile", {
  ...common,
  in: opt(str),
  out: str,
  append: opt(bool),
});
export const ChardevHostdev = struct("ChardevHostdev", { ...common, device: str });
export const ChardevSocket = struct("ChardevSocket", {
  ...common,
  addr: SocketAddressLegacy,
  "tls-creds": opt(str, { hidden: true }),
  "tls-authz": opt(str, { hidden: true }),
  server: opt(bool),
  wait: opt(bool),
  nodelay: opt(bool),
  telnet: opt(bool),
  tn3270: opt(bool, { hidden: true }),
  websocket: opt(bool, { hidden: true }),
  reconnect: opt(exactInt),
  "reconnect-ms": opt(exactInt),
});
export const ChardevUdp = struct("ChardevUdp", {
  ...common,
  remote: SocketAddressLegacy,
  local: opt(SocketAddressLegacy),
});
/** `path` (QEMU 10.0): a symbolic link to the terminal is made there. */
export const ChardevPty = struct("ChardevPty", { ...common, path: opt(str) });
export const ChardevMux = struct("ChardevMux", { ...common, chardev: str });
export const ChardevStdio = struct("ChardevStdio", { ...common, signal: opt(bool) });
export const ChardevRingbuf = struct("ChardevRingbuf", { ...common, size: opt(exactInt) });

/** Devices of QEMU that need a display, a guest or a library that a storage daemon does not have. */
const foreign = {
  msmouse: { hidden: true },
  wctablet: { hidden: true },
  braille: { hidden: true },
  testdev: { hidden: true },
  console: { hidden: true },
  spicevmc: { hidden: true },
  spiceport: { hidden: true },
  "qemu-vdagent": { hidden: true },
  dbus: { hidden: true },
  vc: { hidden: true },
} as const;

export const ChardevBackendKind = enumeration("ChardevBackendKind", [
  "file",
  "serial",
  "parallel",
  "pipe",
  "socket",
  "udp",
  "pty",
  "null",
  "mux",
  "msmouse",
  "wctablet",
  "braille",
  "testdev",
  "stdio",
  "console",
  "spicevmc",
  "spiceport",
  "qemu-vdagent",
  "dbus",
  "vc",
  "ringbuf",
  "memory",
], foreign);

const CommonWrapper = struct("ChardevCommonWrapper", { data: ChardevCommon });
const HostdevWrapper = struct("ChardevHostdevWrapper", { data: ChardevHostdev });
const RingbufWrapper = struct("ChardevRingbufWrapper", { data: ChardevRingbuf });
const vc = struct("ChardevVC", {
  ...common,
  width: opt(int),
  height: opt(int),
  cols: opt(int),
  rows: opt(int),
});
const vdagent = struct("ChardevQemuVDAgent", { ...common, mouse: opt(bool), clipboard: opt(bool) });

/** What a device is made from. */
export const ChardevBackend = union("ChardevBackend", { type: ChardevBackendKind }, "type", {
  file: struct("ChardevFileWrapper", { data: ChardevFile }),
  serial: HostdevWrapper,
  parallel: HostdevWrapper,
  pipe: HostdevWrapper,
  socket: struct("ChardevSocketWrapper", { data: ChardevSocket }),
  udp: struct("ChardevUdpWrapper", { data: ChardevUdp }),
  pty: struct("ChardevPtyWrapper", { data: ChardevPty }),
  null: CommonWrapper,
  mux: struct("ChardevMuxWrapper", { data: ChardevMux }),
  msmouse: CommonWrapper,
  wctablet: CommonWrapper,
  braille: CommonWrapper,
  testdev: CommonWrapper,
  stdio: struct("ChardevStdioWrapper", { data: ChardevStdio }),
  console: CommonWrapper,
  spicevmc: struct("ChardevSpiceChannelWrapper", {
    data: struct("ChardevSpiceChannel", { ...common, type: str }),
  }),
  spiceport: struct("ChardevSpicePortWrapper", {
    data: struct("ChardevSpicePort", { ...common, fqdn: str }),
  }),
  "qemu-vdagent": struct("ChardevQemuVDAgentWrapper", { data: vdagent }),
  dbus: struct("ChardevDBusWrapper", { data: struct("ChardevDBus", { ...common, name: str }) }),
  vc: struct("ChardevVCWrapper", { data: vc }),
  ringbuf: RingbufWrapper,
  memory: RingbufWrapper,
});
/** As ChardevBackend's value. */
export type ChardevBackendValue = Infer<typeof ChardevBackend>;

/** What came of making a device: the terminal's name, of a pty. */
export const ChardevReturn = struct("ChardevReturn", { pty: opt(str) });

const byId = (name: string) => struct(`q_obj_${name}-arg`, { id: str });

/** Commands on character devices. */
export const chardevCommands = {
  "query-chardev": command(empty, array(ChardevInfo), { doc: "All character devices." }),
  "query-chardev-backends": command(empty, array(ChardevBackendInfo), {
    doc: "The kinds of character devices that can be made.",
  }),
  "ringbuf-write": command(
    struct("q_obj_ringbuf-write-arg", { device: str, data: str, format: opt(DataFormat) }),
    empty,
    { doc: "Gives input to a ring buffer device." },
  ),
  "ringbuf-read": command(
    struct("q_obj_ringbuf-read-arg", { device: str, size: exactInt, format: opt(DataFormat) }),
    str,
    { doc: "Takes at most `size` bytes of output from a ring buffer device." },
  ),
  "chardev-add": command(
    struct("q_obj_chardev-add-arg", { id: str, backend: ChardevBackend }),
    ChardevReturn,
    { doc: "Makes a character device." },
  ),
  "chardev-change": command(
    struct("q_obj_chardev-change-arg", { id: str, backend: ChardevBackend }),
    ChardevReturn,
    { doc: "Replaces a character device that nothing uses by another of the same id." },
  ),
  "chardev-remove": command(byId("chardev-remove"), empty, {
    doc: "Removes a character device that nothing uses.",
  }),
  "chardev-send-break": command(byId("chardev-send-break"), empty, {
    doc: "Sends a break on a serial line; does nothing on other devices.",
  }),
} as const;
