import assert from "node:assert/strict";
import { BlockGraph, driverRegistry } from "../block/mod.ts";
import { drivers } from "../block/drivers/mod.ts";
import { ExportRegistry } from "../export/mod.ts";
import type { NbdServerOptionsValue } from "../qmp/schema/export.ts";
import { AF, createContext, EPOLL, Errno, type OwnedContext, SOCK, SysError } from "../sys/mod.ts";
import { nbdHandlers } from "./commands.ts";
import { NbdControl } from "./control.ts";
import { handshake, request } from "./testing.ts";
import { Cmd } from "./wire.ts";

async function withDaemon(
  test: (parts: {
    control: NbdControl;
    exports: ExportRegistry;
    commands: ReturnType<typeof nbdHandlers>;
    events: string[];
    context: OwnedContext;
    dir: string;
  }) => Promise<void>,
): Promise<void> {
  const dir = await Deno.makeTempDir();
  const context = createContext({ name: "test" });
  const events: string[] = [];
  const sink = {
    emit: (name: string, data: unknown) => events.push(`${name} ${JSON.stringify(data)}`),
  };
  const graph = new BlockGraph({ context, drivers: driverRegistry(drivers), events: sink });
  const exports = new ExportRegistry({ graph, events: sink });
  const control = new NbdControl({ context, graph, exports });
  try {
    for (const [name, readOnly] of [["n", false], ["ro", true]] as const) {
      const options = { driver: "null-co", "node-name": name, size: 65536, "read-only": readOnly };
      await graph.add(options, { monitorOwned: true });
    }
    await test({
      control,
      exports,
      commands: nbdHandlers({ control, exports, graph }),
      events,
      context,
      dir,
    });
  } finally {
    await control.close();
    await graph.closeAll();
    await context.close();
    await Deno.remove(dir, { recursive: true });
  }
}

const unix = (path: string): NbdServerOptionsValue => ({ addr: { type: "unix", path } });
const nbd = (id: string, more: Record<string, unknown> = {}) =>
  ({ type: "nbd", id, "node-name": "n", ...more }) as Parameters<ExportRegistry["add"]>[0];

Deno.test("clients are told apart by where they call from", () =>
  withDaemon(async ({ control, dir }) => {
    const peerOf = async (connection: Deno.Conn) => {
      assert.equal(await connection.read(new Uint8Array(18)), 18);
      const [client] = control.server!.clients();
      connection.close();
      await control.stop();
      return client!.peer;
    };
    await control.start(unix(`${dir}/s`));
    const local = await Deno.connect({ transport: "unix", path: `${dir}/s` });
    assert.equal(await peerOf(local), `client 1 (process ${Deno.pid})`);
    for (const [host, shown] of [["127.0.0.1", "127.0.0.1"], ["::1", "[::1]"]] as const) {
      await control.start({ addr: { type: "inet", host, port: "0" } });
      const [bound] = control.server!.localAddresses();
      assert.ok(typeof bound === "object" && "host" in bound);
      const caller = await Deno.connect({ hostname: host, port: bound.port });
      const { port } = caller.localAddr;
      assert.equal(await peerOf(caller), `client 1 (${shown}:${port})`);
    }
  }));

Deno.test("exports and the server refuse in the original's words", () =>
  withDaemon(async ({ control, exports, commands, dir }) => {
    const refused = (promise: Promise<unknown>, message: string) =>
      assert.rejects(promise, { message });
    await refused(exports.add(nbd("e")), "NBD server not running");
    await refused(control.stop(), "NBD server not running");
    await refused(
      control.start(unix(`${dir}/no/s`)),
      `Failed to bind socket to ${dir}/no/s: No such file or directory`,
    );
    await refused(
      control.start(unix("a".repeat(200))),
      `UNIX socket path '${"a".repeat(200)}' is too long`,
    );
    const inet = (host: string, port: string, more = {}) =>
      control.start({ addr: { type: "inet", host, port, ...more } });
    await refused(
      inet("127.0.0.1", "x"),
      "address resolution failed for 127.0.0.1:x: Servname not supported for ai_socktype",
    );
    await refused(
      inet("127.0.0.1", "1", { ipv4: false, ipv6: false }),
      "Cannot disable IPv4 and IPv6 at same time",
    );
    await refused(
      control.start({ addr: { type: "fd", str: "abc" } }),
      "Unable to parse FD number abc",
    );
    await refused(
      control.start({ addr: { type: "fd", str: "0" } }),
      "File descriptor '0' is not a socket",
    );
    await refused(
      control.start({ ...unix(`${dir}/s`), "tls-creds": "zz" }),
      "No TLS credentials with id 'zz'",
    );
    await control.start(unix(`${dir}/s`));
    await refused(control.start(unix(`${dir}/t`)), "NBD server already running");
    await exports.add(nbd("e"));
    await refused(exports.add(nbd("e")), "Block export id 'e' is already in use");
    await refused(exports.add(nbd("e2")), "NBD server already has export named 'n'");
    await refused(exports.add(nbd("1x", { name: "y" })), "Invalid block export id");
    await refused(
      exports.add(nbd("e3", { "node-name": "nope" })),
      "Cannot find device='' nor node-name='nope'",
    );
    await refused(
      exports.add(nbd("e3", { "node-name": "ro", writable: true })),
      "Cannot export read-only node as writable",
    );
    await refused(
      exports.add(nbd("e3", { name: "y".repeat(4097) })),
      `export name '${"y".repeat(4097)}' too long`,
    );
    await refused(
      exports.add(nbd("e3", { name: "y", bitmaps: ["bm"] })),
      "Bitmap 'bm' is not found",
    );
    await refused(exports.add(nbd("e3", { name: "y", iothread: "io" })), 'iothread "io" not found');
    assert.throws(() => exports.del("zz"), { message: "Export 'zz' is not found" });
    assert.throws(() => commands["nbd-server-remove"]({ name: "zz" }), {
      message: "Export 'zz' is not found",
    });
  }));

Deno.test("stopping removes the exports, oldest first, and the socket", () =>
  withDaemon(async ({ control, exports, commands, events, dir }) => {
    await control.start(unix(`${dir}/s`));
    await exports.add(nbd("a", { writable: true }));
    await commands["nbd-server-add"]({ device: "ro", name: "b", writable: true });
    assert.deepEqual(exports.query().map(({ id }) => id), ["b", "a"]);
    await control.stop();
    assert.deepEqual(events, [
      'BLOCK_EXPORT_DELETED {"id":"a"}',
      'BLOCK_EXPORT_DELETED {"id":"b"}',
    ]);
    await assert.rejects(Deno.stat(`${dir}/s`), Deno.errors.NotFound);
    assert.deepEqual(exports.query(), []);
  }));

Deno.test("a stale socket file is replaced, a file with contents is not", () =>
  withDaemon(async ({ control, dir }) => {
    Deno.listen({ transport: "unix", path: `${dir}/s` }).close();
    await control.start(unix(`${dir}/s`));
    await control.stop();
    await Deno.writeTextFile(`${dir}/f`, "precious");
    await assert.rejects(control.start(unix(`${dir}/f`)), {
      message: `Failed to bind socket to ${dir}/f: Address already in use`,
    });
    assert.equal(await Deno.readTextFile(`${dir}/f`), "precious");
  }));

Deno.test("beyond max-connections clients wait; stop drops those that negotiate", () =>
  withDaemon(async ({ control, dir }) => {
    await control.start({ ...unix(`${dir}/s`), "max-connections": 1 });
    const connect = () => Deno.connect({ transport: "unix", path: `${dir}/s` });
    const first = await connect();
    const greeting = new Uint8Array(18);
    assert.equal(await first.read(greeting), 18);
    const second = await connect();
    assert.equal(control.server!.clients().length, 1);
    first.close();
    assert.equal(await second.read(greeting), 18);
    await control.stop();
    assert.equal(await second.read(greeting), null);
    second.close();
  }));

Deno.test("clients that are gone before they are accepted do not count", () =>
  withDaemon(async ({ control, context: { sys, loop }, dir }) => {
    await control.start({ ...unix(`${dir}/s`), "max-connections": 2 });
    for (let i = 0; i < 5; i++) {
      const fd = sys.socket(AF.UNIX, SOCK.STREAM);
      assert.equal(sys.connect(fd, { family: "unix", path: `${dir}/s` }), 0);
      sys.close(fd);
      await loop.sleep(0);
    }
    const client = await Deno.connect({ transport: "unix", path: `${dir}/s` });
    assert.equal(await client.read(new Uint8Array(18)), 18);
    assert.equal(control.server!.clients().length, 1);
    client.close();
  }));

Deno.test("a server that is being started or stopped is stopped when close returns", () =>
  withDaemon(async ({ control, exports, dir }) => {
    const starting = control.start(unix(`${dir}/s`));
    await control.close();
    await starting;
    assert.equal(control.server, undefined);
    await control.start(unix(`${dir}/s`));
    await exports.add(nbd("e"));
    const stopping = control.stop();
    await assert.rejects(exports.add(nbd("f")), { message: "NBD server not running" });
    await control.close();
    assert.equal(control.server, undefined);
    await stopping;
  }));

Deno.test("hard removal drops connected clients, in the handshake or not; safe removal does not", () =>
  withDaemon(async ({ control, exports, events, dir }) => {
    await control.start(unix(`${dir}/s`));
    await exports.add(nbd("e", { name: "disk" }));
    const connect = async () => {
      const client = await Deno.connect({ transport: "unix", path: `${dir}/s` });
      assert.equal(await client.read(new Uint8Array(18)), 18);
      return client;
    };
    const user = await connect();
    await user.write(handshake("disk"));
    const bytes = new Uint8Array(1024);
    for (let got = 0; got < 20 + 14 + 20 + 12 + 20;) got += await user.read(bytes) ?? 1024;
    const negotiating = await connect();
    assert.throws(() => exports.del("e"), { message: "export 'e' still in use" });
    await user.write(request(Cmd.read, 0, 512));
    for (let got = 0; got < 16 + 512;) got += await user.read(bytes) ?? 1024;
    exports.del("e", "hard");
    assert.equal(await user.read(bytes), null);
    await exports.closeAll();
    assert.deepEqual(events, ['BLOCK_EXPORT_DELETED {"id":"e"}']);
    await negotiating.write(handshake("disk"));
    const got = await negotiating.read(bytes);
    assert.match(new TextDecoder().decode(bytes.subarray(0, got!)), /export 'disk' not present/);
    user.close();
    negotiating.close();
  }));

/** How a machine refuses the next client; what it is asked for later it gives. */
const refusals: Record<string, (context: OwnedContext) => void> = {
  "to watch its socket": ({ sys }) => {
    const { epollCtl } = sys;
    sys.epollCtl = (epfd, op, fd, events, data) => {
      if (op !== EPOLL.CTL_ADD) return epollCtl.call(sys, epfd, op, fd, events, data);
      sys.epollCtl = epollCtl;
      return -Errno.ENOSPC;
    };
  },
  "for its greeting": ({ buffers }) => {
    const { acquire } = buffers;
    buffers.acquire = () => {
      buffers.acquire = acquire;
      throw new SysError("mmap", Errno.ENOMEM);
    };
  },
};
for (const [what, refuse] of Object.entries(refusals)) {
  Deno.test(`a client that there is no room for (${what}) is hung up on, others are served`, () =>
    withDaemon(async ({ control, context, dir }) => {
      const path = `${dir}/nbd.sock`;
      await control.start(unix(path));
      refuse(context);
      const unlucky = await Deno.connect({ transport: "unix", path });
      assert.equal(await unlucky.read(new Uint8Array(18)), null);
      unlucky.close();
      assert.deepEqual(control.server!.clients(), []);
      const next = await Deno.connect({ transport: "unix", path });
      assert.equal(await next.read(new Uint8Array(18)), 18);
      next.close();
    }));
}
