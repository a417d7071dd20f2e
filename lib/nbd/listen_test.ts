/** Every kind of address that the server listens on: a client gets its greeting there. */
import assert from "node:assert/strict";
import { BlockGraph, driverRegistry } from "../block/mod.ts";
import { ExportRegistry } from "../export/mod.ts";
import type { NbdServerOptionsValue } from "../qmp/schema/export.ts";
import { AF, createContext, type OwnedContext, SOCK, type SocketAddress } from "../sys/mod.ts";
import { NbdControl } from "./control.ts";
import { AGAIN } from "./transport.ts";
import { greeting } from "./wire_options.ts";

type Address = NbdServerOptionsValue["addr"];
const IN_PROGRESS = -115;

async function withControl(
  body: (control: NbdControl, context: OwnedContext) => Promise<void>,
): Promise<void> {
  const context = createContext({ name: "test" });
  const events = { emit: () => {} };
  const graph = new BlockGraph({ context, drivers: driverRegistry([]), events });
  const exports = new ExportRegistry({ graph, events });
  const control = new NbdControl({ context, graph, exports });
  try {
    await body(control, context);
  } finally {
    await control.close();
    await graph.closeAll();
    await context.close();
  }
}

const families = { unix: AF.UNIX, inet: AF.INET, inet6: AF.INET6, vsock: AF.VSOCK };

/** Connects, and receives the greeting. */
async function assertGreets({ sys, loop }: OwnedContext, address: SocketAddress): Promise<void> {
  const fd = sys.socket(families[address.family], SOCK.STREAM);
  const memory = sys.allocate(64);
  try {
    const rc = sys.connect(fd, address);
    assert.ok(rc === 0 || rc === IN_PROGRESS, `connect: ${rc}`);
    let got = AGAIN;
    for (let i = 0; i < 10_000 && got === AGAIN; i++) {
      await loop.sleep(0);
      got = sys.recv(fd, memory.address, 64, 0);
    }
    assert.equal(got, 18);
    assert.deepEqual(memory.bytes.slice(0, 18), greeting());
  } finally {
    memory.unmap();
    sys.close(fd);
  }
}

/** Where the server listens, as the kernel tells it. */
function localAddresses(control: NbdControl): SocketAddress[] {
  return control.server!.localAddresses().map((address) => {
    assert.ok(typeof address === "object");
    return address;
  });
}

for (const tight of [true, false]) {
  Deno.test(`abstract sockets, ${tight ? "tight" : "padded"}, leave no file`, () =>
    withControl(async (control, context) => {
      const path = `qsd-test-${crypto.randomUUID()}`;
      await control.start({ addr: { type: "unix", path, abstract: true, tight } });
      const name = tight ? path : path.padEnd(107, "\0");
      await assertGreets(context, { family: "unix", path: `\0${name}` });
      await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
      await control.stop();
      await control.start({ addr: { type: "unix", path, abstract: true, tight } });
    }));
}

for (const [host, family] of [["127.0.0.1", "inet"], ["::1", "inet6"]] as const) {
  Deno.test(`${host}: with 'to', the next free port is taken`, () =>
    withControl(async (control, context) => {
      // The kernel chooses a port that is free; another server has it from then on.
      const taken = Deno.listen({ hostname: host, port: 0 });
      const { port } = taken.addr as Deno.NetAddr;
      const start = (to?: number) =>
        control.start({
          addr: { type: "inet", host, port: `${port}`, ...(to === undefined ? {} : { to }) },
        });
      await assert.rejects(start(), {
        message: "Failed to find an available port: Address already in use",
      });
      await start(port + 50);
      const [address] = localAddresses(control);
      assert.ok(address?.family === family, JSON.stringify(address));
      assert.ok(address.port > port && address.port <= port + 50, `${address.port}`);
      await assertGreets(context, address);
      taken.close();
    }));
}

Deno.test("without a host, IPv4 and IPv6 are listened on, or one of them", () =>
  withControl(async (control, context) => {
    const inet = (more: Record<string, boolean>) =>
      ({ type: "inet", host: "", port: "0", ...more }) as Address;
    for (
      const [more, want] of [
        [{}, ["inet", "inet6"]],
        [{ ipv4: true }, ["inet"]],
        [{ ipv6: true }, ["inet6"]],
        [{ ipv4: false }, ["inet6"]],
        [{ ipv6: false }, ["inet"]],
      ] as const
    ) {
      await control.start({ addr: inet(more) });
      const found = localAddresses(control);
      assert.deepEqual(found.map(({ family }) => family), want);
      for (const address of found) {
        assert.ok("port" in address && "host" in address);
        const host = address.family === "inet" ? "127.0.0.1" : "::1";
        await assertGreets(context, { ...address, host });
      }
      await control.stop();
    }
  }));

Deno.test("an inherited socket is used by its number, and its file stays", () =>
  withControl(async (control, context) => {
    const dir = await Deno.makeTempDir();
    try {
      const path = `${dir}/s`;
      const { sys } = context;
      const fd = sys.socket(AF.UNIX, SOCK.STREAM);
      assert.equal(sys.bind(fd, { family: "unix", path }), 0);
      await control.start({ addr: { type: "fd", str: `${fd}` } });
      await assertGreets(context, { family: "unix", path });
      await control.stop();
      assert.ok((await Deno.stat(path)).isSocket);
      assert.equal(sys.fcntl(fd, 1, 0), -9, "it is closed with the server");
    } finally {
      await Deno.remove(dir, { recursive: true });
    }
  }));

Deno.test("vsock addresses that are no numbers are refused", () =>
  withControl(async (control) => {
    const start = (cid: string, port: string) =>
      control.start({ addr: { type: "vsock", cid, port } });
    await assert.rejects(start("x", "1"), { message: "Failed to parse cid 'x'" });
    await assert.rejects(start("1", "4294967296"), {
      message: "Failed to parse port '4294967296'",
    });
  }));

/** Whether this machine has vsock sockets, and may listen on them. */
function hasVsock(): boolean {
  const context = createContext({ name: "probe" });
  const fd = context.sys.socket(AF.VSOCK, SOCK.STREAM);
  if (fd >= 0) context.sys.close(fd);
  void context.close();
  return fd >= 0;
}

Deno.test({
  name: "vsock is listened on where the machine has it",
  ignore: !hasVsock(),
  fn: () =>
    withControl(async (control) => {
      await control.start({ addr: { type: "vsock", cid: "", port: "20809" } });
      const [address] = localAddresses(control);
      assert.ok(address?.family === "vsock" && address.port === 20809, JSON.stringify(address));
    }),
});
