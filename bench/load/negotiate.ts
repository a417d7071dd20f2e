/** The handshake of a client: fixed newstyle, STRUCTURED_REPLY if asked for, then GO. Blocking. */
import { Errno, type LinuxSys, type Memory } from "../../lib/sys/mod.ts";
import * as nbd from "./protocol.ts";

/**
 * Takes the connected socket `fd` to the transmission phase of export `name`; the size of it in bytes.
 * `scratch` is memory of at least 4 KiB. Throws when the server refuses or speaks nonsense.
 */
export function negotiate(
  sys: LinuxSys,
  fd: number,
  scratch: Memory,
  name: string,
  structured: boolean,
): number {
  const wire = new BlockingWire(sys, fd, scratch);
  const view = wire.receive(18);
  if (view.getBigUint64(0) !== nbd.NBDMAGIC || view.getBigUint64(8) !== nbd.IHAVEOPT) {
    throw new Error("the server does not speak newstyle NBD");
  }
  view.setUint32(0, nbd.CLIENT_FLAGS);
  wire.send(4);
  if (structured) {
    wire.sendOption(nbd.OPT_STRUCTURED_REPLY, new Uint8Array(0));
    const reply = wire.receiveReply();
    if (reply.type !== nbd.REP_ACK) throw new Error("the server refuses structured replies");
  }
  const text = new TextEncoder().encode(name);
  const data = new Uint8Array(6 + text.length);
  new DataView(data.buffer).setUint32(0, text.length);
  data.set(text, 4);
  wire.sendOption(nbd.OPT_GO, data);
  let size = -1;
  for (;;) {
    const reply = wire.receiveReply();
    if (reply.type === nbd.REP_ACK) break;
    if (reply.type >= nbd.REP_ERROR) {
      throw new Error(`export "${name}" is refused: 0x${reply.type.toString(16)} ${reply.text()}`);
    }
    if (reply.type === nbd.REP_INFO && reply.data.getUint16(0) === nbd.INFO_EXPORT) {
      size = Number(reply.data.getBigUint64(2));
    }
  }
  if (size < 0) throw new Error("the server did not tell the export's size");
  return size;
}

class BlockingWire {
  constructor(readonly sys: LinuxSys, readonly fd: number, readonly scratch: Memory) {}

  receive(length: number): DataView {
    if (length > this.scratch.length) throw new Error(`an option reply of ${length} bytes`);
    let have = 0;
    while (have < length) {
      const got = this.sys.recv(this.fd, this.scratch.address + have, length - have, 0);
      if (got === -Errno.EINTR) continue;
      if (got < 0) throw new Error(`recv during the handshake: errno ${-got}`);
      if (got === 0) throw new Error("the server hung up during the handshake");
      have += got;
    }
    return this.scratch.view;
  }

  send(length: number): void {
    const sent = this.sys.send(this.fd, this.scratch.address, length, 0);
    if (sent !== length) throw new Error("the server hung up during the handshake");
  }

  sendOption(option: number, data: Uint8Array): void {
    const view = this.scratch.view;
    view.setBigUint64(0, nbd.IHAVEOPT);
    view.setUint32(8, option);
    view.setUint32(12, data.length);
    this.scratch.bytes.set(data, 16);
    this.send(16 + data.length);
  }

  receiveReply(): { type: number; data: DataView; text(): string } {
    const view = this.receive(20);
    if (view.getBigUint64(0) !== nbd.OPTION_REPLY_MAGIC) throw new Error("not an option reply");
    const type = view.getUint32(12);
    const length = view.getUint32(16);
    this.receive(length);
    const bytes = this.scratch.bytes.slice(0, length);
    return {
      type,
      data: new DataView(bytes.buffer),
      text: () => new TextDecoder().decode(bytes),
    };
  }
}
