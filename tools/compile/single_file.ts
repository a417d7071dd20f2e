/** The self-contained file: stub.sh, then the deno executable and the bundled program, in whole blocks. */
import { createHash } from "node:crypto";
import { basename } from "node:path";
import { root } from "../steps.ts";
import { permissionFlags } from "./permissions.ts";
import { workerModules } from "./workers.ts";

/** The unit in which dd unpacks. */
const block = 4096;
/** Flags that keep deno from looking at anything but the program. */
const runFlags = [
  "--no-config",
  "--no-lock",
  "--no-prompt",
  "--no-remote",
  "--no-npm",
  "--cached-only",
];

interface Part {
  /** Path under the directory into which it is unpacked. */
  readonly name: string;
  /** Padded to whole blocks. */
  readonly bytes: Uint8Array;
}

function pad(bytes: Uint8Array, fill: number): Uint8Array {
  const padded = new Uint8Array(Math.ceil(bytes.length / block) * block).fill(fill);
  padded.set(bytes);
  return padded;
}

async function bundle(entry: string): Promise<string> {
  const output = await new Deno.Command(Deno.execPath(), {
    args: ["bundle", "--quiet", "--no-lock", entry],
    cwd: root,
    env: { NO_COLOR: "1" },
  }).output();
  if (!output.success) {
    throw new Error(`deno bundle ${entry} failed: ${new TextDecoder().decode(output.stderr)}`);
  }
  return new TextDecoder().decode(output.stdout);
}

/** The program's modules, each with its imports inside; Workers lie beside it, as JavaScript. */
async function programParts(): Promise<Part[]> {
  const workers = await workerModules();
  const parts: Part[] = [];
  for (const entry of [`${root}main.ts`, ...workers]) {
    let text = await bundle(entry);
    for (const worker of workers) {
      const name = basename(worker, ".ts");
      text = text.replaceAll(new RegExp(`"\\.[^"\\n]*/${name}\\.ts"`, "g"), `"./${name}.js"`);
    }
    const bytes = pad(new TextEncoder().encode(`${text}\n`), 0x0a);
    parts.push({ name: `lib/${basename(entry, ".ts")}.js`, bytes });
  }
  return parts;
}

function stubFor(template: string, flags: readonly string[], parts: readonly Part[]): Uint8Array {
  const hash = createHash("sha256").update(template).update(flags.join(" "));
  for (const part of parts) hash.update(part.name).update(part.bytes);
  const total = parts.reduce((sum, part) => sum + part.bytes.length, 0);
  const fill = (stubBlocks: number) => {
    let at = stubBlocks;
    const steps = parts.map(({ name, bytes }) => {
      const line = `  unpack ${name} ${at} ${bytes.length / block} || return`;
      at += bytes.length / block;
      return line;
    });
    return template.replace("@KEY@", hash.copy().digest("hex").slice(0, 32))
      .replace("@UNPACK@", steps.join("\n"))
      .replace("@MEGABYTES@", String(Math.ceil(total / 1e6)))
      .replace("@FLAGS@", flags.join(" "));
  };
  const encoder = new TextEncoder();
  // Numbers may get longer when the stub does: a block of its own is left free for that.
  const blocks = Math.ceil(encoder.encode(fill(0)).length / block) + 1;
  const stub = new Uint8Array(blocks * block).fill(0x0a);
  stub.set(encoder.encode(fill(blocks)));
  return stub;
}

/** Builds the file at `target`, from this deno and this checkout. */
export async function buildSingleFile(target: string): Promise<void> {
  const template = await Deno.readTextFile(new URL("stub.sh", import.meta.url));
  const permissions = await permissionFlags('"$lib"');
  const runtime = pad(await Deno.readFile(Deno.execPath()), 0);
  const parts = [...await programParts(), { name: "deno", bytes: runtime }];
  const stub = stubFor(template, [...runFlags, ...permissions], parts);
  const unfinished = `${target}.part`;
  {
    using file = await Deno.open(unfinished, { write: true, create: true, truncate: true });
    for (const bytes of [stub, ...parts.map((part) => part.bytes)]) {
      for (let at = 0; at < bytes.length;) at += await file.write(bytes.subarray(at));
    }
  }
  await Deno.chmod(unfinished, 0o755);
  await Deno.rename(unfinished, target);
}
