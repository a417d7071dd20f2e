import assert from "node:assert/strict";
import { CommandError } from "../base/mod.ts";
import { MemoryDisk, testGraph } from "../block/testing.ts";
import type { BlockBackend } from "../block/mod.ts";
import { Perm } from "../block/mod.ts";
import { type ExportInstance, ExportRegistry, type ExportType } from "./registry.ts";

type Options = Parameters<ExportRegistry["add"]>[0];

/** An export type whose clients the test plays. */
class PlayedType implements ExportType {
  readonly type = "nbd";
  readonly needs = Perm.none;
  readonly unshared = Perm.resize;
  inUse = false;
  refusal: string | undefined;
  readonly backends: BlockBackend[] = [];
  /** Lets a shutdown that is under way finish: the last client has gone. */
  readonly leaving: (() => void)[] = [];

  precheck(): void {}
  create(backend: BlockBackend): ExportInstance {
    if (this.refusal !== undefined) throw new CommandError(this.refusal);
    this.backends.push(backend);
    const inUse = () => this.inUse;
    return {
      get inUse() {
        return inUse();
      },
      shutdown: () =>
        inUse() ? new Promise((resolve) => this.leaving.push(resolve)) : Promise.resolve(),
    };
  }
}

const nbd = (id: string, more: Record<string, unknown> = {}) =>
  ({ type: "nbd", id, "node-name": "n", ...more }) as Options;

/** Runs `body` with exports of the type above, over nodes `n` and (read-only) `ro`. */
function test(
  name: string,
  body: (parts: {
    exports: ExportRegistry;
    type: PlayedType;
    made: ReturnType<typeof testGraph>;
    events: string[];
  }) => Promise<void>,
): void {
  Deno.test(name, async () => {
    const made = testGraph({ d: new MemoryDisk(4096), e: new MemoryDisk(4096) });
    await made.add({ driver: "memory", "node-name": "n", disk: "d" });
    await made.add({ driver: "memory", "node-name": "ro", disk: "e", "read-only": true });
    const events: string[] = [];
    const sink = {
      emit: (name: string, data: unknown) => events.push(`${name} ${JSON.stringify(data)}`),
    };
    const exports = new ExportRegistry({ graph: made.graph, events: sink });
    const type = new PlayedType();
    exports.register(type);
    await body({ exports, type, made, events });
    await exports.closeAll();
    await made.graph.closeAll();
  });
}

test("what cannot be exported is refused, and nobody stays attached", async (parts) => {
  const { exports, type, made } = parts;
  const refused = (options: Options, message: string) =>
    assert.rejects(exports.add(options), { message });
  await refused(nbd("2x"), "Invalid block export id");
  await refused(nbd("e", { "node-name": "no" }), "Cannot find device='' nor node-name='no'");
  await refused(nbd("e", { iothread: "t" }), 'iothread "t" not found');
  await refused(
    nbd("e", { "node-name": "ro", writable: true }),
    "Cannot export read-only node as writable",
  );
  await refused(
    nbd("e", { type: "fuse", mountpoint: "/m" }),
    "No driver found for the requested export type",
  );
  type.refusal = "not today";
  await refused(nbd("e"), "not today");
  assert.equal(made.graph.backends.size, 0);
  assert.deepEqual(exports.query(), []);
});

test("of two that ask for one id at the same time, one gets it", async ({ exports }) => {
  const [first, second] = await Promise.allSettled([exports.add(nbd("e")), exports.add(nbd("e"))]);
  assert.equal(first.status, "fulfilled");
  assert.equal(second.status, "rejected");
  assert.match(String((second as PromiseRejectedResult).reason), /id 'e' is already in use/);
  assert.equal(exports.list().length, 1);
});

test("a node that is deleted while it is being exported is exported or deleted, not both", async (parts) => {
  const { exports, made: { graph } } = parts;
  const [added, deleted] = await Promise.allSettled([exports.add(nbd("e")), graph.del("n")]);
  assert.equal(added.status, "fulfilled");
  assert.match(String((deleted as PromiseRejectedResult).reason), /Node n is in use/);
  exports.del("e");
  await exports.closeAll();
  const [gone, late] = await Promise.allSettled([graph.del("n"), exports.add(nbd("e"))]);
  assert.equal(gone.status, "fulfilled");
  assert.match(String((late as PromiseRejectedResult).reason), /Cannot find device/);
  assert.equal(graph.backends.size, 0);
});

test("safe removal spares clients, hard removal drops them; the event follows the last", async (parts) => {
  const { exports, type, made: { graph }, events } = parts;
  await exports.add(nbd("e", { writable: true }));
  type.inUse = true;
  assert.throws(() => exports.del("e"), { message: "export 'e' still in use" });
  assert.deepEqual(exports.query()[0]!["shutting-down"], false);
  exports.del("e", "hard");
  assert.throws(() => exports.del("e", "hard"), {
    message: "Export 'e' is already shutting down",
  });
  assert.deepEqual(exports.query(), [
    { id: "e", type: "nbd", "node-name": "n", "shutting-down": true },
  ]);
  await assert.rejects(exports.add(nbd("e")), { message: "Block export id 'e' is already in use" });
  assert.deepEqual(events, []);
  assert.equal(graph.backends.size, 1, "its requests may still be in flight");
  const all = exports.closeAll();
  type.leaving[0]!();
  await all;
  assert.deepEqual(events, ['BLOCK_EXPORT_DELETED {"id":"e"}']);
  assert.equal(graph.backends.size, 0);
  assert.throws(() => exports.del("e"), { message: "Export 'e' is not found" });
});

test("closing all waits for an export that is being made, and closes it", async (parts) => {
  const { exports, made: { graph }, events } = parts;
  const adding = exports.add(nbd("e"));
  await exports.closeAll();
  await adding;
  assert.deepEqual(exports.query(), []);
  assert.equal(graph.backends.size, 0);
  assert.deepEqual(events, ['BLOCK_EXPORT_DELETED {"id":"e"}']);
});

test("closing all asks every export's clients to leave at once, and waits for the last", async (parts) => {
  const { exports, type, made: { graph }, events } = parts;
  for (const id of ["a", "b", "c"]) await exports.add(nbd(id));
  type.inUse = true;
  const all = exports.closeAll();
  while (type.leaving.length === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(type.leaving.length, 3);
  type.leaving[2]!();
  type.leaving[0]!();
  while (events.length < 2) await new Promise((resolve) => setTimeout(resolve, 0));
  assert.deepEqual(exports.query().map(({ id }) => id), ["b"]);
  type.leaving[1]!();
  await all;
  assert.deepEqual(events, ["c", "a", "b"].map((id) => `BLOCK_EXPORT_DELETED {"id":"${id}"}`));
  assert.equal(graph.backends.size, 0);
});
