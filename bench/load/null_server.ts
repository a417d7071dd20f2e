/**
 * An NBD server that does nothing: it answers every read with whatever its memory holds, and every write
 * with success, one connection at a time, whole batches with one send. It qualifies the load generator:
 * what the generator reaches against it is what it can measure.
 *
 *   deno run -A bench/load/null_server.ts SOCKET-PATH   (ends when its first client has gone)
 */
import { Errno, LinuxSys, type Memory } from "../../lib/sys/mod.ts";
import { acceptFrom, listenAt } from "./sockets.ts";
import * as nbd from "./protocol.ts";

const EXPORT_BYTES = 1 << 30;
const BUFFER_BYTES = 4 << 20;

/** Serves the one client of blocking socket `fd` until it leaves. */
export function serveNull(sys: LinuxSys, fd: number): void {
  const input = sys.allocate(BUFFER_BYTES);
  const output = sys.allocate(BUFFER_BYTES);
  try {
    const wire = new Wire(sys, fd, input, output);
    if (greet(wire)) transmit(wire);
  } finally {
    input.unmap();
    output.unmap();
  }
}

class Wire {
  /** Bytes received and not yet used: [start, end) of `input`. */
  start = 0;
  end = 0;

  constructor(
    readonly sys: LinuxSys,
    readonly fd: number,
    readonly input: Memory,
    readonly output: Memory,
  ) {}

  /** Makes `length` bytes available at `start`; false at the end of the stream. */
  need(length: number): boolean {
    while (this.end - this.start < length) {
      if (!this.more()) return false;
    }
    return true;
  }

  more(): boolean {
    if (this.start > 0) {
      if (this.start < this.end) this.input.bytes.copyWithin(0, this.start, this.end);
      this.end -= this.start;
      this.start = 0;
    }
    const room = this.input.length - this.end;
    const got = this.sys.recv(this.fd, this.input.address + this.end, room, 0);
    if (got === -Errno.EINTR) return true;
    if (got <= 0) return false;
    this.end += got;
    return true;
  }

  send(length: number): void {
    for (let at = 0; at < length;) {
      const sent = this.sys.send(this.fd, this.output.address + at, length - at, 0);
      if (sent < 0 && sent !== -Errno.EINTR) return; // the client has gone: the next receive tells
      if (sent > 0) at += sent;
    }
  }
}

/** The handshake; false if the client leaves in it. */
function greet(wire: Wire): boolean {
  const out = wire.output.view;
  out.setBigUint64(0, nbd.NBDMAGIC);
  out.setBigUint64(8, nbd.IHAVEOPT);
  out.setUint16(16, nbd.CLIENT_FLAGS);
  wire.send(18);
  if (!wire.need(4)) return false;
  wire.start += 4;
  while (wire.need(16)) {
    const option = wire.input.view.getUint32(wire.start + 8);
    const length = wire.input.view.getUint32(wire.start + 12);
    if (length > 4096 || !wire.need(16 + length)) return false;
    wire.start += 16 + length;
    if (option !== nbd.OPT_GO) {
      optionReply(out, 0, option, nbd.REP_ERROR + 1, 0);
      wire.send(20);
      continue;
    }
    optionReply(out, 0, option, nbd.REP_INFO, 12);
    out.setUint16(20, nbd.INFO_EXPORT);
    out.setBigUint64(22, BigInt(EXPORT_BYTES));
    out.setUint16(30, 1);
    optionReply(out, 32, option, nbd.REP_ACK, 0);
    wire.send(52);
    return true;
  }
  return false;
}

function optionReply(view: DataView, at: number, option: number, type: number, length: number) {
  view.setBigUint64(at, nbd.OPTION_REPLY_MAGIC);
  view.setUint32(at + 8, option);
  view.setUint32(at + 12, type);
  view.setUint32(at + 16, length);
}

function transmit(wire: Wire): void {
  const view = wire.input.view;
  const out = wire.output.view;
  while (wire.need(nbd.REQUEST_BYTES)) {
    let at = 0;
    while (wire.end - wire.start >= nbd.REQUEST_BYTES) {
      const start = wire.start;
      const command = view.getUint16(start + 6);
      const length = view.getUint32(start + 24);
      const payload = command === nbd.CMD_READ ? length : 0;
      if (command === nbd.CMD_DISC || payload > BUFFER_BYTES - nbd.SIMPLE_BYTES) return;
      if (at + nbd.SIMPLE_BYTES + payload > wire.output.length) break;
      const body = nbd.REQUEST_BYTES + (command === nbd.CMD_WRITE ? length : 0);
      if (wire.end - start < body) break;
      out.setUint32(at, nbd.SIMPLE_REPLY_MAGIC);
      out.setUint32(at + 4, 0);
      out.setUint32(at + 8, view.getUint32(start + 8));
      out.setUint32(at + 12, view.getUint32(start + 12));
      at += nbd.SIMPLE_BYTES + payload;
      wire.start += body;
    }
    if (at > 0) wire.send(at);
    else if (!wire.more()) return;
  }
}

if (import.meta.main) {
  const [path] = Deno.args;
  if (path === undefined) throw new Error("Usage: null_server.ts SOCKET-PATH");
  const sys = new LinuxSys();
  const listening = listenAt(sys, path);
  const fd = acceptFrom(sys, listening);
  serveNull(sys, fd);
  sys.close(fd);
  sys.close(listening);
  Deno.removeSync(path);
  sys.dispose();
}
