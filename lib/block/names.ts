/** Node names: which ones users may choose, and the generated ones. */
import { CommandError, isIdentifier } from "../base/mod.ts";
import type { Sys } from "../sys/mod.ts";

/** Bytes of a node name. */
const MAX_NAME = 31;

/** Refuses names that QEMU refuses. */
export function checkNodeName(name: string): void {
  if (!isIdentifier(name)) throw new CommandError(`Invalid node-name: '${name}'`);
  if (name.length > MAX_NAME) throw new CommandError("Node name too long");
}

/** Makes names as `#block076`: a counter and two random digits, so that nobody relies on them. */
export class NameGenerator {
  #counter = 0;

  constructor(private readonly sys: Sys) {}

  next(): string {
    const [low, high] = this.sys.randomBytes(2);
    const digits = ((low! * 256 + high!) % 100).toString().padStart(2, "0");
    return `#block${this.#counter++}${digits}`;
  }
}
