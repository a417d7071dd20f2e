/** The user-creatable objects of the daemon, by id. */
import { badIdentifier, CommandError, isIdentifier } from "../base/mod.ts";
import type { Handlers } from "../qmp/schema/core.ts";
import {
  type objectCommands,
  type ObjectOptionsValue,
  QCryptoSecretFormat,
  SecretProperties,
} from "../qmp/schema/qom.ts";
import type { Context } from "../sys/mod.ts";
import { errnoText, O } from "../sys/mod.ts";
import { loadSecret } from "./secret.ts";

interface Entry {
  readonly type: string;
  readonly secret: Uint8Array;
  /** Those who hold it: it cannot be deleted. */
  users: number;
}

/** Longest secret file, in bytes. */
const MAX_FILE = 1 << 20;

/** The objects. */
export class ObjectRegistry {
  private readonly objects = new Map<string, Entry>();

  constructor(private readonly context: Pick<Context, "sys">) {}

  /** Makes an object. Throws CommandError. */
  add(options: ObjectOptionsValue): void {
    const { id } = options;
    if (!isIdentifier(id)) throw badIdentifier();
    const secret = loadSecret(options, {
      secret: (other) => this.secret(other),
      readFile: (path) => this.readFile(path),
    });
    if (this.objects.has(id)) {
      throw new CommandError(
        `attempt to add duplicate property '${id}' to object (type 'container')`,
      );
    }
    this.objects.set(id, { type: options["qom-type"], secret, users: 0 });
  }

  /** Removes an object. Throws CommandError when there is none, or it is held. */
  delete(id: string): void {
    const entry = this.objects.get(id);
    if (entry === undefined) throw new CommandError(`object '${id}' not found`);
    if (entry.users > 0) throw new CommandError(`object '${id}' is in use, can not be deleted`);
    this.objects.delete(id);
  }

  /** The bytes of secret `id`, now. Throws CommandError. */
  secret(id: string): Uint8Array {
    const entry = this.objects.get(id);
    if (entry === undefined) throw new CommandError(`No secret with id '${id}'`);
    return entry.secret;
  }

  /** Keeps object `id` from being deleted until `release` is called (once). Throws CommandError. */
  hold(id: string): { release(): void } {
    const entry = this.objects.get(id);
    if (entry === undefined) throw new CommandError(`object '${id}' not found`);
    entry.users++;
    return { release: () => void entry.users-- };
  }

  /** Lets go of all objects. */
  close(): void {
    this.objects.clear();
  }

  private readFile(path: string): Uint8Array {
    const { sys } = this.context;
    const failed = (what: string, rc: number) =>
      new CommandError(`Unable to read ${path}: ${what}: ${errnoText(-rc)}`);
    const fd = sys.open(path, O.RDONLY | O.CLOEXEC);
    if (fd < 0) throw failed(`Failed to open file “${path}”`, fd);
    const memory = sys.allocate(MAX_FILE + 1);
    try {
      let length = 0;
      while (length <= MAX_FILE) {
        const got = sys.read(fd, memory.address + length, MAX_FILE + 1 - length);
        if (got < 0) throw failed(`Failed to read from file “${path}”`, got);
        if (got === 0) return memory.bytes.slice(0, length);
        length += got;
      }
      throw new CommandError(`Unable to read ${path}: it has more than ${MAX_FILE} bytes`);
    } finally {
      memory.unmap();
      sys.close(fd);
    }
  }
}

/** The handlers of `objectCommands`. */
export function objectHandlers(objects: ObjectRegistry): Handlers<typeof objectCommands> {
  return {
    "object-add": (options) => {
      objects.add(options);
      return {};
    },
    "object-del": ({ id }) => {
      objects.delete(id);
      return {};
    },
  };
}

/** What `--object` prints when its argument asks for help; undefined when it does not. */
export function objectHelp(argument: string): string | undefined {
  if (argument.startsWith("{")) return undefined;
  const elements = argument.split(",");
  if (!elements.includes("help") && !elements.includes("?")) return undefined;
  const type = elements[0]!.replace(/^qom-type=/, "");
  if (type !== "secret") return "List of user creatable objects:\n  secret\n";
  const { meta } = SecretProperties;
  const members = meta.kind === "struct" ? Object.entries(meta.members) : [];
  const lines = members.filter(([name]) => name !== "loaded").map(([name, member]) => {
    const is = member.type().meta;
    const shown = is === QCryptoSecretFormat.meta ? "QCryptoSecretFormat" : "string";
    return `  ${name}=<${shown}>\n`;
  });
  return `secret options:\n${lines.sort().join("")}`;
}
