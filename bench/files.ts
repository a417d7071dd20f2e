/** What disk images hold: files, one after the other, as this machine has them. */
import { join } from "node:path";

/** Where a system keeps its programs, libraries and what belongs to them. */
const FOLDERS = ["/usr/bin", "/usr/lib", "/usr/share", "/usr/include"];
/** File systems begin each file at a block. */
const BLOCK = 4096;
/** Most bytes that are taken of one file. */
const MOST_OF_ONE = 32 * 2 ** 20;
/** What is compressed already does not make compressed clusters. */
const PACKED = /\.(gz|xz|bz2|zst|zip|jar|whl|png|jpe?g|gif|webp|woff2?|debug|mp[34]|ogg)$/;

interface Found {
  readonly path: string;
  /** Bytes that are taken of it: whole blocks. */
  readonly size: number;
}

function found(path: string): Found {
  const { size } = Deno.statSync(path);
  return { path, size: Math.ceil(Math.min(size, MOST_OF_ONE) / BLOCK) * BLOCK };
}

function* filesBelow(folder: string): Generator<Found> {
  let entries: Deno.DirEntry[];
  try {
    entries = [...Deno.readDirSync(folder)].sort((a, b) => a.name < b.name ? -1 : 1);
  } catch {
    return; // not here, or not for us
  }
  for (const entry of entries) {
    const path = join(folder, entry.name);
    if (entry.isDirectory) yield* filesBelow(path);
    else if (entry.isFile && !PACKED.test(entry.name)) yield found(path);
  }
}

/**
 * Of all files so many that they make about `wanted` bytes, from everywhere in proportion, in a fixed order. There is
 * at least the program that runs this.
 */
function choose(wanted: number, folders: readonly string[]): Found[] {
  const all = [found(Deno.execPath()), ...folders.flatMap((folder) => [...filesBelow(folder)])];
  const share = wanted / all.reduce((sum, { size }) => sum + size, 0);
  let due = 0;
  const chosen = all.filter(({ size }) => {
    due += size * share;
    if (size === 0 || due < size / 2) return false;
    due -= size;
    return true;
  });
  return chosen.length > 0 ? chosen : all;
}

/** The blocks of a file; zeroes where it cannot be read. */
function blocksOf({ path, size }: Found): Uint8Array {
  const bytes = new Uint8Array(size);
  try {
    using file = Deno.openSync(path);
    for (let got = 0; got < size;) {
      const more = file.readSync(bytes.subarray(got));
      if (more === null) break;
      got += more;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
  }
  return bytes;
}

/**
 * Writes `size` bytes of this machine's files to `path`, down to the disk: about a third of it when compressed. Always
 * the same as long as the files are; where there are too few they come again and again.
 */
export function writeFiles(path: string, size: number, folders: readonly string[] = FOLDERS): void {
  using target = Deno.openSync(path, { create: true, write: true });
  const chosen = choose(size, folders);
  for (let done = 0, at = 0; done < size; at++) {
    const bytes = blocksOf(chosen[at % chosen.length]!).subarray(0, size - done);
    for (let put = 0; put < bytes.length;) put += target.writeSync(bytes.subarray(put));
    done += bytes.length;
  }
  target.syncSync();
}
