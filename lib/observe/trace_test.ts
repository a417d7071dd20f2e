import assert from "node:assert/strict";
import { applyEvents, namedEvents, traceEvents, traceHandlers, TraceRegistry } from "./mod.ts";

function setUp() {
  const lines: string[] = [];
  const sink = {
    write: (line: string) => void lines.push(line),
    realtimeUs: () => 1_700_000_000_000_042,
  };
  return { lines, registry: new TraceRegistry(["nbd_a", "nbd_b", "bdrv_c"], sink) };
}

Deno.test("a point is off until a pattern matches it, and says who, when and what", () => {
  const { lines, registry } = setUp();
  const point = registry.point("main", "nbd_a");
  assert.equal(point.enabled, false);
  assert.equal(registry.enable("nbd_*"), true);
  assert.equal(point.enabled, true);
  point.emit("x 1");
  assert.deepEqual(lines, ["main@1700000000.000042:nbd_a x 1\n"]);
});

Deno.test("points made after the pattern are on as well, in every thread", () => {
  const { registry } = setUp();
  registry.enable("nbd_?");
  assert.equal(registry.point("main", "nbd_b").enabled, true);
  assert.equal(registry.point("io1", "nbd_b").enabled, true);
  assert.equal(registry.point("io1", "bdrv_c").enabled, false);
});

Deno.test("a point that is asked for again, by each node and client that comes, is the same", () => {
  const { registry } = setUp();
  assert.equal(registry.point("main", "nbd_a"), registry.point("main", "nbd_a"));
  assert.notEqual(registry.point("main", "nbd_a"), registry.point("io1", "nbd_a"));
});

Deno.test("the last pattern that matches decides", () => {
  const { registry } = setUp();
  const point = registry.point("main", "nbd_a");
  registry.enable("*");
  registry.enable("-nbd_*");
  assert.equal(point.enabled, false);
  registry.enable("nbd_a");
  assert.equal(point.enabled, true);
  assert.equal(registry.isEnabled("nbd_b"), false);
});

Deno.test("a name that is no event is reported, a pattern that matches nothing is not", () => {
  const { registry } = setUp();
  assert.equal(registry.enable("nothing"), false);
  assert.equal(registry.enable("no*"), true);
});

Deno.test("characters of regular expressions in a pattern stand for themselves", () => {
  const { registry } = setUp();
  registry.enable("nbd.a*");
  assert.equal(registry.isEnabled("nbd_a"), false);
});

Deno.test("an events file turns on, off and names its unknown lines", () => {
  const { registry } = setUp();
  const problems = applyEvents(registry, "# comment\n\nnbd_a\n bdrv_c \n-bdrv_c\nbogus\n-gone\n");
  assert.deepEqual(problems, [
    { line: 6, message: "trace event 'bogus' does not exist" },
    { line: 7, message: "trace event 'gone' does not exist" },
  ]);
  assert.equal(registry.isEnabled("nbd_a"), true);
  assert.equal(registry.isEnabled("bdrv_c"), false);
});

Deno.test("the catalog lists exactly the events that the code has", async () => {
  const found = new Set<string>();
  async function scan(directory: URL): Promise<void> {
    for await (const entry of Deno.readDir(directory)) {
      const url = new URL(entry.name + (entry.isDirectory ? "/" : ""), directory);
      if (entry.isDirectory) await scan(url);
      else if (entry.name.endsWith(".ts") && !/(_test|testing)\.ts$/.test(entry.name)) {
        const text = await Deno.readTextFile(url);
        for (const match of text.matchAll(/\btrace\(\s*"(\w+)"/g)) found.add(match[1]!);
      }
    }
  }
  await scan(new URL("../", import.meta.url));
  assert.deepEqual([...found].sort(), [...namedEvents].sort());
});

Deno.test("every command has its two events", () => {
  for (const name of ["qmp_enter_query_named_block_nodes", "qmp_exit_block_resize"]) {
    assert.ok(traceEvents.includes(name), name);
  }
});

Deno.test("QMP lists events by name and pattern, and turns them on and off", () => {
  const { registry } = setUp();
  const commands = traceHandlers(registry);
  const point = registry.point("main", "nbd_a");
  const state = (name: string) =>
    (commands["trace-event-get-state"]({ name }) as { name: string; state: string }[])
      .map((event) => `${event.name} ${event.state}`);
  assert.deepEqual(state("nbd_*"), ["nbd_a disabled", "nbd_b disabled"]);
  commands["trace-event-set-state"]({ name: "nbd_a", enable: true });
  assert.equal(point.enabled, true);
  assert.deepEqual(state("*"), ["bdrv_c disabled", "nbd_a enabled", "nbd_b disabled"]);
  commands["trace-event-set-state"]({ name: "nbd*", enable: false });
  assert.equal(point.enabled, false);
  assert.deepEqual(state("zz*"), []);
  for (const name of ["nope", ""]) {
    assert.throws(() => state(name), { message: `unknown event "${name}"` });
  }
  assert.throws(() => commands["trace-event-get-state"]({ name: "nbd_a", vcpu: 0 }), {
    message: "invalid vCPU index 0",
  });
});
