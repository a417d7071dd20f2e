/** Hostile handshakes: every entry of the corpus, garbage and hang-ups at every byte. */
import assert from "node:assert/strict";
import { ON_ORIGINAL } from "../harness/daemon.ts";
import { noise } from "../harness/images.ts";
import type { NbdPeer } from "../harness/nbd.ts";
import { goData, metaData, OPT, option, pack, REP } from "../harness/nbd_wire.ts";
import { type HostileOption, OPTIONS } from "./corpus.ts";
import { Target } from "./target.ts";

/** The final reply's type, or "closed". */
async function outcome(peer: NbdPeer): Promise<number | "closed"> {
  for (;;) {
    try {
      const { type } = await peer.optionReply();
      if (type === REP.ACK || type >= 0x80000000) return type;
    } catch (error) {
      assert.match((error as Error).message, /closed the connection/);
      return "closed";
    }
  }
}

function matches({ expected }: HostileOption, got: number | "closed"): boolean {
  return expected.some((one) =>
    "closes" in one ? got === "closed" : got !== "closed" && one.reply.includes(got)
  );
}

Deno.test("every hostile option is refused as it should be, and the server lives on", async () => {
  await using target = await Target.start();
  const wrong: string[] = [];
  for (const each of OPTIONS) {
    if (ON_ORIGINAL && each.id === ABORTS_ORIGINAL) continue;
    using peer = await target.connect();
    await peer.hello();
    await peer.send(each.bytes).catch(() => {});
    const got = await outcome(peer);
    if (!matches(each, got)) {
      wrong.push(`${each.id}: ${typeof got === "number" ? got.toString(16) : got}`);
    }
    if (got === "closed") continue;
    // The stream is still in step: the next option is understood.
    const list = await peer.optionResult(OPT.LIST).catch(() => -1);
    const mayClose = each.expected.some((one) => "closes" in one);
    if (list !== REP.ACK && !(list === -1 && mayClose)) {
      wrong.push(`${each.id}: the next option got ${list.toString(16)}`);
    }
  }
  assert.deepEqual(wrong, []);
  await target.finish();
});

Deno.test("client flags that are unknown end the connection", async () => {
  await using target = await Target.start();
  for (const flags of [4, 8, 0x80000000, 0xffffffff]) {
    using peer = await target.connect();
    await peer.hello(flags);
    assert.equal((await peer.untilClosed()).length, 0);
  }
  await target.finish();
});

/** A whole conversation up to transmission, then a request. */
const conversation = pack(
  [4, 3],
  option(OPT.LIST),
  option(OPT.STRUCTURED_REPLY),
  option(OPT.LIST_META_CONTEXT, metaData("disk", ["base:"])),
  option(OPT.SET_META_CONTEXT, metaData("disk", ["base:allocation"])),
  option(OPT.INFO, goData("disk", 1, 2, 3)),
  option(OPT.GO, goData("disk", 3)),
);

Deno.test("CVE-2017-7539: a hang-up after every byte of the handshake harms nobody", async () => {
  await using target = await Target.start();
  for (let length = 0; length <= conversation.length; length++) {
    using peer = await target.connect();
    await peer.send(conversation.subarray(0, length));
    if (length % 2 === 0) await peer.shutdown();
  }
  await target.finish();
});

/** The original (7.2.22) aborts in an assertion when LIST_META_CONTEXT has bytes left over. */
const ABORTS_ORIGINAL = "LIST_META_CONTEXT with bytes left over";

Deno.test({
  name: "CVE-2017-7539: a wrong byte at every place of the handshake harms nobody",
  ignore: ON_ORIGINAL,
  fn: wrongBytes,
});

async function wrongBytes(): Promise<void> {
  await using target = await Target.start();
  for (let at = 0; at < conversation.length; at++) {
    for (const mask of [0x01, 0x80, 0xff]) {
      using peer = await target.connect();
      const bytes = conversation.slice();
      bytes[at]! ^= mask;
      await peer.send(bytes).catch(() => {});
      await peer.shutdown().catch(() => {});
      await peer.untilClosed();
    }
  }
  await target.finish();
}

Deno.test("CVE-2017-9524: a port scan harms nobody: nothing, HTTP, TLS, noise", async () => {
  await using target = await Target.start();
  const scans = [
    pack(""),
    pack("GET / HTTP/1.0\r\n\r\n"),
    pack("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ...Array.from({ length: 60 }, (_, at) => noise(1 + at * 37, at + 1)),
  ];
  for (const bytes of scans) {
    using peer = await target.connect();
    await peer.send(bytes).catch(() => {});
    await peer.shutdown().catch(() => {});
    await peer.untilClosed();
  }
  await target.finish();
});

Deno.test("the handshake may come a byte at a time", async () => {
  await using target = await Target.start();
  using peer = await target.connect();
  for (const byte of conversation) await peer.send(new Uint8Array([byte]));
  await peer.bytes(18);
  let acks = 0;
  while (acks < 6) if ((await peer.optionReply()).type === REP.ACK) acks++;
  peer.structured = true;
  assert.equal((await peer.read(0, 512)).length, 512);
  await target.finish();
});

Deno.test("CVE-2019-14851: every sequence of options up to length three keeps the server sane", async () => {
  await using target = await Target.start();
  const words: [string, Uint8Array][] = [
    ["list", option(OPT.LIST)],
    ["structured", option(OPT.STRUCTURED_REPLY)],
    ["list-meta", option(OPT.LIST_META_CONTEXT, metaData("disk", []))],
    ["set-meta", option(OPT.SET_META_CONTEXT, metaData("disk", ["base:allocation"]))],
    ["info", option(OPT.INFO, goData("disk"))],
    ["go nobody", option(OPT.GO, goData("nobody"))],
    ["starttls", option(OPT.STARTTLS)],
    ["extended", option(OPT.EXTENDED_HEADERS)],
  ];
  for (const first of words) {
    for (const second of words) {
      for (const third of words) {
        using peer = await target.connect();
        await peer.hello();
        await peer.send(pack(first[1], second[1], third[1], option(OPT.GO, goData("disk"))));
        const names = [first[0], second[0], third[0]];
        for (const _ of names) assert.notEqual(await outcome(peer), "closed", names.join(", "));
        assert.equal(await outcome(peer), REP.ACK, names.join(", "));
      }
    }
  }
  await target.finish();
});

Deno.test("ABORT is acknowledged and ends the connection", async () => {
  await using target = await Target.start();
  using peer = await target.connect();
  await peer.hello();
  assert.equal(await peer.optionResult(OPT.ABORT), REP.ACK);
  assert.equal((await peer.untilClosed()).length, 0);
  await target.finish();
});
