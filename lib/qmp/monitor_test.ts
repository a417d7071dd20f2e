import assert from "node:assert/strict";
import { MAX_UNSENT_EVENTS } from "./monitor.ts";
import { command, empty, int, struct } from "./schema/core.ts";
import { event } from "./schema/registry.ts";
import { FakeTime, settle, testServer } from "./testing.ts";

const negotiate = '{"execute":"qmp_capabilities"}';

Deno.test("greets with the version and the oob capability, and again after a reconnect", async () => {
  const { connect } = testServer(new FakeTime());
  const channel = connect();
  const greeting =
    '{"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 22}, "package": "qsd 0.0.0"}, "capabilities": ["oob"]}}';
  assert.deepEqual(channel.lines(), [greeting]);
  channel.type(negotiate);
  await settle();
  assert.deepEqual(channel.lines(), ['{"return": {}}']);
  channel.user!.closed();
  channel.user!.opened();
  channel.type('{"execute":"query-version"}');
  await settle();
  assert.deepEqual(channel.lines(), [
    greeting,
    `{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}}`,
  ]);
});

Deno.test("with oob enabled, exec-oob overtakes and is refused by every command", async () => {
  const { connect } = testServer(new FakeTime());
  const channel = connect();
  channel.type('{"execute":"qmp_capabilities","arguments":{"enable":["oob","oob"]}}');
  await settle();
  channel.lines();
  channel.type(
    '{"exec-oob":"query-version","id":1}{"exec-oob":"nope"}{"exec-oob":"x","execute":"y","id":1}{"exec-oob":1}',
  );
  await settle();
  assert.deepEqual(channel.lines().sort(), [
    `{"error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}}`,
    `{"error": {"class": "GenericError", "desc": "QMP input member 'exec-oob' must be a string"}}`,
    `{"error": {"class": "GenericError", "desc": "QMP input member 'execute' clashes with 'exec-oob'"}, "id": 1}`,
    `{"error": {"class": "GenericError", "desc": "The command query-version does not support OOB"}, "id": 1}`,
  ]);
});

/** A command that ends when the test says so. */
function slowCommand() {
  const finishers: (() => void)[] = [];
  const started: number[] = [];
  const table = { slow: command(struct("slow-arg", { n: int }), empty) };
  const slow = ({ n }: { n: number }) => {
    started.push(n);
    return new Promise((resolve) => finishers.push(() => resolve({})));
  };
  return { started, more: { table, handlers: { slow } }, finish: () => finishers.shift()!() };
}

Deno.test("commands of all monitors run one at a time, in turn", async () => {
  const slow = slowCommand();
  const { connect } = testServer(new FakeTime(), {}, slow.more);
  const [a, b] = [connect(), connect()];
  for (const channel of [a, b]) channel.type(negotiate);
  await settle();
  for (let n = 0; n < 3; n++) a.type(`{"execute":"slow","arguments":{"n":${n}}}`);
  b.type('{"execute":"slow","arguments":{"n":10}}');
  for (let i = 0; i < 4; i++) {
    await settle();
    assert.equal(slow.started.length, i + 1, "one at a time");
    slow.finish();
  }
  await settle();
  assert.deepEqual(slow.started, [0, 10, 1, 2]);
});

Deno.test("reading stops while a request waits: after one, or after eight with oob", async () => {
  const slow = slowCommand();
  const { connect } = testServer(new FakeTime(), {}, slow.more);
  const plain = connect();
  plain.type(negotiate);
  await settle();
  assert.equal(plain.paused, false);
  plain.type('{"execute":"slow","arguments":{"n":0}}');
  assert.equal(plain.paused, true);
  slow.finish();
  await settle();
  assert.equal(plain.paused, false);
  const oob = connect();
  oob.type('{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}');
  await settle();
  for (let n = 0; n < 8; n++) {
    assert.equal(oob.paused, false, `at ${n}`);
    oob.type(`{"execute":"slow","arguments":{"n":${n}}}`);
  }
  assert.equal(oob.paused, true);
});

Deno.test("a reply does not reach the next client of a monitor", async () => {
  const slow = slowCommand();
  const { connect } = testServer(new FakeTime(), {}, slow.more);
  const channel = connect();
  channel.type(negotiate);
  await settle();
  channel.type('{"execute":"slow","arguments":{"n":1}}');
  channel.user!.closed();
  channel.user!.opened();
  channel.lines();
  slow.finish();
  await settle();
  assert.deepEqual(channel.lines(), []);
});

Deno.test("a client that does not read gets nothing executed, and events beyond a bound are dropped", async () => {
  const time = new FakeTime();
  const { connect, server } = testServer(time, { X: event(undefined) });
  const channel = connect();
  channel.type(negotiate);
  await settle();
  channel.lines();
  channel.stalled = true;
  for (let i = 0; i < 40_000; i++) server.emit("X", { n: "x".repeat(100) });
  assert.ok(channel.unsent > MAX_UNSENT_EVENTS && channel.unsent < MAX_UNSENT_EVENTS + 1000);
  channel.lines();
  channel.type('{"execute":"query-version"}');
  await settle();
  assert.deepEqual(channel.lines(), []);
  assert.equal(channel.paused, true);
  channel.readOn();
  await settle();
  assert.equal(channel.lines().length, 1);
  assert.match(time.warnings[0]!, /^monitor 'm': its client reads too slowly, \d+ events were/);
});

Deno.test("events have timestamps and go to negotiated monitors only", async () => {
  const { connect, server } = testServer(new FakeTime(), { X: event(undefined) });
  const [a, b] = [connect(), connect()];
  a.type(negotiate);
  await settle();
  a.lines();
  b.lines();
  server.emit("X", { id: "e" });
  server.emit("X", {});
  const stamp = '{"timestamp": {"seconds": 1000000000, "microseconds": 123456}, "event": "X"';
  assert.deepEqual(a.lines(), [`${stamp}, "data": {"id": "e"}}`, `${stamp}}`]);
  assert.deepEqual(b.lines(), []);
});

Deno.test("a limited event is sent at once, then its last one after a second, by key", async () => {
  const time = new FakeTime();
  const limited = event(undefined, {}, (data) => String(data["node"]));
  const { connect, server } = testServer(time, { Q: limited });
  const channel = connect();
  channel.type(negotiate);
  await settle();
  channel.lines();
  const seen = () => channel.lines().map((line) => JSON.parse(line).data.n);
  for (const n of [1, 2, 3]) server.emit("Q", { node: "a", n });
  server.emit("Q", { node: "b", n: 9 });
  assert.deepEqual(seen(), [1, 9]);
  time.advance(1e9);
  assert.deepEqual(seen(), [3]);
  server.emit("Q", { node: "a", n: 4 });
  assert.deepEqual(seen(), []);
  time.advance(1e9);
  assert.deepEqual(seen(), [4]);
  time.advance(1e9);
  server.emit("Q", { node: "a", n: 5 });
  assert.deepEqual(seen(), [5]);
});

Deno.test("pretty=on indents by four blanks; every line ends in CRLF", async () => {
  const { connect } = testServer(new FakeTime());
  const channel = connect(true);
  channel.output = "";
  channel.type('{"execute":"qmp_capabilities","id":[1,{}]}');
  await settle();
  assert.equal(
    channel.output,
    [
      "{",
      '    "return": {',
      "    },",
      '    "id": [',
      "        1,",
      "        {",
      "        }",
      "    ]",
      "}",
      "",
    ]
      .join("\r\n"),
  );
});

Deno.test("when the client has sent its last, the connection ends after the last reply", async () => {
  const slow = slowCommand();
  const { connect } = testServer(new FakeTime(), {}, slow.more);
  const channel = connect();
  channel.type(`${negotiate}{"execute":"slow","arguments":{"n":1}}`);
  channel.user!.ended();
  await settle();
  assert.equal(channel.disconnected, false);
  slow.finish();
  await settle();
  assert.equal(channel.lines().length, 3);
  assert.equal(channel.disconnected, true);
});

Deno.test("quit is answered, and nothing after it is executed once the server is frozen", async () => {
  const { connect, quits, server } = testServer(new FakeTime());
  const channel = connect();
  channel.type(negotiate);
  await settle();
  channel.lines();
  channel.type('{"execute":"quit"}');
  await settle();
  assert.equal(quits(), 1);
  server.freeze();
  channel.type('{"execute":"query-version"}');
  await settle();
  assert.deepEqual(channel.lines(), ['{"return": {}}']);
});

Deno.test("what a monitor does can be traced, by QEMU's names", async () => {
  const time = new FakeTime();
  time.tracing = true;
  const { connect } = testServer(time);
  const channel = connect();
  time.traced.length = 0;
  channel.type('{"execute":"qmp_capabilities","id":1}');
  await settle();
  channel.type("]");
  await settle();
  channel.type('{"execute":"query-commands-not"}');
  await settle();
  assert.deepEqual(time.traced, [
    'handle_qmp_command mon m req: {"execute": "qmp_capabilities", "id": 1}',
    "monitor_qmp_in_band_enqueue mon m len 0",
    "monitor_qmp_in_band_dequeue mon m len 0",
    "monitor_qmp_cmd_in_band 1",
    "qmp_enter_qmp_capabilities {}",
    "qmp_exit_qmp_capabilities {} 1",
    'monitor_qmp_respond mon m resp: {"return": {}, "id": 1}',
    "monitor_qmp_in_band_enqueue mon m len 0",
    "monitor_qmp_in_band_dequeue mon m len 0",
    "monitor_qmp_err_in_band JSON parse error, expecting value",
    'monitor_qmp_respond mon m resp: {"error": {"class": "GenericError", ' +
    '"desc": "JSON parse error, expecting value"}}',
    'handle_qmp_command mon m req: {"execute": "query-commands-not"}',
    "monitor_qmp_in_band_enqueue mon m len 0",
    "monitor_qmp_in_band_dequeue mon m len 0",
    "monitor_qmp_cmd_in_band ",
    'monitor_qmp_respond mon m resp: {"error": {"class": "CommandNotFound", ' +
    '"desc": "The command query-commands-not has not been found"}}',
  ]);
});
