/** For tests and the bench: a vhost-user front-end that says what it is told to, and shares memory. */
import { IoVec } from "../base/mod.ts";
import { AF, type Context, Errno, type Memory, MSG, SOCK } from "../sys/mod.ts";
import { DriverMemory, type DriverRing, PackedDriver, SplitDriver } from "./testing_driver.ts";
import { bits, Feature, has, HEADER_SIZE, ProtocolFeature, Request } from "./wire.ts";

/** Where guest memory begins for the guest. */
export const GUEST_BASE = 0x1_0000_0000;
/** Where it begins for the front-end: unlike that, and unlike where it is mapped. */
export const USER_BASE = 0x7f00_0000_0000;

/** Longest wait for one thing. */
const LIMIT_NS = 20e9;

/** A reply. */
export interface Reply {
  readonly type: number;
  readonly payload: DataView;
  readonly fds: number[];
}

/** What `Frontend.start` sets up. */
export interface FrontendSetup {
  /** Bytes of guest memory [8 MiB]. */
  readonly memory?: number;
  /** Feature bits to accept, beside VERSION_1 and PROTOCOL_FEATURES [INDIRECT_DESC, EVENT_IDX]. */
  readonly features?: readonly number[];
  readonly queues?: number;
  /** Descriptors of a ring [128]. */
  readonly queueSize?: number;
  /** Continues with the memory, rings and in-flight log of another, whose back-end is gone. */
  readonly from?: Frontend;
  /** Asks for an in-flight log. */
  readonly inflight?: boolean;
}

/** Payloads, as bytes. */
export const payload = {
  u64(value: bigint): Uint8Array {
    const bytes = new Uint8Array(8);
    new DataView(bytes.buffer).setBigUint64(0, value, true);
    return bytes;
  },
  words(...values: number[]): Uint8Array {
    const bytes = new Uint8Array(4 * values.length);
    const view = new DataView(bytes.buffer);
    values.forEach((value, i) => view.setUint32(4 * i, value, true));
    return bytes;
  },
  longs(...values: number[]): Uint8Array {
    const bytes = new Uint8Array(8 * values.length);
    const view = new DataView(bytes.buffer);
    values.forEach((value, i) => view.setBigUint64(8 * i, BigInt(value), true));
    return bytes;
  },
  join(...parts: Uint8Array[]): Uint8Array {
    const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  },
} as const;

/** A front-end. Everything that waits does so in turns of the context's loop. */
export class Frontend {
  readonly context: Context;
  readonly fd: number;
  memory!: DriverMemory;
  memoryFd = -1;
  features = 0n;
  protocolFeatures = 0n;
  readonly rings: DriverRing[] = [];
  readonly kicks: number[] = [];
  readonly calls: number[] = [];
  inflightFd = -1;
  inflightPayload: Uint8Array | undefined;
  /** Our end of the back-end's channel. */
  channel = -1;
  readonly #buffer: Memory;
  readonly #owned: number[] = [];
  #mapping: Memory | undefined;
  #closed = false;

  constructor(context: Context, fd: number) {
    this.context = context;
    this.fd = fd;
    this.#buffer = context.sys.allocate(16384);
  }

  /** Connects to the socket `path`. */
  static connect(context: Context, path: string): Frontend {
    const { sys } = context;
    const fd = sys.socket(AF.UNIX, SOCK.STREAM);
    const rc = sys.connect(fd, { family: "unix", path });
    if (rc < 0) throw new Error(`connect ${path}: ${rc}`);
    return new Frontend(context, fd);
  }

  /** Waits until `ask` gives something; throws when that takes longer than LIMIT_NS. */
  async until<T>(ask: () => T | undefined | false): Promise<T> {
    const { sys, loop } = this.context;
    const begin = sys.monotonicNs();
    for (;;) {
      const got = ask();
      if (got !== undefined && got !== false) return got;
      if (sys.monotonicNs() - begin > LIMIT_NS) throw new Error(`gave up waiting for ${ask}`);
      await new Promise<void>((resolve) => loop.defer(resolve));
    }
  }

  /** Sends bytes as they are. */
  sendRaw(bytes: Uint8Array, fds: readonly number[] = []): number {
    this.#buffer.bytes.set(bytes);
    const iov = new IoVec().single(this.#buffer.address, bytes.length);
    return this.context.sys.sendmsg(this.fd, iov, 0, fds);
  }

  /** Sends a message. */
  send(type: number, body: Uint8Array = new Uint8Array(), fds: number[] = [], ack = false): void {
    const header = payload.words(type, 1 | (ack ? 8 : 0), body.length);
    this.sendRaw(payload.join(header, body), fds);
  }

  /** The next reply; "end" when the back-end hung up. */
  async reply(): Promise<Reply | "end"> {
    const fds: number[] = [];
    const read = async (at: number, length: number): Promise<boolean> => {
      for (let done = 0; done < length;) {
        const iov = new IoVec().single(this.#buffer.address + at + done, length - done);
        const got = await this.until(() => {
          const rc = this.context.sys.recvmsg(this.fd, iov, MSG.DONTWAIT, fds, 8);
          return rc === -Errno.EAGAIN ? undefined : { rc };
        });
        if (got.rc <= 0) return false;
        done += got.rc;
      }
      return true;
    };
    if (!await read(0, HEADER_SIZE)) return "end";
    const view = this.#buffer.view;
    const type = view.getUint32(0, true);
    const size = view.getUint32(8, true);
    if (!await read(HEADER_SIZE, size)) return "end";
    const copy = this.#buffer.bytes.slice(HEADER_SIZE, HEADER_SIZE + size);
    return { type, payload: new DataView(copy.buffer), fds };
  }

  /** Sends a request and waits for its reply, which must come. */
  async ask(type: number, body?: Uint8Array, fds?: number[], ack = false): Promise<Reply> {
    this.send(type, body, fds, ack);
    const reply = await this.reply();
    if (reply === "end") throw new Error(`the back-end hung up at request ${type}`);
    if (reply.type !== type) throw new Error(`reply to ${reply.type} instead of ${type}`);
    return reply;
  }

  /** As `ask`, for replies of one number. */
  async askNumber(type: number, body?: Uint8Array): Promise<bigint> {
    return (await this.ask(type, body)).payload.getBigUint64(0, true);
  }

  /** Sends a request that is to be acknowledged; whether it was granted, or "end". */
  async granted(type: number, body?: Uint8Array, fds?: number[]): Promise<boolean | "end"> {
    this.send(type, body, fds, true);
    const reply = await this.reply();
    return reply === "end" ? "end" : reply.payload.getBigUint64(0, true) === 0n;
  }

  /** An eventfd that is closed with this front-end. */
  eventfd(): number {
    const fd = this.context.sys.eventfd(0);
    this.#owned.push(fd);
    return fd;
  }

  /** Negotiates, shares memory, and starts all queues. */
  async start(setup: FrontendSetup = {}): Promise<void> {
    await this.negotiate(setup.features);
    const { from } = setup;
    if (from === undefined) this.makeMemory(setup.memory ?? 8 * 1024 * 1024);
    else this.#adopt(from);
    await this.shareMemory();
    const queues = setup.queues ?? 1;
    const size = setup.queueSize ?? 128;
    if (setup.inflight === true) await this.setInflight(queues, size);
    for (let i = 0; i < queues; i++) {
      if (from === undefined) this.makeRing(i, size);
      await this.startQueue(i);
    }
  }

  /** The memory and what lies in it now belong to this front-end. */
  #adopt(from: Frontend): void {
    this.memory = from.memory;
    this.memoryFd = from.memoryFd;
    this.#mapping = from.#mapping;
    from.#mapping = undefined;
    this.rings.push(...from.rings);
    this.inflightFd = from.inflightFd;
    this.inflightPayload = from.inflightPayload;
    from.inflightFd = from.memoryFd = -1;
  }

  /** Accepts features and protocol features. */
  async negotiate(
    features: readonly number[] = [Feature.indirectDesc, Feature.eventIdx],
  ): Promise<void> {
    const offered = await this.askNumber(Request.getFeatures);
    this.protocolFeatures = await this.askNumber(Request.getProtocolFeatures);
    this.send(Request.setProtocolFeatures, payload.u64(this.protocolFeatures));
    this.send(Request.setOwner);
    this.features = offered & bits(Feature.version1, Feature.protocolFeatures, ...features);
    await this.mustGrant(Request.setFeatures, payload.u64(this.features));
  }

  /** As `granted`, and it must be. */
  async mustGrant(type: number, body?: Uint8Array, fds?: number[]): Promise<void> {
    const answer = await this.granted(type, body, fds);
    if (answer !== true) throw new Error(`request ${type} was not granted: ${answer}`);
  }

  /** Makes guest memory. */
  makeMemory(length: number): void {
    const { sys } = this.context;
    this.memoryFd = sys.memfd("guest");
    sys.ftruncate(this.memoryFd, length);
    const mapping = sys.map(this.memoryFd, 0, length, true);
    if (typeof mapping === "number") throw new Error(`mmap: ${mapping}`);
    this.#mapping = mapping;
    this.memory = new DriverMemory(mapping, GUEST_BASE, USER_BASE);
  }

  /** SET_MEM_TABLE with one region, at `user` for the front-end. */
  async shareMemory(user: number = USER_BASE): Promise<void> {
    this.memory.userBase = user;
    const table = payload.join(
      payload.words(1, 0),
      payload.longs(GUEST_BASE, this.memory.length, user, 0),
    );
    await this.mustGrant(Request.setMemTable, table, [this.memoryFd]);
  }

  /** GET_INFLIGHT_FD unless there is one, and SET_INFLIGHT_FD. */
  async setInflight(queues: number, size: number): Promise<void> {
    if (this.inflightPayload === undefined) {
      const ask = payload.join(payload.longs(0, 0), payload.words(queues | size << 16));
      const reply = await this.ask(Request.getInflightFd, ask);
      this.inflightFd = reply.fds[0]!;
      this.inflightPayload = new Uint8Array(reply.payload.buffer);
    }
    await this.mustGrant(Request.setInflightFd, this.inflightPayload, [this.inflightFd]);
  }

  /** Lays a ring out in guest memory. */
  makeRing(index: number, size: number): DriverRing {
    const packed = has(this.features, Feature.ringPacked);
    const options = {
      size,
      indirect: has(this.features, Feature.indirectDesc),
      eventIdx: has(this.features, Feature.eventIdx),
    };
    return this.rings[index] = packed
      ? new PackedDriver(this.memory, options)
      : new SplitDriver(this.memory, options);
  }

  /** Tells the back-end about ring `index` and enables it. */
  async startQueue(index: number, base?: number): Promise<void> {
    const ring = this.rings[index]!;
    const { userBase } = this.memory;
    await this.mustGrant(Request.setVringNum, payload.words(index, ring.size));
    await this.mustGrant(Request.setVringBase, payload.words(index, base ?? ring.base));
    const address = payload.join(
      payload.words(index, 0),
      payload.longs(userBase + ring.descriptor, userBase + ring.used, userBase + ring.available),
      payload.longs(GUEST_BASE + ring.used),
    );
    await this.mustGrant(Request.setVringAddr, address);
    this.kicks[index] = this.eventfd();
    this.calls[index] = this.eventfd();
    await this.mustGrant(Request.setVringCall, payload.longs(index), [this.calls[index]!]);
    await this.mustGrant(Request.setVringKick, payload.longs(index), [this.kicks[index]!]);
    if (has(this.protocolFeatures, ProtocolFeature.mq)) {
      await this.mustGrant(Request.setVringEnable, payload.words(index, 1));
    }
  }

  /** GET_VRING_BASE. */
  async stopQueue(index: number): Promise<number> {
    const reply = await this.ask(Request.getVringBase, payload.words(index, 0));
    return reply.payload.getUint32(4, true);
  }

  /** Tells the back-end of new requests, if it wants to be told. */
  kick(index = 0, force = false): void {
    if (!force && !this.rings[index]!.wantsKick()) return;
    this.#buffer.view.setBigUint64(8192, 1n, true);
    this.context.sys.write(this.kicks[index]!, this.#buffer.address + 8192, 8);
  }

  /** Calls since the last question. */
  takeCalls(index = 0): number {
    const rc = this.context.sys.read(this.calls[index]!, this.#buffer.address + 8200, 8);
    return rc === 8 ? Number(this.#buffer.view.getBigUint64(8200, true)) : 0;
  }

  /** Makes the channel of the back-end's requests. */
  async openChannel(): Promise<void> {
    const pair = this.context.sys.socketpair();
    if (typeof pair === "number") throw new Error(`socketpair: ${pair}`);
    this.channel = pair[0];
    this.#owned.push(pair[0]);
    await this.mustGrant(Request.setBackendReqFd, undefined, [pair[1]]);
    this.context.sys.close(pair[1]);
  }

  /** What came on the channel, as types of requests. */
  channelMessages(): number[] {
    const got = this.context.sys.recv(this.channel, this.#buffer.address, 4096, MSG.DONTWAIT);
    const types: number[] = [];
    for (let at = 0; at + HEADER_SIZE <= got;) {
      types.push(this.#buffer.view.getUint32(at, true));
      at += HEADER_SIZE + this.#buffer.view.getUint32(at + 8, true);
    }
    return types;
  }

  /** Hangs up, keeping what another front-end may continue with. */
  disconnect(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.context.sys.close(this.fd);
    for (const fd of this.#owned) this.context.sys.close(fd);
    this.#buffer.unmap();
  }

  /** Hangs up and gives everything back. */
  close(): void {
    this.disconnect();
    this.#mapping?.unmap();
    this.#mapping = undefined;
    if (this.memoryFd >= 0) this.context.sys.close(this.memoryFd);
    if (this.inflightFd >= 0) this.context.sys.close(this.inflightFd);
    this.memoryFd = this.inflightFd = -1;
  }
}
