/** From a validated description to a device. */
import { CommandError } from "../base/mod.ts";
import type { ChardevBackendValue } from "../qmp/schema/chardev.ts";
import { flattenAddress } from "../qmp/schema/sockets.ts";
import type { Context } from "../sys/mod.ts";
import type { Chardev } from "./chardev.ts";
import { OutputLog } from "./log.ts";
import { MuxChardev } from "./mux.ts";
import { PtyChardev } from "./pty.ts";
import { RingbufChardev } from "./ringbuf.ts";
import { FileChardev, NullChardev, ParallelChardev, PipeChardev, SerialChardev } from "./simple.ts";
import { SocketChardev } from "./socket.ts";
import { StdioChardev } from "./stdio.ts";
import { UdpChardev } from "./udp.ts";

/** What the making of a device depends on beside its description. */
export interface MakeSurroundings {
  readonly context: Context;
  /** The process is in the background: there is no terminal. */
  readonly daemonized: boolean;
  readonly find: (id: string) => Chardev | undefined;
  readonly hasStdio: () => boolean;
}

/** Makes the device, with its log. Throws CommandError; nothing is left behind then. */
export async function makeChardev(
  id: string,
  backend: ChardevBackendValue,
  around: MakeSurroundings,
): Promise<Chardev> {
  const { logfile, logappend = false, logtimestamp = false } = backend.data;
  const log = logfile === undefined
    ? undefined
    : OutputLog.open(around.context, logfile, { append: logappend, timestamp: logtimestamp });
  try {
    const device = await makePlain(id, backend, around);
    device.log = log;
    return device;
  } catch (error) {
    log?.close();
    throw error;
  }
}

async function makePlain(
  id: string,
  backend: ChardevBackendValue,
  around: MakeSurroundings,
): Promise<Chardev> {
  const { context } = around;
  switch (backend.type) {
    case "null":
      return new NullChardev(context, id);
    case "file":
      return new FileChardev(context, id, backend.data);
    case "pipe":
      return new PipeChardev(context, id, backend.data.device);
    case "serial":
      return new SerialChardev(context, id, backend.data.device);
    case "parallel":
      return new ParallelChardev(context, id, backend.data.device);
    case "pty":
      return new PtyChardev(context, id, backend.data.path);
    case "ringbuf":
    case "memory":
      return new RingbufChardev(context, id, backend.type, backend.data.size);
    case "mux": {
      const base = around.find(backend.data.chardev);
      if (base !== undefined) return new MuxChardev(context, id, base);
      throw new CommandError(`mux: base chardev ${backend.data.chardev} not found`);
    }
    case "udp": {
      const { remote, local } = backend.data;
      const own = local === undefined ? undefined : flattenAddress(local);
      return await UdpChardev.open(context, id, flattenAddress(remote), own);
    }
    case "stdio":
      if (around.daemonized) throw new CommandError("cannot use stdio with -daemonize");
      if (around.hasStdio()) {
        throw new CommandError("cannot use stdio by multiple character devices");
      }
      return new StdioChardev(context, id, backend.data.signal ?? true);
    case "socket":
      return await makeSocket(context, id, backend.data);
    default:
      throw new CommandError(`'${backend.type}' is not a valid char driver name`);
  }
}

type SocketData = Extract<ChardevBackendValue, { type: "socket" }>["data"];

/** Nanoseconds until the next try; 0: there is none. */
function reconnectNs({ reconnect, "reconnect-ms": ms }: SocketData): number {
  if (reconnect !== undefined && ms !== undefined) {
    throw new CommandError("'reconnect' and 'reconnect-ms' are mutually exclusive");
  }
  return reconnect === undefined ? Number(ms ?? 0) * 1e6 : Number(reconnect) * 1e9;
}

async function makeSocket(context: Context, id: string, data: SocketData): Promise<Chardev> {
  const server = data.server ?? true;
  const reconnect = reconnectNs(data);
  if (server && reconnect !== 0) {
    const name = data.reconnect === undefined ? "reconnect-ms" : "reconnect";
    throw new CommandError(`'${name}' option is incompatible with socket in server listen mode`);
  }
  if (!server && data.wait !== undefined) {
    throw new CommandError("'wait' option is incompatible with socket in client connect mode");
  }
  if (data["tls-creds"] !== undefined) {
    throw new CommandError(`No TLS credentials with id '${data["tls-creds"]}'`);
  }
  if (data["tls-authz"] !== undefined) {
    throw new CommandError("'tls_authz' option requires 'tls_creds' option");
  }
  if (data.websocket && !server) throw new CommandError("Websocket client is not implemented");
  for (const member of ["tn3270", "websocket"] as const) {
    if (data[member]) throw new CommandError(`Parameter '${member}' is not supported`);
  }
  return await SocketChardev.open(context, id, {
    address: flattenAddress(data.addr),
    server,
    nodelay: data.nodelay ?? false,
    telnet: data.telnet ?? false,
    reconnect: Math.max(0, reconnect),
  });
}
