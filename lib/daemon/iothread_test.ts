import assert from "node:assert/strict";
import { CommandError, IoVec } from "../base/mod.ts";
import type { BlockExportOptionsValue } from "../qmp/schema/export.ts";
import type { NodeView } from "../block/mod.ts";
import { Frontend } from "../vhost/testing.ts";
import { BlkDriver } from "../vhost/testing_blk.ts";
import { loggedServices, until } from "./testing.ts";

/** The services of a daemon in a folder of their own, with IOThreads t0 and t1 and a node on a file in each. */
async function made() {
  const folder = await Deno.makeTempDir();
  const { services, lines } = loggedServices();
  const events: string[] = [];
  const { emit } = services.qmp;
  services.qmp.emit = (name, data) => {
    events.push(`${name} ${JSON.stringify(data)}`);
    emit.call(services.qmp, name, data);
  };
  await services.nbd.start({ addr: { type: "unix", path: `${folder}/nbd` } });
  for (const id of ["t0", "t1"]) {
    services.objects.add({ "qom-type": "iothread", id });
    await Deno.writeFile(`${folder}/${id}.raw`, new Uint8Array(1 << 20).fill(id === "t0" ? 1 : 2));
    const options = { driver: "file", "node-name": id, filename: `${folder}/${id}.raw` } as const;
    await services.graph.add(options, { monitorOwned: true });
  }
  return {
    services,
    folder,
    lines,
    events,
    async [Symbol.asyncDispose]() {
      await services.stop();
      await Deno.remove(folder, { recursive: true });
    },
  };
}

const nbd = (id: string, node: string, more: object = {}) =>
  ({
    type: "nbd",
    id,
    name: id,
    "node-name": node,
    writable: true,
    ...more,
  }) as BlockExportOptionsValue;

Deno.test("a thread that throws takes its exports along; all else goes on", async () => {
  await using parts = await made();
  const { services, events, lines } = parts;
  const { graph, exports, threads } = services;
  await exports.add(nbd("e0", "t0", { iothread: "t0" }));
  await exports.add(nbd("e1", "t1", { iothread: "t1" }));
  const client = await Deno.connect({ transport: "unix", path: `${parts.folder}/nbd` });
  await enter(client, "e0");
  assert.deepEqual(exports.list().map((one) => one.instance.inUse), [true, false]);
  await until(
    parts.services,
    () => services.nbd.server!.clients().some((one) => one.export === "e0"),
  );
  const failing = threads.find("t0")!;
  await failing.ask("crash").catch(() => {});
  await until(parts.services, () => events.length > 0);
  assert.deepEqual(events, ['BLOCK_EXPORT_DELETED {"id":"e0"}']);
  assert.match(
    lines.join("\n"),
    /error: IOThread 't0' has failed; its exports end.*\n.*crash was called/,
  );
  assert.equal(
    await client.read(new Uint8Array(1)).catch(() => null),
    null,
    "its client is dropped",
  );
  client.close();
  // What ran elsewhere still does.
  assert.deepEqual(exports.list().map((one) => one.id), ["e1"]);
  const other = await Deno.connect({ transport: "unix", path: `${parts.folder}/nbd` });
  await enter(other, "e1");
  assert.deepEqual([...await readFrom(other, 4096, 4)], [2, 2, 2, 2]);
  other.close();
  // The node is lost; it can be deleted and opened again, and the thread's object can be deleted.
  const user = await graph.backend("t0", { describe: "test", needed: 1, shared: 15 });
  await assert.rejects(async () => await user.read(0, IoVec.of(1 << 20, 512)), { errno: "EIO" });
  await user.detach();
  await assert.rejects(exports.add(nbd("e2", "t0", { iothread: "t0" })), CommandError);
  await graph.del("t0");
  services.objects.delete("t0");
  const options = {
    driver: "file",
    "node-name": "t0",
    filename: `${parts.folder}/t0.raw`,
  } as const;
  await graph.add(options, { monitorOwned: true });
  await exports.add(nbd("e2", "t0", { iothread: "t1" }));
  const last = await Deno.connect({ transport: "unix", path: `${parts.folder}/nbd` });
  await enter(last, "e2");
  assert.deepEqual([...await readFrom(last, 8192, 4)], [1, 1, 1, 1]);
  last.close();
});

Deno.test("a thread that fails in the middle of a move or a request fails those, and no more", async () => {
  await using parts = await made();
  const { graph, threads } = parts.services;
  const writer = { describe: "test", needed: 3, shared: 15 };
  const user = await graph.backend("t0", writer);
  const thread = threads.find("t0")!;
  await thread.ready;
  const crashed = thread.ask("crash");
  const outcomes = await Promise.allSettled([graph.move("t0", thread), crashed]);
  assert.ok(
    outcomes.some((one) => one.status === "rejected") || graph.find("t0")!.place === undefined,
  );
  await until(parts.services, () => thread.failed);
  await graph.move("t1", threads.find("t1")!);
  assert.equal((graph.find("t1") as NodeView & { place: unknown }).place, threads.find("t1"));
  await user.detach();
});

Deno.test("IOThreads start and end many times without leaving anything behind", async () => {
  await using parts = await made();
  const { objects, exports } = parts.services;
  const open = () => [...Deno.readDirSync("/proc/self/fd")].length;
  const round = async () => {
    objects.add({ "qom-type": "iothread", id: "t" });
    await exports.add(nbd("e", "t0", { iothread: "t" }));
    exports.del("e");
    await until(parts.services, () => exports.list().length === 0);
    objects.delete("t");
    await until(parts.services, () => parts.services.threads.ending === 0);
  };
  await round();
  const before = open();
  for (let i = 0; i < 3; i++) await round();
  // What the runtime holds for a Worker goes a little later than the Worker.
  let left = open();
  for (let i = 0; i < 400 && left >= before + 3; i++) {
    await new Promise((go) => setTimeout(go, 5));
    left = open();
  }
  // One for each round would be three.
  assert.ok(left < before + 3, `${before} descriptors before, ${left} after`);
});

Deno.test("a vhost-user-blk export in a thread serves its front-end, and dies alone", async () => {
  await using parts = await made();
  const { services, folder, events } = parts;
  const { exports, threads, context } = services;
  const path = `${folder}/vhost`;
  await exports.add({
    type: "vhost-user-blk",
    id: "v",
    "node-name": "t0",
    addr: { type: "unix", path },
    writable: true,
    iothread: "t0",
  });
  assert.equal(exports.list()[0]!.iothread, threads.find("t0"));
  const frontend = Frontend.connect(context, path);
  await frontend.start();
  const disk = new BlkDriver(frontend);
  const read = () => disk.call({ type: 0, sector: 8, read: 512 });
  assert.deepEqual([...(await read()).data.subarray(0, 2)], [1, 1]);
  await disk.call({ type: 1, sector: 8, write: new Uint8Array(512).fill(0x77) });
  assert.deepEqual([...(await read()).data.subarray(0, 2)], [0x77, 0x77]);
  await until(parts.services, () => exports.list()[0]!.instance.inUse);
  assert.throws(() => exports.del("v"), { message: "export 'v' still in use" });
  // The node moves away under it: the front-end does not notice.
  await services.graph.move("t0", threads.find("t1"));
  assert.deepEqual([...(await read()).data.subarray(0, 2)], [0x77, 0x77]);
  await threads.find("t0")!.ask("crash").catch(() => {});
  await until(parts.services, () => events.length > 0);
  assert.deepEqual(events, ['BLOCK_EXPORT_DELETED {"id":"v"}']);
  await assert.rejects(Deno.stat(path), Deno.errors.NotFound);
  assert.equal(await frontend.reply(), "end", "its front-end is dropped");
  assert.equal(services.graph.find("t0")!.place, undefined, "the last user has gone");
  frontend.disconnect();
  frontend.close();
});

/** The shortest handshake there is: EXPORT_NAME. */
async function enter(conn: Deno.Conn, name: string): Promise<void> {
  await readExactly(conn, 18);
  const request = new Uint8Array(4 + 16 + name.length);
  const view = new DataView(request.buffer);
  view.setUint32(0, 3);
  view.setBigUint64(4, 0x49484156454f5054n);
  view.setUint32(12, 1);
  view.setUint32(16, name.length);
  request.set(new TextEncoder().encode(name), 20);
  await conn.write(request);
  await readExactly(conn, 10);
}

async function readFrom(conn: Deno.Conn, offset: number, length: number): Promise<Uint8Array> {
  const request = new DataView(new ArrayBuffer(28));
  request.setUint32(0, 0x25609513);
  request.setBigUint64(16, BigInt(offset));
  request.setUint32(24, length);
  await conn.write(new Uint8Array(request.buffer));
  return (await readExactly(conn, 16 + length)).subarray(16);
}

async function readExactly(conn: Deno.Conn, length: number): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length;) {
    const got = await conn.read(bytes.subarray(at));
    assert.ok(got !== null, "the server closed the connection");
    at += got;
  }
  return bytes;
}
