/** The handshake by itself: what it answers, and what it remembers, without a connection around it. */
import assert from "node:assert/strict";
import { viewOf } from "../base/mod.ts";
import { type ExportDirectory, type MetaContext, NbdExport } from "./export.ts";
import { Negotiation, type Outcome } from "./negotiate.ts";
import { infoRequestData, metaRequestData } from "./testing_wire.ts";
import { Framing, Info, MAX_PAYLOAD, Opt, Rep, TransmissionFlag } from "./wire.ts";

const text = new TextEncoder();

/** An export of 1 MiB. */
function exportOf(name: string, minimum = 1, description?: string): NbdExport {
  const limits = { requestAlignment: minimum, maxTransfer: MAX_PAYLOAD };
  return new NbdExport({ size: 1 << 20, limits } as never, {
    name,
    writable: true,
    writethrough: false,
    allocationDepth: true,
    ...(description === undefined ? {} : { description }),
  });
}

/** An option's answer: its type (as in Rep) and its data. */
interface Answer {
  readonly type: number;
  readonly data: Uint8Array;
}

/** A handshake with a server of these exports; what it sends is in `answers`. */
class Client {
  readonly answers: Answer[] = [];
  readonly negotiation: Negotiation;

  constructor(...exports: NbdExport[]) {
    const directory: ExportDirectory = {
      find: (name) => exports.find((one) => one.name === name),
      list: () => exports,
      multiConn: true,
    };
    const off = { name: "", enabled: false, emit: () => {} };
    const traces = { option: off, flags: off, error: off, meta: off };
    this.negotiation = new Negotiation(directory, traces, (bytes) => {
      const type = bytes.length < 20 ? 0 : viewOf(bytes).getUint32(12);
      this.answers.push({ type, data: bytes.slice(20) });
    });
    assert.equal(this.negotiation.clientFlags(3).next, "option");
  }
  option(option: number, data: Uint8Array = new Uint8Array(0)): Outcome {
    this.answers.length = 0;
    return this.negotiation.option(option, data);
  }
  /** The final answer's type. */
  get last(): number {
    return this.answers.at(-1)!.type;
  }
  get message(): string {
    return new TextDecoder().decode(this.answers.at(-1)!.data);
  }
  /** The data of one kind of information, after its kind. */
  info(kind: number): Uint8Array | undefined {
    const found = this.answers.find(({ type, data }) =>
      type === Rep.info && viewOf(data).getUint16(0) === kind
    );
    return found?.data.subarray(2);
  }
  /** Block sizes as told: minimum, preferred, maximum. */
  get sizes(): number[] {
    const view = viewOf(this.info(Info.blockSize)!);
    return [view.getUint32(0), view.getUint32(4), view.getUint32(8)];
  }
  /** Chooses `name`; with the contexts that count. */
  go(name: string): readonly MetaContext[] {
    const outcome = this.option(Opt.go, infoRequestData(name));
    assert.equal(outcome.next, "transmission");
    return outcome.next === "transmission" ? outcome.chosen.contexts : [];
  }
  setContexts(name: string, ...queries: string[]): number {
    this.option(Opt.setMetaContext, metaRequestData(name, queries));
    return this.last;
  }
}

Deno.test("options are passed over up to 32 MiB, and names of 4096 bytes looked up", () => {
  const { negotiation } = new Client(exportOf("disk"));
  assert.equal(negotiation.refuses(Opt.go, MAX_PAYLOAD), undefined);
  assert.equal(negotiation.refuses(Opt.go, MAX_PAYLOAD + 1)?.next, "close");
  assert.equal(negotiation.refuses(Opt.exportName, 4096), undefined);
  assert.deepEqual(negotiation.refuses(Opt.exportName, 4097), {
    next: "close",
    reason: "Bad length received",
  });
});

Deno.test("an abort is acknowledged however much data comes with it", () => {
  const client = new Client(exportOf("disk"));
  assert.deepEqual(client.negotiation.oversized(Opt.abort), { next: "close" });
  assert.equal(client.last, Rep.ack);
});

Deno.test("contexts count for the export that they were set for, and until they are set once more", () => {
  const client = new Client(exportOf("a"), exportOf("b"));
  client.option(Opt.structuredReply);
  assert.equal(client.setContexts("a", "base:allocation"), Rep.ack);
  assert.deepEqual(client.go("b"), []);
  assert.deepEqual(client.go("a").map(({ name }) => name), ["base:allocation"]);
  assert.equal(client.setContexts("nobody", "base:allocation"), Rep.errUnknown);
  assert.deepEqual(client.go("a"), []);
  client.setContexts("a", "base:allocation");
  client.negotiation.oversized(Opt.setMetaContext);
  assert.equal(client.last, Rep.errTooBig);
  assert.deepEqual(client.go("a"), []);
});

Deno.test("with contexts and extended headers a client may choose among them, without it may not", () => {
  const client = new Client(exportOf("disk"));
  const offered = () => {
    client.go("disk");
    return viewOf(client.info(Info.export)!).getUint16(8) & TransmissionFlag.blockStatusPayload;
  };
  client.option(Opt.extendedHeaders);
  assert.equal(offered(), 0);
  client.setContexts("disk", "base:allocation");
  assert.equal(offered(), TransmissionFlag.blockStatusPayload);
});

Deno.test("contexts are listed without numbers, and set with those that replies have", () => {
  const client = new Client(exportOf("disk"));
  client.option(Opt.structuredReply);
  const query = metaRequestData("disk", ["qemu:allocation-depth"]);
  const id = (option: number) => {
    client.option(option, query);
    return viewOf(client.answers[0]!.data).getUint32(0);
  };
  assert.deepEqual([id(Opt.listMetaContext), id(Opt.setMetaContext)], [0, 1]);
});

Deno.test("a name that is not there is shown whole up to 80 characters", () => {
  const client = new Client(exportOf("disk"));
  const shown = (length: number) => {
    client.option(Opt.info, infoRequestData("n".repeat(length)));
    return client.message;
  };
  assert.equal(shown(80), `export '${"n".repeat(80)}' not present`);
  assert.equal(shown(81), `export '${"n".repeat(80)}...' not present`);
});

Deno.test("EXPORT_NAME, whose answer has no header, is not there with extended headers", () => {
  const client = new Client(exportOf("disk"));
  client.option(Opt.extendedHeaders);
  assert.deepEqual(client.option(Opt.exportName, text.encode("disk")), {
    next: "close",
    reason: "Option 0x1 not permitted with extended headers",
  });
  assert.deepEqual(client.answers, []);
});

Deno.test("an export's description is told to whoever asks about it, its name to who asks for it", () => {
  const client = new Client(exportOf("disk", 1, "what it is"), exportOf("plain"));
  client.option(Opt.info, infoRequestData("disk"));
  assert.deepEqual(client.info(Info.description), text.encode("what it is"));
  assert.equal(client.info(Info.name), undefined);
  client.option(Opt.info, infoRequestData("plain", [Info.name]));
  assert.equal(client.info(Info.description), undefined);
  assert.deepEqual(client.info(Info.name), text.encode("plain"));
  client.option(Opt.list);
  const [first] = client.answers;
  assert.deepEqual(first!.data, new Uint8Array([0, 0, 0, 4, ...text.encode("diskwhat it is")]));
});

Deno.test("who does not ask for block sizes need not obey them, but is told that others must", () => {
  const client = new Client(exportOf("sectors", 512), exportOf("large", 8192));
  assert.equal(client.option(Opt.info, infoRequestData("sectors")).next, "option");
  assert.deepEqual(client.sizes, [512, 4096, MAX_PAYLOAD]);
  assert.equal(client.last, Rep.errBlockSizeReqd);
  client.option(Opt.info, infoRequestData("sectors", [Info.blockSize]));
  assert.equal(client.last, Rep.ack);
  client.go("sectors");
  assert.deepEqual(client.sizes, [1, 4096, MAX_PAYLOAD]);
  client.option(Opt.go, infoRequestData("sectors", [Info.blockSize]));
  assert.deepEqual(client.sizes, [512, 4096, MAX_PAYLOAD]);
  client.option(Opt.info, infoRequestData("large", [Info.blockSize]));
  assert.deepEqual(client.sizes, [8192, 8192, MAX_PAYLOAD]);
});

Deno.test("framings are those that were agreed on", () => {
  for (
    const [options, framing] of [
      [[], Framing.simple],
      [[Opt.structuredReply], Framing.structured],
      [[Opt.structuredReply, Opt.extendedHeaders], Framing.extended],
    ] as const
  ) {
    const client = new Client(exportOf("disk"));
    for (const option of options) client.option(option);
    const outcome = client.option(Opt.go, infoRequestData("disk"));
    assert.ok(outcome.next === "transmission" && outcome.chosen.framing === framing);
  }
});
