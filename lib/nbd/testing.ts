/** For tests: a server with one export, and a client that speaks raw bytes. */
import { viewOf } from "../base/mod.ts";
import assert from "node:assert/strict";
import { MemoryBackend } from "../block/testing_backend.ts";
import { type Context, createContext, EPOLL, type Memory, type OwnedContext } from "../sys/mod.ts";
import { AGAIN } from "./transport.ts";
import { Connection, type ConnectionHost } from "./connection.ts";
import { type ExportDirectory, NbdExport } from "./export.ts";
import { SocketTransport } from "./transport.ts";
import {
  Chunk,
  EXTENDED_REQUEST_MAGIC,
  EXTENDED_REQUEST_SIZE,
  Opt,
  putUint64,
  REQUEST_MAGIC,
  REQUEST_SIZE,
} from "./wire.ts";
import { infoRequestData, metaRequestData, optionMessage } from "./testing_wire.ts";

/** The other end of a connection: raw bytes. */
export class ByteClient {
  readonly #context: Context;
  readonly #buffer: Memory;
  #fd: number;
  /** The same socket once more: sending and receiving are watched apart. */
  readonly #out: number;

  constructor(context: Context, fd: number) {
    this.#context = context;
    this.#fd = fd;
    this.#out = context.sys.dup(fd);
    this.#buffer = context.sys.allocate(1024 * 1024);
  }

  #until(fd: number, events: number): Promise<void> {
    return new Promise((resolve) => {
      const watch = this.#context.loop.watch(fd, events, () => {
        watch.close();
        resolve();
      });
    });
  }

  /** Sends all of `bytes`; false when the server has hung up. */
  async send(bytes: Uint8Array): Promise<boolean> {
    for (let at = 0; at < bytes.length;) {
      const length = Math.min(bytes.length - at, this.#buffer.length);
      this.#buffer.bytes.set(bytes.subarray(at, at + length));
      const sent = this.#context.sys.send(this.#out, this.#buffer.address, length, 0);
      if (sent === AGAIN) await this.#until(this.#out, EPOLL.OUT);
      else if (sent < 0) return false;
      else at += sent;
    }
    return true;
  }

  /** The next `length` bytes, or fewer at the end of the stream. */
  async receive(length: number): Promise<Uint8Array> {
    const out = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const want = Math.min(length - at, this.#buffer.length);
      const got = this.#context.sys.recv(this.#fd, this.#buffer.address, want, 0);
      if (got === AGAIN) {
        await this.#until(this.#fd, EPOLL.IN);
      } else if (got <= 0) {
        return out.subarray(0, at);
      } else {
        out.set(this.#buffer.bytes.subarray(0, got), at);
        at += got;
      }
    }
    return out;
  }

  /** Everything until the server hangs up. */
  async rest(): Promise<Uint8Array> {
    const parts: number[] = [];
    for (;;) {
      const byte = await this.receive(65536);
      parts.push(...byte);
      if (byte.length < 65536) return Uint8Array.from(parts);
    }
  }

  /** Says that nothing more will be sent (SHUT_WR). */
  halfClose(): void {
    this.#context.sys.shutdown(this.#fd, 1);
  }

  /** Closes the stream in both directions; a `receive` under way ends. */
  hangUp(): void {
    this.#context.sys.shutdown(this.#fd, 2);
  }

  /** Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    this.#context.sys.close(this.#fd);
    this.#context.sys.close(this.#out);
    this.#fd = -1;
    this.#buffer.unmap();
  }
}

/** A server without listening sockets: connections are made by the test. */
export class TestServer implements ConnectionHost, ExportDirectory {
  readonly context: OwnedContext;
  readonly backend: MemoryBackend;
  readonly target: NbdExport;
  readonly traces: ConnectionHost["traces"];
  handshakeNs = 0;
  multiConn = true;
  readonly connections = new Set<Connection>();
  readonly failures: string[] = [];
  /** Errors thrown inside the loop: our mistakes. */
  readonly mistakes: unknown[] = [];
  readonly #clients: ByteClient[] = [];
  #gone: (() => void)[] = [];

  constructor(size: number, options: Partial<ConstructorParameters<typeof NbdExport>[1]> = {}) {
    this.context = createContext({ name: "test", onError: (error) => this.mistakes.push(error) });
    this.backend = new MemoryBackend(this.context, size);
    this.target = new NbdExport(this.backend, {
      name: "disk",
      writable: true,
      writethrough: false,
      allocationDepth: true,
      ...options,
    });
    const trace = this.context.trace("test");
    this.traces = {
      begin: trace,
      success: trace,
      timeout: trace,
      option: trace,
      flags: trace,
      error: trace,
      meta: trace,
      request: trace,
      replyError: trace,
    };
  }

  get exports(): ExportDirectory {
    return this;
  }
  find(name: string): NbdExport | undefined {
    return name === this.target.name ? this.target : undefined;
  }
  list(): NbdExport[] {
    return [this.target];
  }
  entered(): boolean {
    return true;
  }
  failed(_connection: Connection, reason: string): void {
    this.failures.push(reason);
  }
  closed(connection: Connection): void {
    this.connections.delete(connection);
    const { counters } = connection;
    if (counters !== undefined) this.target.counters.add(counters);
    for (const resolve of this.#gone.splice(0)) resolve();
  }

  /** A new client. */
  connect(): ByteClient {
    const pair = this.context.sys.socketpair();
    assert.ok(typeof pair !== "number");
    const transport = new SocketTransport(this.context, pair[0]);
    this.connections.add(new Connection(this.context, transport, this, "test"));
    const client = new ByteClient(this.context, pair[1]);
    this.#clients.push(client);
    return client;
  }

  /** A client in transmission. */
  async enter(options: EnterOptions = {}): Promise<ByteClient> {
    const client = this.connect();
    await client.receive(18);
    await client.send(handshake(this.target.name, options));
    // The last answer to GO is an ACK: read replies until then.
    for (let acks = 0; acks < handshakeAcks(options);) {
      const header = viewOf(await client.receive(20));
      await client.receive(header.getUint32(16));
      assert.ok(header.getUint32(12) < 0x80000000, "the handshake failed");
      if (header.getUint32(12) === 1) acks++;
    }
    return client;
  }

  /** Waits until no client is connected. */
  async allGone(): Promise<void> {
    while (this.connections.size > 0) {
      await new Promise<void>((resolve) => this.#gone.push(resolve));
    }
  }

  /** Hangs everything up; fails if anything was wrong inside or memory is still in use. */
  async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    for (const connection of this.connections) connection.shutdown();
    await this.allGone();
    const { inUse } = this.context.buffers;
    this.backend.close();
    await this.context.close();
    assert.deepEqual(this.mistakes, []);
    assert.equal(inUse, 0, "buffers are still in use");
    assert.equal(this.target.counters.inFlight, 0, "requests are still counted in flight");
  }
}

/** What a client negotiates. */
export interface EnterOptions {
  framing?: "simple" | "structured" | "extended";
  contexts?: readonly string[];
}

/** A client's whole side of a handshake that ends with GO. */
export function handshake(name: string, options: EnterOptions = {}): Uint8Array {
  const parts: Uint8Array[] = [Uint8Array.of(0, 0, 0, 3)];
  if (options.framing === "structured") parts.push(optionMessage(Opt.structuredReply));
  if (options.framing === "extended") parts.push(optionMessage(Opt.extendedHeaders));
  if (options.contexts !== undefined) {
    parts.push(optionMessage(Opt.setMetaContext, metaRequestData(name, options.contexts)));
  }
  parts.push(optionMessage(Opt.go, infoRequestData(name)));
  return concat(parts);
}

function handshakeAcks(options: EnterOptions): number {
  const framed = options.framing === "structured" || options.framing === "extended";
  return 1 + (framed ? 1 : 0) + (options.contexts === undefined ? 0 : 1);
}

/** All of them in a row. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** A request as a client sends it; `data` follows the header. */
export function request(
  type: number,
  offset: number | bigint,
  length: number,
  options: { flags?: number; cookie?: number; data?: Uint8Array; extended?: boolean } = {},
): Uint8Array {
  const { flags = 0, cookie = 7, data = new Uint8Array(0), extended = false } = options;
  const size = extended ? EXTENDED_REQUEST_SIZE : REQUEST_SIZE;
  const bytes = new Uint8Array(size + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, extended ? EXTENDED_REQUEST_MAGIC : REQUEST_MAGIC);
  view.setUint16(4, flags);
  view.setUint16(6, type);
  putUint64(view, 8, cookie);
  view.setBigUint64(16, BigInt(offset));
  if (extended) putUint64(view, 24, length);
  else view.setUint32(24, length);
  bytes.set(data, size);
  return bytes;
}

/** A view of just these bytes. */
/** Every framing that a client can ask for. */
export const framings: NonNullable<EnterOptions["framing"]>[] = [
  "simple",
  "structured",
  "extended",
];

/** Runs a test with a server of its own. */
export async function withServer(
  test: (server: TestServer) => Promise<void>,
  options: ConstructorParameters<typeof TestServer>[1] & { size?: number } = {},
): Promise<void> {
  const server = new TestServer(options.size ?? 4 * 1024 * 1024, options);
  try {
    await test(server);
  } finally {
    await server.close();
  }
}

/** A reply chunk (or simple reply) taken apart. */
export interface Reply {
  type: number;
  done: boolean;
  cookie: number;
  payload: Uint8Array;
  /** Of an error. */
  error: number;
  message: string;
}

/** Receives one chunk, or a simple reply that has `simpleData` bytes of data. */
export async function reply(client: ByteClient, simpleData = 0): Promise<Reply> {
  const magic = viewOf(await client.receive(4)).getUint32(0);
  const none = new Uint8Array(0);
  if (magic === 0x67446698) {
    const view = viewOf(await client.receive(12));
    const error = view.getUint32(0);
    const payload = error === 0 && simpleData > 0 ? await client.receive(simpleData) : none;
    return { type: -1, done: true, cookie: view.getUint32(8), payload, error, message: "" };
  }
  const extended = magic === 0x6e8a278c;
  assert.ok(extended || magic === 0x668e33ef, `magic ${magic.toString(16)}`);
  const view = viewOf(await client.receive(extended ? 28 : 16));
  const length = view.getUint32(extended ? 24 : 12);
  const payload = await client.receive(length);
  const type = view.getUint16(2);
  const failed = (type & 0x8000) !== 0;
  return {
    type,
    done: (view.getUint16(0) & 1) !== 0,
    cookie: view.getUint32(8),
    payload,
    error: failed ? viewOf(payload).getUint32(0) : 0,
    message: failed ? new TextDecoder().decode(payload.subarray(6)) : "",
  };
}

/** Reads one whole reply to a READ and puts it together. */
export async function readBack(
  client: ByteClient,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const out = new Uint8Array(length).fill(0xaa);
  for (;;) {
    const { type, payload, done, message } = await reply(client, length);
    assert.equal(message, "");
    const view = viewOf(payload);
    if (type === -1) return payload;
    if (type === Chunk.offsetData) {
      out.set(payload.subarray(8), Number(view.getBigUint64(0)) - offset);
    } else if (type === Chunk.offsetHole) {
      const at = Number(view.getBigUint64(0)) - offset;
      out.fill(0, at, at + view.getUint32(8));
    }
    if (done) return out;
  }
}

/** Bytes that look random, the same for the same seed. */
export function noise(length: number, seed = 1): Uint8Array {
  const out = new Uint8Array(length);
  for (let i = 0, x = seed; i < length; i++) out[i] = x = (x * 75 + 74) % 65537;
  return out;
}
