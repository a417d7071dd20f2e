/** The lines typed in earlier sessions: a file that only its owner reads, bounded. */
import { environment, errnoText, makeFolder, O, type Sys } from "../sys/mod.ts";

/** Lines kept. */
export const MAX_LINES = 1000;
/** Longest line kept, in UTF-16 units: what is longer was pasted. */
const MAX_LINE = 4096;
/** Most bytes of the file that are read. */
const MAX_FILE = 4 << 20;
/** Commands whose arguments can hold secrets are not written down. */
const confidential = /secret|password|passphrase/i;

/** Where the history is kept; undefined where the user has no such place. */
export function historyPath(): string | undefined {
  const state = environment("XDG_STATE_HOME");
  if (state !== undefined && state.startsWith("/")) return `${state}/qsd/qmp-history`;
  const home = environment("HOME");
  return home?.startsWith("/") ? `${home}/.local/state/qsd/qmp-history` : undefined;
}

/** The history of one session, oldest first in `lines`. */
export class History {
  readonly lines: string[] = [];
  readonly #added: string[] = [];

  constructor(private readonly sys: Sys, private readonly path: string | undefined) {
    if (path !== undefined) this.lines.push(...readLines(sys, path));
  }

  /** Adds a line, unless it is empty or the same as the last one. */
  add(line: string): void {
    if (line.trim() === "" || line === this.lines[this.lines.length - 1]) return;
    this.lines.push(line);
    if (line.length <= MAX_LINE && !confidential.test(line)) this.#added.push(line);
  }

  /** Writes what was added, behind what other sessions wrote meanwhile. Says what failed, if it did. */
  save(): string | undefined {
    const { path, sys } = this;
    if (path === undefined || this.#added.length === 0) return undefined;
    const lines = [...readLines(sys, path), ...this.#added].slice(-MAX_LINES);
    const problem = replaceFile(sys, path, `${lines.join("\n")}\n`);
    if (problem === undefined) this.#added.length = 0;
    return problem;
  }
}

function readLines(sys: Sys, path: string): string[] {
  const fd = sys.open(path, O.RDONLY | O.CLOEXEC | O.NONBLOCK);
  if (fd < 0) return [];
  const memory = sys.allocate(MAX_FILE);
  let length = 0;
  while (length < MAX_FILE) {
    const got = sys.read(fd, memory.address + length, MAX_FILE - length);
    if (got <= 0) break;
    length += got;
  }
  const text = new TextDecoder().decode(memory.bytes.slice(0, length));
  memory.unmap();
  sys.close(fd);
  return text.split("\n").filter((line) => line !== "").slice(-MAX_LINES);
}

/** Writes a new file and puts it in the place of the old one. */
function replaceFile(sys: Sys, path: string, text: string): string | undefined {
  makeFolders(sys, path);
  const fresh = `${path}.${sys.pid}`;
  const fd = sys.open(fresh, O.WRONLY | O.CREAT | O.TRUNC | O.CLOEXEC, 0o600);
  if (fd < 0) return errnoText(-fd);
  const bytes = new TextEncoder().encode(text);
  const memory = sys.allocate(bytes.length);
  memory.bytes.set(bytes);
  let rc = 0;
  for (let done = 0; done < bytes.length && rc >= 0; done += rc) {
    rc = sys.write(fd, memory.address + done, bytes.length - done);
  }
  memory.unmap();
  sys.close(fd);
  if (rc >= 0) rc = sys.rename(fresh, path);
  if (rc < 0) sys.unlink(fresh);
  return rc < 0 ? errnoText(-rc) : undefined;
}

/** The folders above `path`, as far as they are missing, for their owner only. */
function makeFolders(sys: Sys, path: string): void {
  const parts = path.split("/").slice(1, -1);
  parts.forEach((_, i) => {
    const folder = `/${parts.slice(0, i + 1).join("/")}`;
    if (typeof sys.stat(folder) === "number") makeFolder(sys, folder);
  });
}
