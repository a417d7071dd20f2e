/**
 * query-qmp-schema of both: for every command and event that qsd has too, each member that the original shows is
 * there, as optional and of the same kind of type. What is still to come are values of certain enumerations (drivers,
 * objects, exports), and the branches of unions that they choose.
 */
import assert from "node:assert/strict";
import { Daemon, isOriginal, lacksOriginal, ORIGINAL, subject } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { QmpClient } from "../harness/qmp.ts";
import { skip } from "../harness/skips.ts";
import { which } from "../harness/tools.ts";

interface Entry {
  readonly name: string;
  readonly "meta-type": string;
  readonly "json-type"?: string;
  readonly "arg-type"?: string;
  readonly "ret-type"?: string;
  readonly "element-type"?: string;
  readonly members?: readonly {
    readonly name?: string;
    readonly type: string;
    readonly default?: null;
    readonly features?: readonly string[];
  }[];
  readonly variants?: readonly { readonly case: string; readonly type: string }[];
  readonly features?: readonly string[];
}
type Schema = ReadonlyMap<string, Entry>;

/** Values that name a feature still to come: by one value that enumeration is known by. */
const growing = ["null-co", "secret", "nbd", "ringbuf", "qcow2"];
/** Members that wait for a feature: TLS and WebSocket for character devices, 3270 terminals, encrypted images. */
const later = ["tls-creds", "tls-authz", "websocket", "tn3270", "encrypt"];

async function schemaOf(program: string): Promise<Schema> {
  await using dir = TestDir.make();
  await using daemon = Daemon.spawn({
    dir,
    program,
    args: ["--chardev", "socket,id=m,path=qmp,server=on,wait=off", "--monitor", "m"],
    qmp: false,
  });
  await daemon.ready();
  const qmp = await QmpClient.connect(daemon.file("qmp"), isOriginal(program));
  try {
    await qmp.negotiate();
    const reply = await qmp.command({ execute: "query-qmp-schema" });
    return new Map((reply.return as Entry[]).map((entry) => [entry.name, entry]));
  } finally {
    await qmp.close();
    await daemon.stop();
  }
}

/** Walks both schemas along the original's, and notes what differs. */
class Comparison {
  readonly findings: string[] = [];
  private readonly seen = new Set<string>();

  constructor(private readonly theirs: Schema, private readonly ours: Schema) {}

  compare(path: string, their: string, our: string): void {
    const key = `${their} ${our}`;
    if (this.seen.has(key)) return;
    this.seen.add(key);
    const a = this.theirs.get(their)!;
    const b = this.ours.get(our)!;
    // Newer versions widen a type into an alternate that still takes it, as QEMU 10.1 does with `iothread`.
    if (a["meta-type"] !== "alternate" && b["meta-type"] === "alternate") {
      if (b.members!.some(({ type }) => type === their)) return;
    }
    if (a["meta-type"] !== b["meta-type"] || a["json-type"] !== b["json-type"]) {
      return this.note(path, "is another kind of type");
    }
    switch (a["meta-type"]) {
      case "array":
        return this.compare(`${path}[]`, a["element-type"]!, b["element-type"]!);
      case "enum":
        return this.words(path, a, b);
      case "alternate":
        return this.alternatives(path, a, b);
      case "object":
        return this.object(path, a, b);
    }
  }

  features(path: string, a: { features?: readonly string[] }, b: typeof a): void {
    const [want, have] = [a, b].map(({ features = [] }) => [...features].sort().join());
    if (want !== have) this.note(path, `has the features ${have}, not ${want}`);
  }

  private words(path: string, a: Entry, b: Entry): void {
    const have = b.members!.map(({ name }) => name);
    if (growing.some((word) => have.includes(word))) return;
    for (const { name } of a.members!) {
      if (!have.includes(name)) this.note(path, `lacks the value ${name}`);
    }
  }

  private alternatives(path: string, a: Entry, b: Entry): void {
    const kinds = (schema: Schema, entry: Entry) =>
      entry.members!.map(({ type }) => schema.get(type)!["meta-type"] + type.replace(/^\d+$/, ""));
    const have = kinds(this.ours, b);
    for (const kind of kinds(this.theirs, a)) {
      if (!have.includes(kind)) this.note(path, `lacks the alternative ${kind}`);
    }
  }

  private object(path: string, a: Entry, b: Entry): void {
    for (const member of a.members!) {
      const here = `${path}.${member.name}`;
      const found = b.members!.find(({ name }) => name === member.name);
      if (found === undefined) {
        if (!later.includes(member.name!)) this.note(here, "is missing");
        continue;
      }
      if ("default" in member !== "default" in found) this.note(here, "is otherwise optional");
      this.features(here, member, found);
      this.compare(here, member.type, found.type);
    }
    for (const { case: word, type } of a.variants ?? []) {
      const found = b.variants?.find((variant) => variant.case === word);
      if (found !== undefined) this.compare(`${path}<${word}>`, type, found.type);
    }
  }

  private note(path: string, what: string): void {
    this.findings.push(`${path} ${what}`);
  }
}

Deno.test({
  name: "schema: every member that the original shows is there",
  ignore: lacksOriginal() && skip("schema", `not installed: ${ORIGINAL}`),
  async fn() {
    const program = subject().includes("/") ? subject() : which(subject())!;
    const [theirs, ours] = await Promise.all([schemaOf(which(ORIGINAL)!), schemaOf(program)]);
    const comparison = new Comparison(theirs, ours);
    let shared = 0;
    for (const [name, entry] of theirs) {
      const own = ours.get(name);
      if (!/^(command|event)$/.test(entry["meta-type"]) || own === undefined) continue;
      shared++;
      comparison.features(name, entry, own);
      comparison.compare(`${name}:args`, entry["arg-type"]!, own["arg-type"]!);
      if (entry["ret-type"] !== undefined) {
        comparison.compare(`${name}:ret`, entry["ret-type"], own["ret-type"]!);
      }
    }
    assert.deepEqual(comparison.findings, []);
    assert.ok(shared > 40, `${shared} commands and events in common`);
  },
});
