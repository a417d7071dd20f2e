/** Starts the program under test, or the original, and always cleans up. */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { basename } from "node:path";
import { TestDir } from "./dir.ts";
import { QmpClient } from "./qmp.ts";
import "./suppressed.ts";
import { PYTHON, which } from "./tools.ts";
import { until, within } from "./wait.ts";

/** The root of the repository. */
export const ROOT: string = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");
/** The installed program that qsd replaces. */
export const ORIGINAL = "qemu-storage-daemon";

/** The program under test: `$QSD`, by default this repository's launcher. */
export function subject(): string {
  const program = Deno.env.get("QSD") ?? `${ROOT}/qsd`;
  return program.includes("/") ? Deno.realPathSync(program) : program;
}

/** Whether a program, by its path or name, is the original. */
export const isOriginal = (program: string): boolean => basename(program) === ORIGINAL;

/** True when the tests are being proved against the original itself. */
export const ON_ORIGINAL: boolean = isOriginal(Deno.env.get("QSD") ?? "qsd");

/** How to start a daemon. */
export interface StartOptions {
  /** Options of the command line, beside those for QMP and readiness. */
  readonly args?: readonly string[];
  /** The program; by default the one under test. */
  readonly program?: string;
  /** Where it runs; by default a folder of its own. Relative paths in options start there. */
  readonly dir?: TestDir;
  /** A QMP socket named `qmp` (default true). */
  readonly qmp?: boolean;
  readonly env?: Record<string, string>;
  /** Sockets to listen on and to hand down, as path (relative to the folder) by fd number. */
  readonly sockets?: Readonly<Record<number, string>>;
  /** Words put before the program, as `["setpriv", "--bounding-set=-dac_override"]`; must exec. */
  readonly wrapper?: readonly string[];
  /** Name of the pid file in the folder (default `pid`); null for none. */
  readonly pidfile?: string | null;
}

/** What is left of a program that ended. */
export interface Ended {
  readonly status: number;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Binds sockets, leaves them on the given descriptors and becomes the daemon: the pid stays. */
const HAND_DOWN = `
import os, socket, sys
at = 1
while sys.argv[at] != "--":
    fd, path = sys.argv[at].split("=", 1)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen(16)
    os.dup2(listening.fileno(), int(fd))
    os.set_inheritable(int(fd), True)
    listening.detach()
    at += 1
os.execvp(sys.argv[at + 1], sys.argv[at + 1:])
`;

/** A running daemon. Use with `await using`: it is stopped and its folder removed in any case. */
export class Daemon {
  private readonly out: Promise<string>;
  private readonly err: Promise<string>;
  private readonly ending: Promise<Deno.CommandStatus>;
  private stderrSoFar = "";
  private ended: Ended | undefined;
  private client: QmpClient | undefined;

  private constructor(
    private readonly child: Deno.ChildProcess,
    readonly dir: TestDir,
    private readonly ownDir: boolean,
  ) {
    this.out = collect(child.stdout, () => {});
    this.err = collect(child.stderr, (text) => this.stderrSoFar += text);
    this.ending = child.status;
  }

  /** Starts and waits until it is ready (its pid file is there); fails if it ends before. */
  static async start(options: StartOptions = {}): Promise<Daemon> {
    const daemon = Daemon.spawn(options);
    try {
      await daemon.ready();
      const original = isOriginal(options.program ?? subject());
      if (options.qmp ?? true) daemon.client = await QmpClient.open(daemon.file("qmp"), original);
      return daemon;
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Starts without waiting. */
  static spawn(options: StartOptions = {}): Daemon {
    const dir = options.dir ?? TestDir.make();
    const program = options.program ?? subject();
    const monitor = [
      "--chardev",
      "socket,id=qmp0,path=qmp,server=on,wait=off",
      "--monitor",
      "qmp0",
    ];
    const args = [...(options.args ?? []), ...((options.qmp ?? true) ? monitor : [])];
    const command = [...(options.wrapper ?? []), program, ...args];
    if (options.pidfile !== null) command.push("--pidfile", options.pidfile ?? "pid");
    const sockets = Object.entries(options.sockets ?? {}).map(([fd, path]) => `${fd}=${path}`);
    if (sockets.length > 0) command.unshift(PYTHON, "-c", HAND_DOWN, ...sockets, "--");
    const child = new Deno.Command(command[0]!, {
      args: command.slice(1),
      cwd: dir.path,
      env: { LC_ALL: "C", ...options.env },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    return new Daemon(child, dir, options.dir === undefined);
  }

  /** The process id. The launcher execs, so it is the daemon's own. */
  get pid(): number {
    return this.child.pid;
  }

  /** The QMP client of the test's own monitor. */
  get qmp(): QmpClient {
    assert.ok(this.client !== undefined, "started without QMP");
    return this.client;
  }

  /** What has been written to standard error so far. */
  get stderr(): string {
    return this.stderrSoFar;
  }

  /** A path in the daemon's folder. */
  file(name: string): string {
    return this.dir.file(name);
  }

  /** The URI of an export on the Unix socket `nbd` of the daemon's folder. */
  uri(name: string, socket = "nbd"): string {
    return `nbd+unix:///${name}?socket=${this.file(socket)}`;
  }

  /** Waits for the pid file, complete with its newline. */
  async ready(): Promise<void> {
    let over: Deno.CommandStatus | undefined;
    const watch = this.ending.then((status) => {
      over = status;
    });
    await until(async () => {
      if (over !== undefined) {
        await watch;
        throw new Error(
          `the daemon ended with ${over.code} before it was ready: ${await this.err}`,
        );
      }
      return (await Deno.readTextFile(this.file("pid")).catch(() => "")).endsWith("\n");
    }, `the daemon to be ready; so far: ${this.stderrSoFar}`);
  }

  /** True while the process runs. */
  get alive(): boolean {
    try {
      return !/^State:\s+Z/m.test(Deno.readTextFileSync(`/proc/${this.pid}/status`));
    } catch {
      return false;
    }
  }

  /** Sends a signal to this process alone. */
  kill(signal: Deno.Signal): void {
    this.child.kill(signal);
  }

  /** Waits for the end, whoever caused it. */
  async end(ms = 15_000): Promise<Ended> {
    if (this.ended !== undefined) return this.ended;
    const status = await within(this.ending, ms, "the daemon to end");
    await this.client?.close();
    const [stdout, stderr] = await Promise.all([this.out, this.err]);
    this.ended = { status: status.code, signal: status.signal, stdout, stderr };
    return this.ended;
  }

  /** SIGTERM, then waits for the end. */
  async stop(): Promise<Ended> {
    if (this.ended === undefined && this.alive) this.kill("SIGTERM");
    return await this.end();
  }

  /**
   * Files, sockets and pipes that the process has open, each counted once: a client or an image that is forgotten
   * shows. Left out is what deno opens when it sees fit: its caches, and all that is needed for a thread.
   */
  descriptors(): number {
    const folder = `/proc/${this.pid}/fd`;
    const targets = [...Deno.readDirSync(folder)].map(({ name }) => {
      try {
        return Deno.readLinkSync(`${folder}/${name}`);
      } catch {
        return "closed meanwhile";
      }
    });
    return new Set(targets.filter((target) => !/_cache_v\d+|^anon_inode:/.test(target))).size;
  }

  /** What each thread is at, to tell why the daemon hangs: its name, state and where in the kernel it waits. */
  threads(): string[] {
    const folder = `/proc/${this.pid}/task`;
    try {
      return [...Deno.readDirSync(folder)].map(({ name }) => {
        const [comm, stat, wchan] = ["comm", "stat", "wchan"].map((file) =>
          Deno.readTextFileSync(`${folder}/${name}/${file}`).trim()
        );
        return `${comm} ${/\) (\S)/.exec(stat!)?.[1]} ${wchan}`;
      });
    } catch {
      return []; // it ended meanwhile
    }
  }

  /** Processor time used so far, in clock ticks (usually hundredths of a second). */
  processorTicks(): number {
    const stat = Deno.readTextFileSync(`/proc/${this.pid}/stat`);
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return Number(fields[11]) + Number(fields[12]);
  }

  /** Resident memory in bytes. */
  resident(): number {
    return this.memory("VmRSS");
  }

  /** The most memory that ever was resident, in bytes. */
  peak(): number {
    return this.memory("VmHWM");
  }

  private memory(field: string): number {
    const status = Deno.readTextFileSync(`/proc/${this.pid}/status`);
    return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1]) * 1024;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.ended === undefined) {
        if (this.alive) this.kill("SIGTERM");
        await this.end(5_000).catch(async (cause) => {
          const threads = this.threads();
          if (this.alive) this.kill("SIGKILL");
          await this.end();
          const what = `the daemon did not stop on SIGTERM; stderr: ${this.stderrSoFar}`;
          throw new Error(`${what}; its threads: ${threads.join(", ") || "none"}`, { cause });
        });
      }
    } finally {
      if (this.ownDir) await this.dir[Symbol.asyncDispose]();
    }
  }
}

/** Runs a daemon command line that is expected to end by itself. */
export async function runToEnd(options: StartOptions, ms = 15_000): Promise<Ended> {
  const daemon = Daemon.spawn({ ...options, qmp: options.qmp ?? false });
  try {
    return await daemon.end(ms);
  } catch (error) {
    daemon.kill("SIGKILL");
    await daemon.end();
    throw error;
  } finally {
    await daemon[Symbol.asyncDispose]();
  }
}

/** For `ignore` of tests that compare with the original. */
export function lacksOriginal(): boolean {
  return which(ORIGINAL) === undefined;
}

async function collect(
  stream: ReadableStream<Uint8Array>,
  sink: (text: string) => void,
): Promise<string> {
  let all = "";
  const decoder = new TextDecoder();
  for await (const chunk of stream) {
    const text = decoder.decode(chunk, { stream: true });
    all += text;
    sink(text);
  }
  return all;
}
