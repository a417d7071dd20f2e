/** Writes archives in cpio's "newc" format, which the kernel unpacks as its first file system (initramfs). */

const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFCHR = 0o020000;

/** An archive that is being written. */
export class Cpio {
  readonly #parts: Uint8Array[] = [];
  #inode = 1;

  /** Entries so far. */
  get entries(): number {
    return this.#inode;
  }

  /** A folder; paths have no leading slash. */
  folder(path: string): void {
    this.#add(path, S_IFDIR | 0o755, new Uint8Array());
  }

  /** A file. */
  file(path: string, bytes: Uint8Array, mode: number): void {
    this.#add(path, S_IFREG | mode, bytes);
  }

  /** A character device. */
  device(path: string, major: number, minor: number): void {
    this.#add(path, S_IFCHR | 0o600, new Uint8Array(), major, minor);
  }

  #add(path: string, mode: number, bytes: Uint8Array, major = 0, minor = 0): void {
    const name = new TextEncoder().encode(`${path}\0`);
    const fields = [
      this.#inode++,
      mode,
      0, // uid, gid
      0,
      1, // links
      0, // mtime
      bytes.length,
      0, // device of the archive
      0,
      major,
      minor,
      name.length,
      0, // checksum: none in this format
    ];
    const header = "070701" +
      fields.map((field) => field.toString(16).padStart(8, "0")).join("");
    this.#pad([new TextEncoder().encode(header), name]);
    this.#pad([bytes]);
  }

  /** Adds parts and zeroes up to a multiple of four bytes. */
  #pad(parts: Uint8Array[]): void {
    const length = parts.reduce((sum, part) => sum + part.length, 0);
    this.#parts.push(...parts, new Uint8Array((4 - length % 4) % 4));
  }

  /** The archive. */
  end(): Uint8Array<ArrayBuffer> {
    this.#add("TRAILER!!!", 0, new Uint8Array());
    const total = this.#parts.reduce((sum, part) => sum + part.length, 0);
    const bytes = new Uint8Array(total);
    let at = 0;
    for (const part of this.#parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }
}
