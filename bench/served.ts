/** A load generator in a process of its own, which lives through all slices and so stays compiled. */
import { TextLineStream } from "./lines.ts";
import { signalChild } from "./servers.ts";

type Answer<R> = { result: R } | { error: string };

/** Serves `run` on standard input and output: a line of JSON asks, a line answers. Until the input ends. */
export async function serveLines<W, R>(run: (work: W) => R | Promise<R>): Promise<void> {
  for await (const line of new TextLineStream(Deno.stdin.readable)) {
    let answer: Answer<R>;
    try {
      answer = { result: await run(JSON.parse(line) as W) };
    } catch (error) {
      answer = { error: String(error instanceof Error ? error.message : error) };
    }
    Deno.stdout.writeSync(new TextEncoder().encode(JSON.stringify(answer) + "\n"));
  }
}

/** A program of this folder that serves `--serve`. */
export class Served<W, R> {
  readonly #program: string;
  #process: ReturnType<typeof start>;

  /** `program`: its path in this folder. */
  constructor(program: string) {
    this.#program = program;
    this.#process = start(program);
  }

  /** The process. */
  get pid(): number {
    return this.#process.child.pid;
  }

  /** One workload, at most `patience` seconds; one at a time. Throws when it fails. */
  async run(work: W, patience: number): Promise<R> {
    const { child, requests, answers } = this.#process;
    const stuck = setTimeout(() => signalChild(child, "SIGKILL"), patience * 1000);
    try {
      await requests.write(new TextEncoder().encode(JSON.stringify(work) + "\n"));
      const line = await answers.next();
      if (line.done) {
        await child.status;
        this.#process = start(this.#program);
        throw new Error("a reply never came: the load generator had to be killed");
      }
      const answer = JSON.parse(line.value) as Answer<R>;
      if ("error" in answer) throw new Error(`load generator: ${answer.error}`);
      return answer.result;
    } finally {
      clearTimeout(stuck);
    }
  }

  /** Ends the process. */
  async close(): Promise<void> {
    const { child, requests, answers } = this.#process;
    await requests.close().catch(() => {});
    await answers.return?.();
    await child.status;
  }
}

function start(program: string) {
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", new URL(program, import.meta.url).pathname, "--serve"],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const requests = child.stdin.getWriter();
  const answers = new TextLineStream(child.stdout)[Symbol.asyncIterator]();
  return { child, requests, answers };
}
