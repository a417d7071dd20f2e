/** The set-up of most tests: a raw file exported over NBD on the Unix socket `nbd`. */
import { Daemon, type StartOptions } from "./daemon.ts";
import { TestDir } from "./dir.ts";

/** How to serve an image. */
export interface ServeOptions {
  readonly dir?: TestDir;
  /** File name in the folder (default `disk.raw`). */
  readonly file?: string;
  readonly writable?: boolean;
  /** More options of the file node, as ",cache.direct=on". */
  readonly node?: string;
  /** More options of the export, as ",name=x". */
  readonly exported?: string;
  /** More options of the server, as ",max-connections=2". */
  readonly server?: string;
  /** The export runs in an IOThread of this name, which is made. */
  readonly iothread?: string;
  /** More words of the command line. */
  readonly args?: readonly string[];
  readonly start?: Partial<StartOptions>;
}

/** The words of the command line that serve an image as export `disk`. */
export function serveArgs(options: ServeOptions = {}): string[] {
  const { iothread } = options;
  return [
    ...(iothread === undefined ? [] : ["--object", `iothread,id=${iothread}`]),
    "--blockdev",
    `driver=file,node-name=disk,filename=${options.file ?? "disk.raw"}${options.node ?? ""}`,
    "--nbd-server",
    `addr.type=unix,addr.path=nbd${options.server ?? ""}`,
    "--export",
    `type=nbd,id=e0,node-name=disk,writable=${options.writable ?? true ? "on" : "off"}${
      options.exported ?? ""
    }${iothread === undefined ? "" : `,iothread=${iothread}`}`,
    ...(options.args ?? []),
  ];
}

/** Starts a daemon that serves an image which is in the folder already. */
export function serve(options: ServeOptions = {}): Promise<Daemon> {
  return Daemon.start({
    ...(options.dir ? { dir: options.dir } : {}),
    ...options.start,
    args: serveArgs(options),
  });
}
