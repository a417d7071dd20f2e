/** Datagrams with one remote address: each piece that is sent is one or more of them, and any may get lost. */
import { CommandError } from "../base/mod.ts";
import type { SocketAddressValue } from "../qmp/schema/sockets.ts";
import {
  type Context,
  EPOLL,
  Errno,
  errnoText,
  SOCK,
  type SocketAddress,
  unresolvedInet,
} from "../sys/mod.ts";
import type { Watch } from "../sys/mod.ts";
import type { Channel, ChannelUser } from "./channel.ts";
import { Chardev } from "./chardev.ts";
import { familyNumber, type InetAddress, resolveInet } from "./socket.ts";

/** The largest payload of a datagram over IPv4, in bytes. */
const MAX_PAYLOAD = 65507;
const RECEIVE_BYTES = 65536;

/** The device. It is open once the first datagram has come: until then nobody is known to listen. */
export class UdpChardev extends Chardev {
  readonly filename = "udp";
  override readonly supportsOob = false;
  readonly #watch: Watch;
  #heard = false;

  private constructor(context: Context, id: string, private readonly fd: number) {
    super(context, id);
    this.#watch = context.loop.watch(fd, 0, () => this.#read());
  }

  /** Throws CommandError. */
  static async open(
    context: Context,
    id: string,
    remote: SocketAddressValue,
    local: SocketAddressValue | undefined,
  ): Promise<UdpChardev> {
    if (remote.type !== "inet" || (local !== undefined && local.type !== "inet")) {
      throw new CommandError("socket type unsupported for datagram");
    }
    if (remote.port === "") throw new CommandError("remote port not specified");
    const host = remote.host === "" ? "localhost" : remote.host;
    const [peer] = await resolveInet(context, { ...remote, host }, SOCK.DGRAM);
    const own = local === undefined ? undefined : await localAddress(context, local, peer);
    const { sys } = context;
    const fd = sys.socket(familyNumber[peer.family], SOCK.DGRAM);
    if (fd < 0) throw new CommandError(`Failed to create socket: ${errnoText(-fd)}`);
    const failed = (what: string, rc: number) => {
      sys.close(fd);
      return new CommandError(`${what}: ${errnoText(-rc)}`);
    };
    const bound = own === undefined ? 0 : sys.bind(fd, own);
    if (bound < 0) throw failed("Failed to bind socket", bound);
    const connected = sys.connect(fd, peer);
    if (connected < 0) throw failed("Failed to connect socket", connected);
    return new UdpChardev(context, id, fd);
  }

  override get isOpen(): boolean {
    return this.#heard;
  }

  override attach(user: ChannelUser): Channel {
    const channel = super.attach(user);
    this.pause(false); // it opens by reading
    return channel;
  }

  override pause(paused: boolean): void {
    this.#watch.set(paused ? 0 : EPOLL.IN);
  }

  override disconnect(): void {}

  protected override transmit(bytes: Uint8Array): void {
    const { sys, buffers } = this.context;
    const scratch = buffers.acquire(MAX_PAYLOAD);
    for (let at = 0; at < bytes.length; at += MAX_PAYLOAD) {
      const take = Math.min(bytes.length - at, MAX_PAYLOAD);
      scratch.bytes.set(bytes.subarray(at, at + take));
      const send = () => sys.send(this.fd, scratch.address, take, 0);
      // The first call reports, and so clears, that an earlier datagram found nobody.
      if (send() === -Errno.ECONNREFUSED) send();
    }
    buffers.release(scratch);
  }

  protected release(): void {
    this.#watch.close();
    this.context.sys.close(this.fd);
  }

  #read(): void {
    const { sys, buffers } = this.context;
    const piece = buffers.acquire(RECEIVE_BYTES);
    const got = sys.recv(this.fd, piece.address, RECEIVE_BYTES, 0);
    if (got >= 0 && !this.#heard) {
      this.#heard = true;
      this.user?.opened();
    }
    if (got > 0) this.receive(piece.bytes.subarray(0, got));
    buffers.release(piece);
  }
}

/** Where to bind; a part that is left empty is for the kernel to choose. */
async function localAddress(
  context: Context,
  local: InetAddress,
  peer: SocketAddress,
): Promise<SocketAddress> {
  const any = peer.family === "inet" ? "0.0.0.0" : "::";
  const wanted = {
    ...local,
    host: local.host === "" ? any : local.host,
    port: local.port === "" ? "0" : local.port,
  };
  const found = await resolveInet(context, wanted, SOCK.DGRAM);
  const fitting = found.find(({ family }) => family === peer.family);
  if (fitting !== undefined) return fitting;
  throw unresolvedInet(local, "Address family for hostname not supported");
}
