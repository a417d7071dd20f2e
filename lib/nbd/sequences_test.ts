/**
 * Every sequence of options up to a length: the answers are those of a model, and transmission then speaks as
 * was negotiated. The model knows what the NBD protocol says of each option's effect, and nothing else.
 */
import assert from "node:assert/strict";
import { viewOf } from "../base/mod.ts";
import { type ByteClient, concat, request, TestServer } from "./testing.ts";
import {
  Cmd,
  EXTENDED_REPLY_MAGIC,
  Opt,
  Rep,
  SIMPLE_REPLY_MAGIC,
  STRUCTURED_REPLY_MAGIC,
} from "./wire.ts";
import { infoRequestData, metaRequestData, optionMessage } from "./testing_wire.ts";

const LENGTH = 4;
const DISK = 64 * 1024;

/** What options leave behind. */
interface State {
  framing: "simple" | "structured" | "extended";
  contexts: number;
}

/** An option, and its model: changes the state and tells the final answer's type. */
interface Word {
  readonly name: string;
  readonly bytes: Uint8Array;
  readonly act: (state: State) => number;
}

function setMeta(name: string, bytes: Uint8Array, contexts: number, answer: number): Word {
  return {
    name,
    bytes,
    act(state) {
      if (state.framing === "simple") return Rep.errInvalid;
      state.contexts = contexts;
      return answer;
    },
  };
}

const meta = (option: number, name: string) =>
  optionMessage(option, metaRequestData(name, ["base:allocation"]));
const words: readonly Word[] = [
  { name: "list", bytes: optionMessage(Opt.list), act: () => Rep.ack },
  {
    name: "structured",
    bytes: optionMessage(Opt.structuredReply),
    act(state) {
      if (state.framing === "extended") return Rep.errExtHeaderReqd;
      if (state.framing === "structured") return Rep.errInvalid;
      state.framing = "structured";
      return Rep.ack;
    },
  },
  {
    name: "extended",
    bytes: optionMessage(Opt.extendedHeaders),
    act(state) {
      if (state.framing === "extended") return Rep.errInvalid;
      state.framing = "extended";
      return Rep.ack;
    },
  },
  // Listing is let through at any time: it changes nothing.
  { name: "list-meta", bytes: meta(Opt.listMetaContext, "disk"), act: () => Rep.ack },
  setMeta("set-meta", meta(Opt.setMetaContext, "disk"), 1, Rep.ack),
  setMeta("set-meta nobody", meta(Opt.setMetaContext, "nobody"), 0, Rep.errUnknown),
  {
    name: "info",
    bytes: optionMessage(Opt.info, infoRequestData("disk")),
    act: () => Rep.ack,
  },
  {
    name: "go nobody",
    bytes: optionMessage(Opt.go, infoRequestData("nobody")),
    act: () => Rep.errUnknown,
  },
  {
    name: "unknown",
    bytes: optionMessage(77, Uint8Array.of(1, 2, 3)),
    act: () => Rep.errUnsup,
  },
];
const go = optionMessage(Opt.go, infoRequestData("disk"));

/** The type of an option's last reply. */
async function answer(client: ByteClient): Promise<number> {
  for (;;) {
    const head = viewOf(await client.receive(20));
    assert.equal(head.byteLength, 20, "hung up");
    const type = head.getUint32(12);
    await client.receive(head.getUint32(16));
    if (type === Rep.ack || type >= 0x80000000) return type;
  }
}

const replyMagic = {
  simple: SIMPLE_REPLY_MAGIC,
  structured: STRUCTURED_REPLY_MAGIC,
  extended: EXTENDED_REPLY_MAGIC,
};

/** Asks for block status: the reply is framed as agreed, and an error unless a context was set. */
async function speaksAs(client: ByteClient, { framing, contexts }: State): Promise<void> {
  await client.send(request(Cmd.blockStatus, 0, 512, { extended: framing === "extended" }));
  const head = viewOf(await client.receive(framing === "simple" ? 16 : 20));
  assert.equal(head.getUint32(0), replyMagic[framing]);
  const failed = framing === "simple" ? head.getUint32(4) !== 0 : head.getUint16(6) >= 0x8000;
  assert.equal(failed, contexts === 0, "block status");
}

/** Calls `visit` with every sequence of that length. */
async function each(length: number, visit: (sequence: readonly Word[]) => Promise<void>) {
  const places: number[] = new Array(length).fill(0);
  for (;;) {
    await visit(places.map((at) => words[at]!));
    let place = length - 1;
    while (place >= 0 && places[place] === words.length - 1) places[place--] = 0;
    if (place < 0) return;
    places[place]!++;
  }
}

Deno.test(`every sequence of ${LENGTH} options is answered as the protocol says`, async () => {
  const server = new TestServer(DISK);
  try {
    // Shorter sequences are the beginnings of these.
    await each(LENGTH, async (sequence) => {
      const client = server.connect();
      const names = sequence.map(({ name }) => name).join(", ");
      await client.send(
        concat([Uint8Array.of(0, 0, 0, 3), ...sequence.map(({ bytes }) => bytes), go]),
      );
      await client.receive(18);
      const state: State = { framing: "simple", contexts: 0 };
      for (const word of sequence) {
        assert.equal(await answer(client), word.act(state), `${word.name} in: ${names}`);
      }
      assert.equal(await answer(client), Rep.ack, `go after: ${names}`);
      await speaksAs(client, state);
      client.close();
    });
    await server.allGone();
  } finally {
    await server.close();
  }
});
