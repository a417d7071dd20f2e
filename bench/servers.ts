/** The NBD servers that are compared: how each is found, started on an image, and stopped. */

/** Where a server works: the image, and a directory for its sockets. */
export interface Site {
  readonly image: string;
  readonly directory: string;
  /** Whether servers that can shall also open a QMP socket. */
  readonly qmp: boolean;
}

/** A server that runs. */
export interface Server {
  readonly name: string;
  readonly pid: number;
  /** Its NBD Unix socket; the export is `EXPORT_NAME`. */
  readonly socket: string;
  /** Its QMP Unix socket, if it speaks QMP. */
  readonly qmp: string | null;
  /** SIGTERM, then SIGKILL after five seconds; waits for its end. */
  stop(): Promise<void>;
}

/** One kind of server. */
export interface Kind {
  readonly name: string;
  readonly program: string;
  readonly speaksQmp: boolean;
  /** Arguments that make it export `site.image` read-write at `socket` (and QMP at `qmp`). */
  arguments(site: Site, socket: string, qmp: string): string[];
}

/** The export's name on every server. */
export const EXPORT_NAME = "img";

const ROOT = new URL("..", import.meta.url).pathname;

/**
 * Locking is off, since all servers have the same file open at once; nothing of it is on a data path.
 * Everything else is each server's default.
 */
function daemonArguments(site: Site, socket: string, qmp: string): string[] {
  return [
    "--blockdev",
    JSON.stringify({ driver: "file", "node-name": "f", filename: site.image, locking: "off" }),
    "--blockdev",
    JSON.stringify({ driver: "raw", "node-name": "r", file: "f" }),
    "--nbd-server",
    `addr.type=unix,addr.path=${socket}`,
    "--export",
    `type=nbd,id=e,node-name=r,name=${EXPORT_NAME},writable=on`,
    ...(site.qmp
      ? ["--chardev", `socket,id=q,path=${qmp},server=on,wait=off`, "--monitor", "chardev=q"]
      : []),
  ];
}

/** qsd from source. */
export const QSD: Kind = {
  name: "qsd",
  program: `${ROOT}qsd`,
  speaksQmp: true,
  arguments: daemonArguments,
};

/** qsd as compiled by `deno task compile`. */
export const QSD_COMPILED: Kind = {
  name: "qsd-compiled",
  program: `${ROOT}dist/qsd`,
  speaksQmp: true,
  arguments: daemonArguments,
};

/** The original. */
export const ORIGINAL: Kind = {
  name: "qemu-storage-daemon",
  program: "qemu-storage-daemon",
  speaksQmp: true,
  arguments: daemonArguments,
};

/** nbdkit with its file plugin. */
export const NBDKIT: Kind = {
  name: "nbdkit",
  program: "nbdkit",
  speaksQmp: false,
  arguments: (site, socket) => ["--foreground", "--unix", socket, "file", site.image],
};

/** qemu-nbd, for as many clients as come. */
export const QEMU_NBD: Kind = {
  name: "qemu-nbd",
  program: "qemu-nbd",
  speaksQmp: false,
  arguments: (site, socket) => [
    "--persistent",
    "--shared=0",
    `--socket=${socket}`,
    `--export-name=${EXPORT_NAME}`,
    "--image-opts",
    `driver=raw,file.driver=file,file.filename=${site.image},file.locking=off`,
  ],
};

/** Every kind, in the order of the columns. */
export const KINDS: readonly Kind[] = [QSD, QSD_COMPILED, ORIGINAL, NBDKIT, QEMU_NBD];

/** The first line that `kind --version` prints, or null if it does not run here. */
export async function version(kind: Kind): Promise<string | null> {
  try {
    const output = await new Deno.Command(kind.program, {
      args: ["--version"],
      stdin: "null",
      stdout: "piped",
      stderr: "null",
    }).output();
    if (!output.success) return null;
    return new TextDecoder().decode(output.stdout).split("\n")[0]!.trim();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Starts a server and waits until it takes connections. Throws with what it printed if it ends instead. */
export async function start(kind: Kind, site: Site): Promise<Server> {
  const socket = `${site.directory}/${kind.name}.nbd`;
  const qmp = `${site.directory}/${kind.name}.qmp`;
  // nbdkit leaves its socket behind, and does not start where there is one.
  await Deno.remove(socket).catch(() => {});
  const child = new Deno.Command(kind.program, {
    args: kind.arguments(site, socket, qmp),
    stdin: "null",
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let ended = false;
  let said = "";
  const drained = (async () => {
    const text = child.stderr.pipeThrough(new TextDecoderStream());
    for await (const piece of text) said = (said + piece).slice(-4000);
  })();
  const status = child.status.then(() => void (ended = true));
  const server: Server = {
    name: kind.name,
    pid: child.pid,
    socket,
    qmp: kind.speaksQmp && site.qmp ? qmp : null,
    async stop() {
      signalChild(child, "SIGTERM");
      const killer = setTimeout(() => signalChild(child, "SIGKILL"), 5000);
      await status;
      clearTimeout(killer);
      await drained;
    },
  };
  const deadline = performance.now() + 10_000;
  while (!await takesConnections(socket)) {
    if (ended || performance.now() > deadline) {
      await server.stop();
      throw new Error(`${kind.name} does not serve: ${said.trim() || "it is silent"}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  return server;
}

/** Sends a signal to a child that may have ended already. */
export function signalChild(child: Deno.ChildProcess, signal: Deno.Signal): void {
  try {
    child.kill(signal);
  } catch (error) {
    if (!(error instanceof TypeError || error instanceof Deno.errors.NotFound)) throw error;
  }
}

async function takesConnections(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    throw error;
  }
}
