/** Programs of other people that the tests drive. */
import assert from "node:assert/strict";
import { skip } from "./skips.ts";
import { within } from "./wait.ts";

/** How a program ended and what it said. */
export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The path of an executable, or undefined where it is not installed. */
export function which(program: string): string | undefined {
  const path = `${Deno.env.get("PATH") ?? ""}:/usr/sbin:/sbin`;
  for (const folder of path.split(":")) {
    if (folder === "") continue;
    try {
      const info = Deno.statSync(`${folder}/${program}`);
      if (info.isFile && ((info.mode ?? 0) & 0o111) !== 0) return `${folder}/${program}`;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) continue;
    }
  }
  return undefined;
}

/** For Deno.test's `ignore`: true, and recorded as a skip, when one of the programs is missing. */
export function lacks(suite: string, ...programs: string[]): boolean {
  const missing = programs.filter((program) => which(program) === undefined);
  return missing.length > 0 && skip(suite, `not installed: ${missing.join(", ")}`);
}

/** Options of {@link run}. */
export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Record<string, string>;
  readonly stdin?: string;
  /** Milliseconds after which the program is killed and the test fails. */
  readonly limit?: number;
}

/** Runs a program to its end, whatever its exit status. */
export async function run(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Outcome> {
  const child = new Deno.Command(program, {
    args: [...args],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    env: { LC_ALL: "C", ...options.env },
    stdin: options.stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  if (options.stdin !== undefined) {
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(options.stdin)).catch(() => {});
    await writer.close().catch(() => {});
  }
  const limit = options.limit ?? 60_000;
  const output = child.output();
  try {
    const { code, stdout, stderr } = await within(output, limit, `${program} ${args.join(" ")}`);
    const text = new TextDecoder();
    return { status: code, stdout: text.decode(stdout), stderr: text.decode(stderr) };
  } catch (error) {
    child.kill("SIGKILL");
    await output;
    throw error;
  }
}

/** Runs a program that must succeed; gives its standard output. */
export async function ok(
  program: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<string> {
  const { status, stdout, stderr } = await run(program, args, options);
  assert.equal(status, 0, `${program} ${args.join(" ")}: ${stderr}${stdout}`);
  return stdout;
}

/** qemu-io's exit status does not tell of failed requests: its output must not either. */
export async function qemuIo(
  target: string,
  commands: readonly string[],
  options: readonly string[] = [],
): Promise<string> {
  const flags = commands.flatMap((command) => ["-c", command]);
  const { status, stdout, stderr } = await run("qemu-io", [
    "-f",
    "raw",
    ...options,
    ...flags,
    target,
  ]);
  assert.equal(status, 0, `qemu-io ${commands.join("; ")}: ${stderr}${stdout}`);
  assert.doesNotMatch(stdout + stderr, /failed|error/i, commands.join("; "));
  return stdout;
}

/** Python with Debian's modules (libnbd's bindings), not whichever python3 is first on the path. */
export const PYTHON = "/usr/bin/python3";

/** For `ignore`: true when libnbd's Python bindings are missing. */
export function lacksLibnbd(suite: string): boolean {
  try {
    const { success } = new Deno.Command(PYTHON, { args: ["-c", "import nbd"], stderr: "null" })
      .outputSync();
    return !success && skip(suite, "not installed: python3-libnbd");
  } catch {
    return skip(suite, "not installed: python3");
  }
}

/** Opens a qcow2 image for writing with qemu-io, with its locks, until disposed of. */
export async function holdImage(path: string): Promise<AsyncDisposable> {
  const child = new Deno.Command("qemu-io", {
    args: ["-f", "qcow2", path],
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = child.stdout.getReader();
  const release = async () => {
    await child.stdin.close();
    await reader.cancel();
    await child.status;
  };
  // It asks for commands once it has the image. Looking at the locks meanwhile could cost it the image.
  const { value, done } = await within(reader.read(), 20_000, "qemu-io to open the image");
  if (done || !new TextDecoder().decode(value).startsWith("qemu-io>")) {
    await release();
    throw new Error(`qemu-io did not open ${path}`);
  }
  return { [Symbol.asyncDispose]: release };
}
