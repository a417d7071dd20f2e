/**
 * The mould of all parity tests: a case is data, run against the installed original and against qsd, each in
 * a folder of its own with the same files; what can be seen from outside must be the same.
 */
import assert from "node:assert/strict";
import {
  Daemon,
  type Ended,
  isOriginal,
  lacksOriginal,
  ON_ORIGINAL,
  ORIGINAL,
  subject,
} from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noise } from "../harness/images.ts";
import { type Message, QmpClient } from "../harness/qmp.ts";
import { skip } from "../harness/skips.ts";
import { lacks, ok, run, which } from "../harness/tools.ts";
import { until } from "../harness/wait.ts";
import { normalise, normaliseText } from "./normalise.ts";

/** A file to prepare. Paths are relative to the folder in which the daemon starts. */
export type FileSpec =
  | { readonly size: number; readonly noise?: number; readonly mode?: number }
  | { readonly text: string; readonly mode?: number }
  | { readonly folder: true }
  | { readonly link: string }
  /** A copy of an earlier one with bytes (hexadecimal) overwritten, and cut off at `length`. */
  | { readonly copy: string; readonly patch?: readonly Patch[]; readonly length?: number }
  /** A program that makes the file, as ["qemu-img", "create", ...]. */
  | { readonly make: readonly string[] };

/** Bytes to overwrite. */
export type Patch = readonly [offset: number, hex: string];

/** One thing done to a running daemon. */
export type Step =
  /** A request, sent as JSON; its reply is compared. */
  | { readonly execute: string; readonly arguments?: unknown; readonly id?: unknown }
  /** Text sent as it is; that many replies (default 1) are compared. */
  | { readonly raw: string; readonly replies?: number }
  /**
   * Sends a line (and 0xff, which resets the parser, with `reset`), then a request with an id of its own:
   * all replies up to that one are compared, however many.
   */
  | { readonly probe: string; readonly reset?: boolean }
  /** A line whose reply is compared as text, so that no number is rounded. */
  | { readonly line: string }
  /** Sends text and compares all that comes, as lines with their ends, up to one that holds `until`. */
  | { readonly text: string; readonly until: string }
  /** Waits for an event; it is compared. */
  | { readonly event: string }
  /** Runs a program; its status and words are compared. */
  | { readonly tool: readonly string[]; readonly input?: string }
  /** Closes the monitor and connects to it again; the new greeting is compared. */
  | { readonly reconnect: true }
  /** Sends a signal and waits for the end. Only as the last step. */
  | { readonly signal: Deno.Signal }
  /** Shows where one of the cases of `together` begins. */
  | { readonly label: string }
  /** Which of these files exist now. */
  | { readonly exist: readonly string[] }
  /** Waits for the daemon to end by itself. Only as the last step. */
  | { readonly ends: true };

/** An intentional difference: what qsd shows, made from what the original shows. */
export interface Difference {
  readonly reason: string;
  readonly expect: (theirs: Transcript) => Transcript;
}

/** The same, but standard error is another text. */
export const says = (reason: string, change: (stderr: string) => string): Difference => ({
  reason,
  expect: (theirs) => ({ ...theirs, stderr: change(theirs.stderr) }),
});

/** A parity case. Without steps the command line is expected to end by itself. */
export interface Case {
  readonly name: string;
  readonly files?: Readonly<Record<string, FileSpec>>;
  readonly args?: readonly string[];
  readonly steps?: readonly Step[];
  /** Read the greeting and negotiate before the steps (default true). */
  readonly negotiate?: boolean;
  /** Options of the monitor, as ",pretty=on". */
  readonly monitor?: string;
  /** Options of an original daemon that runs in the same folder all the while (to hold locks). */
  readonly holder?: readonly string[];
  readonly wrapper?: readonly string[];
  /** Programs that the case needs. */
  readonly needs?: readonly string[];
  /** Leaves the end's standard error out of the comparison. */
  readonly ignoreStderr?: true;
  /** Leaves standard output out of the comparison (version and help texts). */
  readonly ignoreStdout?: true;
  readonly differs?: Difference;
}

/** Everything that was seen from outside, normalised. */
export interface Transcript {
  readonly steps: unknown[];
  readonly events: unknown[];
  readonly status: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Cases that run at the same time: a start is mostly waiting. */
const AT_ONCE = 4;

/** Declares a test whose steps are the cases, several at a time; `$QSD_CASE` picks those that hold its text. */
export function parity(suite: string, cases: readonly Case[]): void {
  const picked = cases.filter(({ name }) => name.includes(Deno.env.get("QSD_CASE") ?? ""));
  // Steps side by side cannot each be watched for leaks: the test around them is.
  const unwatched = { sanitizeOps: false, sanitizeResources: false, sanitizeExit: false };
  Deno.test({
    name: suite,
    ignore: picked.length === 0 || (lacksOriginal() && skip(suite, `not installed: ${ORIGINAL}`)),
    fn: async (test) => {
      const rest = picked.values();
      const lane = async () => {
        for (const each of rest) {
          const { name } = each;
          const ignore = lacks(`${suite}: ${name}`, ...(each.needs ?? []));
          await test.step({ name, ignore, fn: () => compare(each), ...unwatched });
        }
      };
      await Promise.all(Array.from({ length: AT_ONCE }, lane));
    },
  });
}

/**
 * Cases that leave nothing behind, one after the other on one daemon: a case each would mostly start daemons.
 * All need the same command line; each has a connection of its own to the monitor.
 */
export function together(suite: string, cases: readonly Case[]): void {
  const steps = cases.flatMap(({ name, steps = [], negotiate = true }): Step[] => [
    { label: name },
    { reconnect: true },
    ...(negotiate ? [{ execute: "qmp_capabilities" }] : []),
    ...steps,
  ]);
  parity(suite, [{ ...cases[0]!, name: `${cases.length} cases`, steps, negotiate: true }]);
}

/** Runs a case on both programs and compares. */
export async function compare(each: Case): Promise<void> {
  const both = await Promise.allSettled([
    observe(each, which(ORIGINAL)!),
    observe(each, subject().includes("/") ? subject() : which(subject())!),
  ]);
  for (const one of both) if (one.status === "rejected") throw one.reason;
  const [theirs, ours] = both.map((one) => (one as PromiseFulfilledResult<Transcript>).value);
  assert.ok(theirs !== undefined);
  const expected = each.differs && !ON_ORIGINAL ? each.differs.expect(theirs) : theirs;
  assert.deepEqual(ours, expected, "qsd (actual) and the original (expected) must look alike");
}

async function observe(each: Case, program: string): Promise<Transcript> {
  await using dir = TestDir.make();
  await prepare(dir, each.files ?? {});
  // Both are called by the same name, so that messages can be compared as they are.
  Deno.mkdirSync(dir.file(".bin"));
  Deno.symlinkSync(program, dir.file(`.bin/${ORIGINAL}`));
  const options = { dir, program: dir.file(`.bin/${ORIGINAL}`), wrapper: each.wrapper ?? [] };
  await using _holder = await hold(each, dir);
  const run = new Observation(each, dir, isOriginal(program));
  if (each.steps === undefined) {
    await using daemon = Daemon.spawn({
      ...options,
      args: each.args ?? [],
      qmp: false,
      pidfile: null,
    });
    return run.finish(await daemon.end());
  }
  const monitor = ["--chardev", "socket,id=qmp0,path=qmp,server=on,wait=off", "--monitor"];
  const args = [...(each.args ?? []), ...monitor, `qmp0${each.monitor ?? ""}`];
  await using daemon = Daemon.spawn({ ...options, args, qmp: false });
  const started = await daemon.ready().then(() => true, (error) => {
    if (daemon.alive) throw error; // else it has ended by itself, as some cases want
    return false;
  });
  return run.finish(started ? await run.play(daemon, each.steps) : await daemon.end());
}

/** Gathers what can be seen of one run. */
class Observation {
  private readonly steps: unknown[] = [];
  private readonly events: unknown[] = [];

  constructor(
    private readonly each: Case,
    private readonly dir: TestDir,
    private readonly original: boolean,
  ) {}

  async play(daemon: Daemon, steps: readonly Step[]): Promise<Ended> {
    // A client that connects while the original sets its monitor up is greeted twice, once in a thousand starts.
    let qmp = await QmpClient.connect(daemon.file("qmp"), this.original);
    try {
      if (this.each.negotiate ?? true) await qmp.negotiate();
      else if (!this.each.monitor) this.steps.push(await qmp.reply());
      for (const step of steps) {
        if ("reconnect" in step) {
          this.events.push(...qmp.events);
          await qmp.close();
          qmp = await QmpClient.connect(daemon.file("qmp"));
          this.steps.push(await qmp.reply());
        } else this.steps.push(await this.step(daemon, qmp, step));
      }
      const last = steps.at(-1);
      const over = last !== undefined && ("signal" in last || "ends" in last);
      const ended = over ? await daemon.end() : await daemon.stop();
      await qmp.closed();
      return ended;
    } finally {
      this.events.push(...qmp.events);
      await qmp.close();
    }
  }

  finish(ended: Ended): Transcript {
    const seen = normalise({ steps: this.steps, events: this.events }, this.dir.path) as Transcript;
    return {
      steps: seen.steps,
      events: seen.events,
      status: ended.signal === null ? ended.status : null,
      signal: ended.signal,
      stdout: this.each.ignoreStdout ? "" : normaliseText(ended.stdout, this.dir.path),
      stderr: this.each.ignoreStderr ? "" : normaliseText(ended.stderr, this.dir.path),
    };
  }

  private async step(daemon: Daemon, qmp: QmpClient, step: Step): Promise<unknown> {
    if ("label" in step) return step.label;
    if ("execute" in step) return await qmp.command(step);
    if ("probe" in step) return await this.probe(qmp, step.probe, step.reset ?? false);
    if ("line" in step) return await this.line(qmp, step.line);
    if ("text" in step) return await this.text(qmp, step.text, step.until);
    if ("event" in step) return await qmp.event(step.event);
    if ("tool" in step) return await this.tool(step.tool, step.input);
    if ("exist" in step) return step.exist.map((name) => [name, exists(this.dir.file(name))]);
    if ("signal" in step) return daemon.kill(step.signal);
    if ("ends" in step) return (await daemon.end()).status;
    if ("reconnect" in step) throw new Error("handled by play");
    await qmp.send(step.raw);
    const replies: Message[] = [];
    while (replies.length < (step.replies ?? 1)) replies.push(await qmp.reply());
    return replies;
  }

  private async probe(qmp: QmpClient, line: string, reset: boolean): Promise<unknown> {
    await qmp.send(`${line}\n`);
    if (reset) await qmp.send(new Uint8Array([0xff]));
    await qmp.send('{"execute":"query-block-exports","id":"<probe>"}\n');
    const replies: unknown[] = [];
    for (;;) {
      const reply = await qmp.reply(5_000).catch((error: Error) => error.message);
      replies.push(reply);
      if (typeof reply === "string" || reply.id === "<probe>") return replies;
    }
  }

  private async line(qmp: QmpClient, line: string): Promise<unknown> {
    await qmp.send(`${line}\n`);
    await qmp.reply();
    // Members come in any order: split at the commas that part them.
    return qmp.lines.at(-1)!.replace(/^\{|\}$/g, "").split(", ").sort();
  }

  private async text(qmp: QmpClient, text: string, end: string): Promise<unknown> {
    await qmp.send(text);
    await until(() => qmp.lines.some((line) => line.includes(end)), `a line with ${end}`);
    const shape = qmp.lines.map((line) => line.replace(/: ("[^"]*"|\d+)(,?)$/, ": <value>$2"));
    return { lines: shape.map((line) => line.replace(/,$/, "")).sort(), ends: [...qmp.endings] };
  }

  private async tool(command: readonly string[], input?: string): Promise<unknown> {
    const { status, stdout, stderr } = await run(command[0]!, command.slice(1), {
      cwd: this.dir.path,
      ...(input === undefined ? {} : { stdin: input }),
    });
    let output: unknown = stdout;
    try {
      output = JSON.parse(stdout);
    } catch {
      // Text is compared as text.
    }
    return { tool: command[0], status, output, stderr };
  }
}

function copyFile(
  dir: TestDir,
  spec: { copy: string; patch?: readonly Patch[]; length?: number },
  path: string,
): void {
  const bytes = Deno.readFileSync(dir.file(spec.copy));
  for (const [offset, hex] of spec.patch ?? []) bytes.set(Uint8Array.fromHex(hex), offset);
  Deno.writeFileSync(path, bytes.subarray(0, spec.length ?? bytes.length));
}

async function prepare(dir: TestDir, files: Readonly<Record<string, FileSpec>>): Promise<void> {
  for (const [name, spec] of Object.entries(files)) {
    const path = dir.file(name);
    if ("folder" in spec) Deno.mkdirSync(path);
    else if ("copy" in spec) copyFile(dir, spec, path);
    else if ("link" in spec) Deno.symlinkSync(spec.link, path);
    else if ("make" in spec) await ok(spec.make[0]!, spec.make.slice(1), { cwd: dir.path });
    else if ("text" in spec) Deno.writeTextFileSync(path, spec.text);
    else if (spec.noise !== undefined) Deno.writeFileSync(path, noise(spec.size, spec.noise));
    else {
      Deno.writeFileSync(path, new Uint8Array(0));
      Deno.truncateSync(path, spec.size);
    }
    if ("mode" in spec && spec.mode !== undefined) Deno.chmodSync(path, spec.mode);
  }
}

async function hold(each: Case, dir: TestDir): Promise<AsyncDisposable> {
  if (each.holder === undefined) return { [Symbol.asyncDispose]: () => Promise.resolve() };
  const program = which(ORIGINAL)!;
  const holder = Daemon.spawn({
    dir,
    program,
    args: each.holder,
    qmp: false,
    pidfile: "holder.pid",
  });
  await until(() => exists(dir.file("holder.pid")), "the holder of the locks");
  return holder;
}

const exists = (path: string): boolean => {
  try {
    Deno.lstatSync(path);
    return true;
  } catch {
    return false;
  }
};
