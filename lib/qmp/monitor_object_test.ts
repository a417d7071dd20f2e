/** Monitors made and deleted at run time. */
import assert from "node:assert/strict";
import { CommandError } from "../base/mod.ts";
import { objectHandlers, ObjectRegistry } from "../qom/mod.ts";
import { monitorClasses, monitorKind } from "./mod.ts";
import { objectCommands } from "./schema/qom.ts";
import { FakeChannel, FakeTime, settle, testServer } from "./testing.ts";

function setUp() {
  const time = new FakeTime();
  const objects = new ObjectRegistry(time.context);
  const { server, connect } = testServer(time, {}, {
    table: objectCommands,
    handlers: objectHandlers(objects),
  });
  const channels = new Map<string, FakeChannel>();
  objects.register(
    monitorClasses,
    monitorKind({
      server,
      attach(id, user) {
        const channel = channels.get(id);
        if (channel === undefined) throw new CommandError(`chardev "${id}" not found`);
        if (channel.user !== undefined) throw new CommandError(`Device '${id}' is in use`);
        channel.user = user;
        return channel;
      },
      deleteBoth(id, chardev) {
        objects.delete(id);
        channels.delete(chardev);
      },
      later: queueMicrotask,
    }),
  );
  const ask = async (channel: FakeChannel, execute: string, args: unknown = {}) => {
    channel.type(JSON.stringify({ execute, arguments: args }));
    await settle();
    return channel.lines().map((line) => JSON.parse(line));
  };
  const start = async (channel: FakeChannel) => {
    channel.lines();
    await ask(channel, "qmp_capabilities");
    return channel;
  };
  return { objects, channels, connect, ask, start };
}

const monitor = (id: string, more = {}) => ({ "qom-type": "monitor-qmp", id, ...more });

Deno.test("a monitor is made with object-add, works, and is deleted with object-del", async () => {
  const { channels, connect, ask, start } = setUp();
  const first = await start(connect());
  const second = new FakeChannel();
  channels.set("c", second);
  assert.deepEqual(await ask(first, "object-add", monitor("m", { chardev: "c" })), [{
    return: {},
  }]);
  assert.ok("QMP" in JSON.parse(second.lines()[0]!));
  await ask(second, "qmp_capabilities");
  assert.deepEqual(await ask(second, "qom-get", { path: "/objects/m", property: "pretty" }), [
    { return: false },
  ]);
  await ask(first, "object-del", { id: "m" });
  assert.equal(second.user, undefined);
  // The device is free again.
  assert.deepEqual(await ask(first, "object-add", monitor("m2", { chardev: "c" })), [
    { return: {} },
  ]);
});

Deno.test("a monitor that deletes itself is answered, and then gone", async () => {
  const { channels, connect, ask, start } = setUp();
  const first = await start(connect());
  const second = new FakeChannel();
  channels.set("c", second);
  await ask(first, "object-add", monitor("m", { chardev: "c" }));
  await start(second);
  assert.deepEqual(await ask(second, "object-del", { id: "m" }), [{ return: {} }]);
  assert.equal(second.user, undefined);
  assert.deepEqual(await ask(first, "query-version").then((replies) => replies.length), 1);
});

Deno.test("what a monitor cannot have is refused, and nothing is left", async () => {
  const { channels, connect, ask, start } = setUp();
  const first = await start(connect());
  const refused = async (args: unknown) =>
    (await ask(first, "object-add", args))[0].error.desc as string;
  channels.set("c", new FakeChannel());
  assert.equal(await refused(monitor("m", { chardev: "zz" })), 'chardev "zz" not found');
  assert.equal(await refused(monitor("m")), "Parameter 'chardev' is missing");
  await ask(first, "object-add", monitor("m", { chardev: "c" }));
  assert.equal(await refused(monitor("n", { chardev: "c" })), "Device 'c' is in use");
  assert.equal(
    await refused(monitor("m", { chardev: "c" })),
    "attempt to add duplicate property 'm' to object (type 'container')",
  );
});

Deno.test("close-action=delete: the monitor and its device go with the client", async () => {
  const { channels, connect, ask, start } = setUp();
  const first = await start(connect());
  for (const action of ["none", "delete"]) {
    const second = new FakeChannel();
    channels.set("c", second);
    await ask(first, "object-add", monitor(action, { chardev: "c", "close-action": action }));
    second.user!.closed();
    await settle();
    assert.equal(channels.has("c"), action === "none");
    const [reply] = await ask(first, "object-del", { id: action });
    const gone = { class: "GenericError", desc: "object 'delete' not found" };
    assert.deepEqual(reply, action === "none" ? { return: {} } : { error: gone });
  }
});
