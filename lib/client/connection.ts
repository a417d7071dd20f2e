/**
 * A QMP session as a client has it: greeting, negotiation, requests matched with replies by id, events.
 *
 * Bounded by what the reader bounds (lib/qmp/json): one message of the server at a time.
 */
import { CommandError, type ErrorClass } from "../base/mod.ts";
import {
  isJsonObject,
  type JsonObject,
  JsonReader,
  type JsonValue,
  writeJson,
} from "../qmp/json/mod.ts";
import {
  AF,
  type Context,
  EPOLL,
  Errno,
  errnoText,
  type Memory,
  SO,
  SOCK,
  type SocketAddress,
  SOL,
  type Watch,
} from "../sys/mod.ts";

/** Bytes received at once. */
const CHUNK = 65536;

/** How long a monitor has for its greeting: it serves one client at a time. */
const GREETING_NS = 5e9;
const NO_GREETING =
  "no greeting within 5 seconds: a monitor serves one client at a time, and another may be connected";

/** An event as it came. */
export interface QmpEvent {
  readonly name: string;
  readonly data: JsonObject | undefined;
  /** Microseconds since 1970. */
  readonly timeUs: number;
}

/** An error that the server replied with. */
export class QmpError extends CommandError {
  constructor(desc: string, errorClass: ErrorClass) {
    super(desc, errorClass);
  }
}

interface Waiting {
  readonly resolve: (value: JsonValue) => void;
  readonly reject: (error: Error) => void;
}

const TCP_ADDRESS = /^(?:\[([^\]]+)\]|([^/:]+)):(\d+)$/;

/** `PATH`, `@ABSTRACT`, `HOST:PORT` or `[IPV6]:PORT` as addresses to try. Throws CommandError. */
async function addresses(context: Context, text: string): Promise<SocketAddress[]> {
  if (text.startsWith("@")) return [{ family: "unix", path: `\0${text.slice(1)}` }];
  const tcp = TCP_ADDRESS.exec(text);
  if (tcp === null) return [{ family: "unix", path: text }];
  return await context.sys.resolve(tcp[1] ?? tcp[2]!, Number(tcp[3]));
}

/** Connects and returns the descriptor. Throws CommandError. */
async function dial(context: Context, text: string): Promise<number> {
  const { sys } = context;
  let rc = -Errno.EINVAL;
  for (const address of await addresses(context, text)) {
    const family = { unix: AF.UNIX, inet: AF.INET, inet6: AF.INET6, vsock: AF.VSOCK };
    const fd = sys.socket(family[address.family], SOCK.STREAM);
    rc = fd < 0 ? fd : sys.connect(fd, address);
    if (rc === -Errno.EINPROGRESS) rc = await established(context, fd);
    if (rc >= 0) return fd;
    if (fd >= 0) sys.close(fd);
  }
  throw new CommandError(`Failed to connect to '${text}': ${errnoText(-rc)}`);
}

async function established(context: Context, fd: number): Promise<number> {
  await new Promise<void>((resolve) => {
    const watch = context.loop.watch(fd, EPOLL.OUT, () => {
      watch.close();
      resolve();
    });
  });
  return -context.sys.getsockopt(fd, SOL.SOCKET, SO.ERROR);
}

/** A connection to a monitor. */
export class QmpConnection {
  /** What the greeting says of the server, as `{version: ...}`. */
  greeting: JsonObject | undefined;
  /** Called for each event. */
  onEvent: (event: QmpEvent) => void = () => {};
  /** Called once when the server has hung up. */
  onClose: () => void = () => {};
  readonly #context: Context;
  readonly #fd: number;
  readonly #buffer: Memory;
  readonly #watch: Watch;
  readonly #reader: JsonReader;
  readonly #waiting = new Map<number, Waiting>();
  readonly #greeted: Promise<void>;
  #greet: { resolve: () => void; reject: (error: Error) => void } | undefined;
  #unsent: Uint8Array[] = [];
  #ids = 0;
  #closed = false;

  private constructor(context: Context, fd: number) {
    this.#context = context;
    this.#fd = fd;
    this.#buffer = context.sys.allocate(CHUNK);
    this.#reader = new JsonReader({
      value: (value) => this.#message(value),
      error: (problem) => this.#fail(new CommandError(`not a QMP server: ${problem}`)),
    });
    this.#greeted = new Promise((resolve, reject) => this.#greet = { resolve, reject });
    this.#watch = context.loop.watch(fd, EPOLL.IN, (events) => this.#ready(events));
  }

  /**
   * Connects to `address` (a path, `@NAME` in the abstract namespace, `HOST:PORT`), waits for the greeting and
   * negotiates. Throws CommandError.
   */
  static async open(context: Context, address: string): Promise<QmpConnection> {
    const connection = new QmpConnection(context, await dial(context, address));
    const late = context.loop.timer(
      GREETING_NS,
      () => connection.#fail(new CommandError(NO_GREETING)),
    );
    try {
      await connection.#greeted;
      late.cancel();
      await connection.execute("qmp_capabilities");
    } catch (error) {
      late.cancel();
      connection.close();
      throw error;
    }
    return connection;
  }

  /** Whether the connection is over. */
  get closed(): boolean {
    return this.#closed;
  }

  /** Runs a command; resolves with what it returns. QmpError when refused, CommandError when cut off. */
  execute(command: string, args?: JsonObject): Promise<JsonValue> {
    return this.request({
      execute: command,
      ...(args === undefined ? {} : { arguments: args }),
    } as JsonObject);
  }

  /** Sends a request as it is, but for its id. */
  request(request: JsonObject): Promise<JsonValue> {
    if (this.#closed) return Promise.reject(new CommandError("the connection is closed"));
    const id = ++this.#ids;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#unsent.push(new TextEncoder().encode(writeJson({ ...request, id }) + "\n"));
      this.#send();
    });
  }

  /** Hangs up. Requests under way are rejected. */
  close(): void {
    this.#fail(new CommandError("the connection is closed"));
  }

  #fail(error: Error): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    this.#context.sys.close(this.#fd);
    this.#buffer.unmap();
    this.#greet?.reject(error);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.onClose();
  }

  #ready(events: number): void {
    if ((events & EPOLL.OUT) !== 0) this.#send();
    if (this.#closed || (events & ~EPOLL.OUT) === 0) return;
    const got = this.#context.sys.recv(this.#fd, this.#buffer.address, CHUNK, 0);
    if (got === -Errno.EAGAIN || got === -Errno.EINTR) return;
    if (got > 0) return this.#reader.feed(this.#buffer.bytes.slice(0, got));
    const why = got === 0 ? "the daemon has closed the connection" : errnoText(-got);
    this.#fail(new CommandError(why));
  }

  #send(): void {
    const { sys } = this.#context;
    for (let first = this.#unsent[0]; first !== undefined; first = this.#unsent[0]) {
      const piece = first.subarray(0, CHUNK);
      const memory = sys.allocate(piece.length);
      memory.bytes.set(piece);
      const sent = sys.send(this.#fd, memory.address, piece.length, 0);
      memory.unmap();
      if (sent === -Errno.EAGAIN || sent === -Errno.EINTR) {
        return this.#watch.set(EPOLL.IN | EPOLL.OUT);
      }
      if (sent < 0) return this.#fail(new CommandError(errnoText(-sent)));
      if (sent < first.length) this.#unsent[0] = first.subarray(sent);
      else this.#unsent.shift();
    }
    this.#watch.set(EPOLL.IN);
  }

  #message(message: JsonValue): void {
    if (this.#closed || !isJsonObject(message)) return;
    if (isJsonObject(message["QMP"])) {
      this.greeting = message["QMP"];
      this.#greet?.resolve();
      this.#greet = undefined;
    } else if (typeof message["event"] === "string") {
      this.onEvent(eventOf(message["event"], message));
    } else {
      this.#reply(message);
    }
  }

  #reply(message: JsonObject): void {
    const waiting = this.#waiting.get(message["id"] as number);
    if (waiting === undefined) return;
    this.#waiting.delete(message["id"] as number);
    const { error } = message;
    if (isJsonObject(error)) {
      waiting.reject(new QmpError(String(error["desc"]), error["class"] as ErrorClass));
    } else {
      waiting.resolve(message["return"] ?? null);
    }
  }
}

function eventOf(name: string, message: JsonObject): QmpEvent {
  const { data, timestamp } = message;
  const time = isJsonObject(timestamp)
    ? Number(timestamp["seconds"]) * 1e6 + Number(timestamp["microseconds"])
    : 0;
  return { name, data: isJsonObject(data) ? data : undefined, timeUs: time };
}
