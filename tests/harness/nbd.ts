/** A scripted NBD client: it can do everything right, and anything wrong. */
import assert from "node:assert/strict";
import {
  CHUNK,
  CMD,
  goData,
  IHAVEOPT,
  metaData,
  NBDMAGIC,
  OPT,
  option,
  OPTION_REPLY_MAGIC,
  REP,
  requestHeader,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
  view,
} from "./nbd_wire.ts";
import { within } from "./wait.ts";

/** One reply to an option. */
export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** What an export said of itself. */
export interface ExportInfo {
  readonly size: number;
  readonly flags: number;
  /** Minimum, preferred, maximum; when offered. */
  readonly blocks?: readonly [number, number, number];
  readonly name?: string;
  readonly description?: string;
}

/** A structured reply chunk. */
export interface Chunk {
  readonly flags: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** Everything that answered one request. `error` 0 is success. */
export interface Answer {
  readonly error: number;
  /** The text of an error chunk. */
  readonly message?: string;
  /** The bytes of a read; holes are zeroes. */
  readonly data: Uint8Array;
  readonly chunks: readonly Chunk[];
}

/** A request as a test writes it. */
export interface Request {
  readonly type: number;
  readonly flags?: number;
  readonly offset?: number | bigint;
  readonly length?: number;
  readonly payload?: Uint8Array;
}

const LIMIT = 20_000;

/** A connection to an NBD server. Close it, or use `using`. */
export class NbdPeer {
  structured = false;
  private buffer = new Uint8Array(0);
  private nextCookie = 1n;
  private readonly asked = new Map<bigint, Request>();
  private readonly answered = new Map<bigint, Answer>();
  private readonly partial = new Map<bigint, Chunk[]>();
  private open = true;

  constructor(private readonly conn: Deno.Conn) {}

  /** Connects; nothing is read or sent. */
  static async connect(target: string | { port: number; host?: string }): Promise<NbdPeer> {
    return new NbdPeer(
      typeof target === "string"
        ? await Deno.connect({ transport: "unix", path: target })
        : await Deno.connect({ port: target.port, hostname: target.host ?? "127.0.0.1" }),
    );
  }

  /** Connects and negotiates up to the transmission phase. */
  static async attach(
    target: string | { port: number },
    name: string,
    options: { structured?: boolean; contexts?: readonly string[] } = {},
  ): Promise<NbdPeer & { readonly info: ExportInfo }> {
    const peer = await NbdPeer.connect(target);
    try {
      await peer.hello();
      if (options.structured ?? true) await peer.negotiateStructured();
      if (options.contexts) await peer.setContexts(name, options.contexts);
      return Object.assign(peer, { info: await peer.go(name) });
    } catch (error) {
      peer.close();
      throw error;
    }
  }

  /** Sends bytes as they are. */
  async send(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) at += await this.conn.write(bytes.subarray(at));
  }

  /** Reads exactly that many bytes. */
  async bytes(count: number): Promise<Uint8Array> {
    while (this.buffer.length < count) {
      if (!await this.more()) {
        throw new Error(`the server closed the connection; ${count - this.buffer.length} missing`);
      }
    }
    const taken = this.buffer.slice(0, count);
    this.buffer = this.buffer.subarray(count);
    return taken;
  }

  /** Waits until the server closes or resets; gives the bytes that came before. */
  async untilClosed(ms = LIMIT): Promise<Uint8Array> {
    const drained = (async () => {
      while (await this.more(ms));
      return this.buffer;
    })();
    return await within(drained, ms, "the server to close the connection");
  }

  /** Reads the server's greeting and answers with client flags. */
  async hello(flags = 3): Promise<number> {
    const greeting = view(await this.bytes(18));
    assert.equal(greeting.getBigUint64(0), NBDMAGIC);
    assert.equal(greeting.getBigUint64(8), IHAVEOPT);
    const client = new Uint8Array(4);
    view(client).setUint32(0, flags);
    await this.send(client);
    return greeting.getUint16(16);
  }

  /** Reads one option reply. */
  async optionReply(): Promise<OptionReply> {
    const header = view(await this.bytes(20));
    assert.equal(header.getBigUint64(0), OPTION_REPLY_MAGIC);
    const data = await this.bytes(header.getUint32(16));
    return { option: header.getUint32(8), type: header.getUint32(12), data };
  }

  /** Sends an option and collects its replies up to the final one (ACK or an error). */
  async option(code: number, data?: Uint8Array): Promise<OptionReply[]> {
    await this.send(option(code, data));
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.optionReply();
      assert.equal(reply.option, code);
      replies.push(reply);
      if (reply.type === REP.ACK || reply.type >= 0x80000000) return replies;
    }
  }

  /** The type of the final reply to an option. */
  async optionResult(code: number, data?: Uint8Array): Promise<number> {
    return (await this.option(code, data)).at(-1)!.type;
  }

  /** Switches structured replies on. */
  async negotiateStructured(): Promise<void> {
    assert.equal(await this.optionResult(OPT.STRUCTURED_REPLY), REP.ACK);
    this.structured = true;
  }

  /** Sets meta contexts; gives their ids by name. */
  async setContexts(name: string, queries: readonly string[]): Promise<Map<string, number>> {
    const replies = await this.option(OPT.SET_META_CONTEXT, metaData(name, queries));
    assert.equal(replies.at(-1)!.type, REP.ACK);
    return contexts(replies);
  }

  /** Enters transmission with NBD_OPT_GO. */
  async go(name: string, ...requests: number[]): Promise<ExportInfo> {
    const replies = await this.option(OPT.GO, goData(name, ...requests));
    const last = replies.at(-1)!;
    assert.equal(last.type, REP.ACK, `GO ${name}: ${new TextDecoder().decode(last.data)}`);
    return exportInfo(replies);
  }

  /** Sends a request and gives its cookie; the answer is collected by {@link answer}. */
  async ask(request: Request): Promise<bigint> {
    const cookie = this.nextCookie++;
    this.asked.set(cookie, request);
    const header = requestHeader({
      type: request.type,
      flags: request.flags ?? 0,
      cookie,
      offset: request.offset ?? 0,
      length: request.length ?? request.payload?.length ?? 0,
    });
    await this.send(header);
    if (request.payload !== undefined) await this.send(request.payload);
    return cookie;
  }

  /** The answer to a request; answers to others that come first are kept. */
  async answer(cookie: bigint): Promise<Answer> {
    for (;;) {
      const answer = this.answered.get(cookie);
      if (answer !== undefined) {
        this.answered.delete(cookie);
        return answer;
      }
      await this.receive();
    }
  }

  /** Sends a request and waits for its answer. */
  async call(request: Request): Promise<Answer> {
    return await this.answer(await this.ask(request));
  }

  /** Reads; must succeed. */
  async read(offset: number, length: number, flags = 0): Promise<Uint8Array> {
    const answer = await this.call({ type: CMD.READ, offset, length, flags });
    assert.equal(answer.error, 0, `read ${offset}+${length}: ${answer.message ?? answer.error}`);
    return answer.data;
  }

  /** Writes; must succeed. */
  async write(offset: number, payload: Uint8Array, flags = 0): Promise<void> {
    const answer = await this.call({ type: CMD.WRITE, offset, payload, flags });
    assert.equal(answer.error, 0, `write ${offset}+${payload.length}: ${answer.message}`);
  }

  /** Flushes; must succeed. */
  async flush(): Promise<void> {
    assert.equal((await this.call({ type: CMD.FLUSH })).error, 0);
  }

  /** Says goodbye and closes. */
  async disconnect(): Promise<void> {
    await this.send(requestHeader({ type: CMD.DISC, cookie: 0n, offset: 0, length: 0 }));
    await this.untilClosed();
    this.close();
  }

  /** Ends our sending side. */
  async shutdown(): Promise<void> {
    await this.conn.closeWrite();
  }

  /** Closes without a word. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.conn.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  private async more(ms = LIMIT): Promise<boolean> {
    const chunk = new Uint8Array(256 * 1024);
    let count: number | null;
    try {
      count = await within(this.conn.read(chunk), ms, "bytes from the NBD server");
    } catch (error) {
      if (error instanceof Deno.errors.ConnectionReset) return false;
      if (error instanceof Deno.errors.BrokenPipe) return false;
      this.close(); // ends the read that is still pending
      throw error;
    }
    if (count === null) return false;
    const joined = new Uint8Array(this.buffer.length + count);
    joined.set(this.buffer);
    joined.set(chunk.subarray(0, count), this.buffer.length);
    this.buffer = joined;
    return true;
  }

  private async receive(): Promise<void> {
    const magic = view(await this.bytes(4)).getUint32(0);
    if (magic === SIMPLE_REPLY_MAGIC) return await this.receiveSimple();
    assert.equal(magic, STRUCTURED_REPLY_MAGIC, "reply magic");
    const header = view(await this.bytes(16));
    const cookie = header.getBigUint64(4);
    const data = await this.bytes(header.getUint32(12));
    const chunk = { flags: header.getUint16(0), type: header.getUint16(2), data };
    assert.ok(this.asked.has(cookie), `a reply to nobody: ${cookie}`);
    const chunks = this.partial.get(cookie) ?? [];
    chunks.push(chunk);
    this.partial.set(cookie, chunks);
    if ((chunk.flags & 1) === 0) return;
    this.partial.delete(cookie);
    this.answered.set(cookie, assemble(this.asked.get(cookie)!, chunks));
    this.asked.delete(cookie);
  }

  private async receiveSimple(): Promise<void> {
    const header = view(await this.bytes(12));
    const error = header.getUint32(0);
    const cookie = header.getBigUint64(4);
    const request = this.asked.get(cookie);
    assert.ok(request !== undefined, `a reply to nobody: ${cookie}`);
    this.asked.delete(cookie);
    const data = request.type === CMD.READ && error === 0
      ? await this.bytes(request.length ?? 0)
      : new Uint8Array(0);
    this.answered.set(cookie, { error, data, chunks: [] });
  }
}

/** Ids by name from META_CONTEXT replies. */
export function contexts(replies: readonly OptionReply[]): Map<string, number> {
  const found = replies.filter((reply) => reply.type === REP.META_CONTEXT);
  return new Map(
    found.map(({ data }) => [new TextDecoder().decode(data.subarray(4)), view(data).getUint32(0)]),
  );
}

/** What INFO replies say together. */
export function exportInfo(replies: readonly OptionReply[]): ExportInfo {
  const info: { -readonly [K in keyof ExportInfo]: ExportInfo[K] } = { size: -1, flags: 0 };
  for (const { type, data } of replies) {
    if (type !== REP.INFO) continue;
    const at = view(data);
    const text = () => new TextDecoder().decode(data.subarray(2));
    switch (at.getUint16(0)) {
      case 0:
        info.size = Number(at.getBigUint64(2));
        info.flags = at.getUint16(10);
        break;
      case 1:
        info.name = text();
        break;
      case 2:
        info.description = text();
        break;
      case 3:
        info.blocks = [at.getUint32(2), at.getUint32(6), at.getUint32(10)];
        break;
    }
  }
  return info;
}

function assemble(request: Request, chunks: readonly Chunk[]): Answer {
  const length = request.type === CMD.READ ? request.length ?? 0 : 0;
  const start = BigInt(request.offset ?? 0);
  let error = 0;
  let message: string | undefined;
  const data = new Uint8Array(chunks.some((chunk) => chunk.type >= 32768) ? 0 : length);
  let covered = 0;
  for (const chunk of chunks) {
    const at = view(chunk.data);
    if (chunk.type >= 32768) {
      error = at.getUint32(0);
      message = new TextDecoder().decode(chunk.data.subarray(6, 6 + at.getUint16(4)));
    } else if (chunk.type === CHUNK.OFFSET_DATA) {
      const to = Number(at.getBigUint64(0) - start);
      assert.ok(to >= 0 && to + chunk.data.length - 8 <= length, "data outside the request");
      if (data.length > 0) data.set(chunk.data.subarray(8), to);
      covered += chunk.data.length - 8;
    } else if (chunk.type === CHUNK.OFFSET_HOLE) {
      const to = Number(at.getBigUint64(0) - start);
      const hole = at.getUint32(8);
      assert.ok(to >= 0 && to + hole <= length, "a hole outside the request");
      covered += hole;
    }
  }
  if (error === 0) assert.equal(covered, length, "chunks must cover the request exactly");
  return { error, ...(message === undefined ? {} : { message }), data, chunks };
}
