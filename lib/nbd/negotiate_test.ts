import assert from "node:assert/strict";
import { type ByteClient, concat, TestServer } from "./testing.ts";
import { Opt, optionName } from "./wire.ts";
import { infoRequestData, metaRequestData, optionMessage } from "./testing_wire.ts";

const text = new TextDecoder();

/** An option's replies, as "TYPE text". */
async function replies(client: ByteClient, option: number, data?: Uint8Array): Promise<string[]> {
  await client.send(optionMessage(option, data));
  const out: string[] = [];
  for (;;) {
    const head = await client.receive(20);
    if (head.length < 20) return [...out, "hung up"];
    const view = new DataView(head.buffer);
    assert.equal(view.getUint32(8), option);
    const type = view.getUint32(12);
    const payload = await client.receive(view.getUint32(16));
    if (type >= 0x80000000) return [...out, `error ${type - 0x80000000} ${text.decode(payload)}`];
    if (type === 1) return [...out, "ack"];
    out.push(`${type} ${[...payload].map((b) => b.toString(16).padStart(2, "0")).join("")}`);
  }
}

async function withClient(
  test: (client: ByteClient, server: TestServer) => Promise<void>,
  flags = 3,
): Promise<void> {
  const server = new TestServer(1024 * 1024);
  try {
    const client = server.connect();
    await client.receive(18);
    await client.send(Uint8Array.of(0, 0, 0, flags));
    await test(client, server);
  } finally {
    await server.close();
  }
}

const meta = metaRequestData;

Deno.test("every option is answered as the original answers it", () =>
  withClient(async (client) => {
    const ask = (option: number, data?: Uint8Array) => replies(client, option, data);
    assert.deepEqual(await ask(3), ["2 000000046469736b", "ack"]);
    assert.deepEqual(await ask(3, Uint8Array.of(1)), [
      "error 3 option 'list' has unexpected length",
    ]);
    assert.deepEqual(await ask(77, Uint8Array.of(1)), [
      "error 1 Unsupported option 77 (<unknown>)",
    ]);
    assert.deepEqual(await ask(5), ["error 2 TLS not configured"]);
    assert.deepEqual(await ask(5, Uint8Array.of(1)), [
      "error 3 option 'starttls' has unexpected length",
    ]);
    assert.deepEqual(await ask(10, meta("disk", ["base:allocation"])), [
      "error 3 request option 'set meta context' when structured reply is not negotiated",
    ]);
    assert.deepEqual(await ask(8), ["ack"]);
    assert.deepEqual(await ask(8), ["error 3 structured reply already negotiated"]);
    assert.deepEqual(await ask(6, infoRequestData("nope")), ["error 6 export 'nope' not present"]);
    assert.deepEqual(await ask(6, infoRequestData("a".repeat(4096))), [
      `error 6 export '${"a".repeat(80)}...' not present`,
    ]);
    assert.deepEqual(await ask(6, infoRequestData("a".repeat(4097))), [
      "error 3 Invalid name length: 4097",
    ]);
    assert.deepEqual(await ask(6, infoRequestData("disk", [1])), [
      "3 00016469736b",
      "3 0003000000010000100002000000",
      "3 000000000000001000000ded",
      "ack",
    ]);
    assert.deepEqual(await ask(2), ["ack"]);
    assert.equal((await client.receive(1)).length, 0);
  }));

Deno.test("metadata contexts are listed with wildcards and set by name", () =>
  withClient(async (client) => {
    await replies(client, 8);
    const base = "4 00000000" + hexOf("base:allocation");
    const depth = (id: number) => `4 0000000${id}` + hexOf("qemu:allocation-depth");
    const list = (...queries: string[]) => replies(client, 9, meta("disk", queries));
    const set = (...queries: string[]) => replies(client, 10, meta("disk", queries));
    assert.deepEqual(await list(), [base, depth(0), "ack"]);
    assert.deepEqual(await list("base:"), [base, "ack"]);
    assert.deepEqual(await list("qemu:"), [depth(0), "ack"]);
    assert.deepEqual(await list("qemu:dirty-bitmap:"), ["ack"]);
    assert.deepEqual(await list("zz:", "", "base:x"), ["ack"]);
    assert.deepEqual(await set(), ["ack"]);
    assert.deepEqual(await set("base:"), ["ack"]);
    assert.deepEqual(await set("base:allocation", "qemu:allocation-depth", "base:allocation"), [
      base,
      depth(1),
      "ack",
    ]);
  }));

function hexOf(text: string): string {
  return [...new TextEncoder().encode(text)].map((b) => b.toString(16).padStart(2, "0")).join("");
}

Deno.test("extended headers are negotiated once, and rule structured replies out", () =>
  withClient(async (client) => {
    assert.deepEqual(await replies(client, 11, Uint8Array.of(0)), [
      "error 3 option 'extended headers' has unexpected length",
    ]);
    assert.deepEqual(await replies(client, 11), ["ack"]);
    assert.deepEqual(await replies(client, 11), ["error 3 extended headers already negotiated"]);
    assert.deepEqual(await replies(client, 8), ["error 10 extended headers already negotiated"]);
    const contexts = await replies(client, 10, meta("disk", ["base:allocation"]));
    assert.equal(contexts.at(-1), "ack");
  }));

Deno.test("contexts that were set for another export do not count", () =>
  withClient(async (client, server) => {
    await replies(client, 8);
    await replies(client, 10, meta("disk", ["base:allocation"]));
    assert.deepEqual(await replies(client, 10, meta("other", [])), [
      "error 6 export 'other' not present",
    ]);
    await replies(client, 7, infoRequestData("disk"));
    assert.equal([...server.connections][0]!.target, server.target);
  }));

Deno.test("flags that nobody knows end the connection", () =>
  withClient(async (client, server) => {
    assert.equal((await client.rest()).length, 0);
    assert.deepEqual(server.failures, ["Unknown client flags 0x4 received"]);
  }, 7));

Deno.test("a client that cannot read option replies may only name its export", async () => {
  await withClient(async (client, server) => {
    await client.send(optionMessage(3));
    assert.equal((await client.rest()).length, 0);
    assert.deepEqual(server.failures, ["Unsupported option 3 (list)"]);
  }, 0);
  await withClient(async (client) => {
    await client.send(optionMessage(1, new TextEncoder().encode("disk")));
    assert.equal((await client.receive(134)).length, 134);
  }, 0);
});

Deno.test("EXPORT_NAME answers in short when zeroes were waived, and hangs up on unknown names", async () => {
  await withClient(async (client) => {
    await client.send(optionMessage(1, new TextEncoder().encode("disk")));
    const reply = await client.receive(10);
    assert.deepEqual([...reply], [0, 0, 0, 0, 0, 0x10, 0, 0, 0x0d, 0x6d]);
  });
  await withClient(async (client, server) => {
    await client.send(optionMessage(1, new TextEncoder().encode("nope")));
    assert.equal((await client.rest()).length, 0);
    assert.deepEqual(server.failures, ["export not found"]);
  });
});

Deno.test("oversized option data is passed over and refused; beyond 32 MiB the client is cut off", () =>
  withClient(async (client, server) => {
    const big = new Uint8Array(300_000);
    assert.deepEqual(await replies(client, 7, big), ["error 9 option 'go' is too long"]);
    assert.deepEqual(await replies(client, 3, big), [
      "error 3 option 'list' has unexpected length",
    ]);
    assert.deepEqual(await replies(client, 99, big), ["error 1 Unsupported option 99 (<unknown>)"]);
    assert.ok(server.context.buffers.inUse < 1024 * 1024);
    const header = optionMessage(7);
    new DataView(header.buffer).setUint32(12, 0xffffffff);
    await client.send(header);
    assert.equal((await client.rest()).length, 0);
    assert.match(server.failures[0]!, /^len \(4294967295 \) is larger than max len/);
  }));

Deno.test("all option sequences up to length three leave the server alive", async () => {
  const server = new TestServer(65536);
  const name = new TextEncoder().encode("disk");
  const alphabet: Uint8Array[] = [
    optionMessage(Opt.list),
    optionMessage(Opt.starttls),
    optionMessage(Opt.structuredReply),
    optionMessage(Opt.extendedHeaders),
    optionMessage(Opt.setMetaContext, meta("disk", ["base:allocation"])),
    optionMessage(Opt.listMetaContext, meta("nope", ["qemu:"])),
    optionMessage(Opt.info, infoRequestData("disk", [3])),
    optionMessage(Opt.go, infoRequestData("disk")),
    optionMessage(Opt.exportName, name),
    optionMessage(Opt.abort, name),
    optionMessage(4242, name),
  ];
  const flags = Uint8Array.of(0, 0, 0, 3);
  const sequences = alphabet.flatMap((
    a,
  ) => [[a], ...alphabet.flatMap((b) => [[a, b], ...alphabet.map((c) => [a, b, c])])]);
  for (const sequence of sequences) {
    const client = server.connect();
    await client.send(concat([flags, ...sequence]));
    client.halfClose();
    const answer = await client.rest();
    assert.ok(answer.length >= 18);
    client.close();
  }
  const after = await server.enter();
  after.close();
  await server.close();
});

Deno.test("a handshake cut off or spoilt at any byte harms nobody", async () => {
  const server = new TestServer(65536);
  const whole = concat([
    Uint8Array.of(0, 0, 0, 3),
    optionMessage(Opt.structuredReply),
    optionMessage(Opt.setMetaContext, meta("disk", ["base:allocation"])),
    optionMessage(Opt.info, infoRequestData("disk", [0, 1, 2, 3])),
    optionMessage(Opt.go, infoRequestData("disk")),
  ]);
  for (let at = 0; at < whole.length; at++) {
    const cut = server.connect();
    await cut.send(whole.subarray(0, at));
    cut.halfClose();
    await cut.rest();
    cut.close();
    for (const value of [0x00, 0xff, 0x80]) {
      const spoilt = whole.slice();
      spoilt[at] = value;
      const client = server.connect();
      await client.send(spoilt);
      client.halfClose();
      await client.rest();
      client.close();
    }
  }
  await server.close();
});

Deno.test("a byte at a time is as good as all at once", () =>
  withClient(async (client) => {
    const message = optionMessage(Opt.info, infoRequestData("disk", [3]));
    for (const byte of message) await client.send(Uint8Array.of(byte));
    const first = new DataView((await client.receive(20)).buffer);
    assert.equal(first.getUint32(8), Opt.info, optionName(Opt.info));
  }));

Deno.test("a client that does not finish its handshake in time is dropped", async () => {
  const server = new TestServer(65536);
  server.handshakeNs = 100_000_000;
  const inTime = await server.enter();
  const client = server.connect();
  await client.send(Uint8Array.of(0, 0));
  assert.equal((await client.rest()).length, 18);
  assert.equal(server.connections.size, 1, "one that came before it had finished in time");
  inTime.close();
  await server.close();
});

Deno.test("a thousand silent clients hold almost no memory", async () => {
  const server = new TestServer(65536);
  for (let i = 0; i < 1000; i++) {
    const pair = server.connect();
    if (i % 2 === 0) await pair.send(Uint8Array.of(0, 0, 0, 3, 0x49));
    if (i >= 500) pair.close();
  }
  // Each has its first turn, some in this turn of the loop and some in that.
  const { loop, buffers } = server.context;
  for (let i = 0; i < 1000 && buffers.inUse >= 1024 * 1024; i++) await loop.sleep(1_000_000);
  assert.ok(buffers.inUse < 1024 * 1024, `${buffers.inUse}`);
  await server.close();
});
