/** The socket of a vhost-user session: whole messages in, with their descriptors; replies out. */
import { IoVec } from "../base/mod.ts";
import { type Context, Errno, errnoText, type Memory, MSG } from "../sys/mod.ts";
import { type SocketTraces, socketTraces } from "./traces.ts";
import {
  HEADER_SIZE,
  MAX_PAYLOAD,
  type MessageHeader,
  parseHeader,
  ProtocolError,
} from "./wire.ts";

/** Descriptors taken with one message; the kernel closes what is beyond. */
const MAX_FDS = 32;
/** Bytes of replies that may wait for a front-end that does not read them. */
const MAX_PENDING = 64 * 1024;

/** A message; whoever keeps a descriptor takes it out of `fds`, the others are closed. */
export interface Message extends MessageHeader {
  readonly payload: DataView;
  readonly fds: number[];
}

/** A connected socket; owns its descriptor. */
export class FrontendSocket {
  readonly fd: number;
  readonly #context: Context;
  readonly #buffer: Memory;
  readonly #traces: SocketTraces;
  readonly #iov = new IoVec();
  #filled = 0;
  #header: MessageHeader | undefined;
  #fds: number[] = [];
  #pending: { bytes: Uint8Array; fds: readonly number[] }[] = [];
  #pendingBytes = 0;

  constructor(context: Context, fd: number) {
    this.#context = context;
    this.fd = fd;
    this.#traces = socketTraces(context);
    this.#buffer = context.buffers.acquire(2 * (HEADER_SIZE + MAX_PAYLOAD));
  }

  /** The next message, undefined if it is not there yet. Throws ProtocolError; "end" once the peer is gone. */
  receive(): Message | "end" | undefined {
    for (;;) {
      const want = HEADER_SIZE + (this.#header?.size ?? 0);
      if (this.#filled === want) {
        if (this.#header !== undefined) return this.#complete(this.#header);
        this.#header = parseHeader(new DataView(this.#buffer.bytes.buffer, 0, HEADER_SIZE));
        if (this.#header.size > 0) continue;
        return this.#complete(this.#header);
      }
      // Not beyond the message: the next one's descriptors come with its first byte.
      this.#iov.single(this.#buffer.address + this.#filled, want - this.#filled);
      const room = MAX_FDS - this.#fds.length;
      const { sys } = this.#context;
      const got = sys.recvmsg(this.fd, this.#iov, MSG.DONTWAIT, this.#fds, room);
      if (got === -Errno.EAGAIN || got === -Errno.EINTR) return undefined;
      if (got === 0 || got === -Errno.ECONNRESET) return "end";
      if (got < 0) throw new ProtocolError(`recvmsg: ${errnoText(-got)}`);
      this.#filled += got;
    }
  }

  #complete(header: MessageHeader): Message {
    const fds = this.#fds;
    const { read } = this.#traces;
    if (read.enabled) read.emit(`req ${header.type} size ${header.size} fds ${fds.length}`);
    this.#fds = [];
    this.#filled = 0;
    this.#header = undefined;
    // A copy: the buffer is used for the next one.
    const payload = new DataView(
      this.#buffer.bytes.slice(HEADER_SIZE, HEADER_SIZE + header.size).buffer,
    );
    return { ...header, payload, fds };
  }

  /** Whether replies wait for the peer. */
  get blocked(): boolean {
    return this.#pending.length > 0;
  }

  /** Sends a reply, or keeps it until the socket takes it. Throws ProtocolError when the peer does not read. */
  send(bytes: Uint8Array, fds: readonly number[] = []): void {
    const { write } = this.#traces;
    if (write.enabled) write.emit(`bytes ${bytes.length} fds ${fds.length}`);
    this.#pendingBytes += bytes.length;
    if (this.#pendingBytes > MAX_PENDING) throw new ProtocolError("replies are not read");
    this.#pending.push({ bytes, fds });
    this.flush();
  }

  /** Sends what waits. Descriptors of what was sent are not closed. */
  flush(): void {
    const { sys } = this.#context;
    const at = HEADER_SIZE + MAX_PAYLOAD;
    while (this.#pending.length > 0) {
      const { bytes, fds } = this.#pending[0]!;
      this.#buffer.bytes.set(bytes, at);
      this.#iov.single(this.#buffer.address + at, bytes.length);
      const sent = sys.sendmsg(this.fd, this.#iov, MSG.DONTWAIT, fds);
      if (sent === -Errno.EAGAIN || sent === -Errno.EINTR) return;
      // The peer is gone: the end of the stream will be seen.
      if (sent < 0 || sent === bytes.length) this.#pending.shift();
      else this.#pending[0] = { bytes: bytes.subarray(sent), fds: [] };
      this.#pendingBytes -= sent < 0 ? bytes.length : sent;
    }
  }

  /** Closes everything. */
  close(): void {
    const { sys, buffers } = this.#context;
    for (const fd of this.#fds) sys.close(fd);
    this.#fds = [];
    sys.close(this.fd);
    buffers.release(this.#buffer);
  }
}
