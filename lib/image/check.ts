/** `qsd check [OPTION]... IMAGE`: checks and repairs images that nobody has open, with qemu-img's words and status. */
import { BlockError, CommandError, IoVec } from "../base/mod.ts";
import {
  type BlockBackend,
  BlockGraph,
  driverRegistry,
  Perm,
  PROBE_LENGTH,
  probeFormat,
} from "../block/mod.ts";
import { type CheckableImage, checkers, type CheckResult, drivers } from "../block/drivers/mod.ts";
import { writeJson } from "../qmp/json/mod.ts";
import type { BlockdevOptionsValue } from "../qmp/schema/blockdev.ts";
import type { Context } from "../sys/mod.ts";
import { type CheckArguments, parseCheckArguments } from "./options.ts";
import { checkJson, checkStatus, checkText, repairText } from "./report.ts";

/** Images of the format cannot be checked. */
const NO_CHECKS = 63;

/** Where words go. */
export interface Words {
  out(text: string): void;
  /** A line on standard error. */
  err(line: string): void;
}

/** Runs it; returns the exit status. Throws CommandError, with hints. */
export async function checkCommand(
  context: Context,
  program: string,
  words: Words,
  args: readonly string[],
): Promise<number> {
  const given = parseCheckArguments(args);
  const graph = new BlockGraph({
    context,
    drivers: driverRegistry(drivers),
    events: { emit: () => {} },
  });
  try {
    const file = await openFile(context, graph, given);
    try {
      return await new Checking(context, program, words, given, file).run();
    } finally {
      await file.detach();
    }
  } finally {
    await graph.closeAll();
  }
}

const unopened = (given: CheckArguments, error: CommandError | BlockError): CommandError => {
  const hints = error instanceof CommandError ? error.hints : [];
  return new CommandError(
    `Could not open '${given.image}': ${error.message}`,
    "GenericError",
    hints,
  );
};

/** The image file, locked as somebody who reads it, or who writes to it, wants it. */
async function openFile(
  context: Context,
  graph: BlockGraph,
  given: CheckArguments,
): Promise<BlockBackend> {
  const readOnly = given.fix === "none";
  const stat = context.sys.stat(given.image);
  const isBlockDevice = typeof stat === "object" && stat.kind === "block";
  const options: BlockdevOptionsValue = {
    driver: isBlockDevice ? "host_device" : "file",
    "node-name": "image",
    filename: given.image.replace(/^file:/, ""),
    "read-only": readOnly,
    "force-share": given.forceShare,
  };
  try {
    await graph.add(options, { monitorOwned: true });
    const writes = Perm.write | Perm.resize;
    return await graph.backend("image", {
      describe: "the check",
      needed: Perm.consistentRead | (readOnly ? 0 : writes),
      shared: given.forceShare ? Perm.all : Perm.all & ~writes,
    });
  } catch (error) {
    if (error instanceof CommandError || error instanceof BlockError) throw unopened(given, error);
    throw error;
  }
}

/** One run of the command. */
class Checking {
  constructor(
    private readonly context: Context,
    private readonly program: string,
    private readonly words: Words,
    private readonly given: CheckArguments,
    private readonly file: BlockBackend,
  ) {}

  async run(): Promise<number> {
    const { context, given, file } = this;
    const format = given.format ?? await this.#probe();
    const checker = checkers.get(format);
    if (checker === undefined) {
      if (!drivers.some(({ name }) => name === format) && given.format !== undefined) {
        throw new CommandError(`Could not open '${given.image}': Unknown driver '${format}'`);
      }
      this.#complain("This image format does not support checks");
      return NO_CHECKS;
    }
    let image: CheckableImage;
    try {
      image = await checker.open(context, file);
    } catch (error) {
      if (error instanceof BlockError) throw unopened(given, error);
      throw error;
    }
    const result = await this.#check(image);
    if (result === undefined) return 1;
    if (result.checkErrors > 0) this.#complain("Check failed");
    if (given.json) {
      const json = checkJson(result, given.image, format);
      this.#out(`${writeJson(json, true)}\n`);
    } else this.#out(checkText(result));
    return checkStatus(result);
  }

  async #probe(): Promise<string> {
    const { context: { buffers }, file } = this;
    const length = Math.min(PROBE_LENGTH, file.size);
    if (length === 0) return probeFormat(new Uint8Array(), this.given.image);
    const buffer = buffers.acquire(length);
    try {
      await file.read(0, IoVec.of(buffer.address, length));
      return probeFormat(buffer.bytes.subarray(0, length), this.given.image);
    } finally {
      buffers.release(buffer);
    }
  }

  /** Checks; after a repair once more, so that the result is that of what is there now. */
  async #check(image: CheckableImage): Promise<CheckResult | undefined> {
    const { given } = this;
    const how = {
      say: (line: string) => this.words.err(line),
      complain: (message: string, hint?: string) => {
        this.#complain(message);
        if (hint !== undefined) this.words.err(hint);
      },
    };
    try {
      const first = await image.check({ fix: given.fix, ...how });
      const { leaksFixed, corruptionsFixed } = first;
      if (leaksFixed + corruptionsFixed === 0) return first;
      if (!given.json) this.#out(repairText(first));
      const second = await image.check({ fix: "none", ...how });
      return { ...second, leaksFixed, corruptionsFixed };
    } catch (error) {
      if (!(error instanceof BlockError)) throw error;
      this.#complain(`Check failed: ${error.message}`);
      return undefined;
    }
  }

  #complain(message: string): void {
    this.words.err(`${this.program}: ${message}`);
  }

  #out(text: string): void {
    if (!this.given.quiet) this.words.out(text);
  }
}
