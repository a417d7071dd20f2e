/** `qsd check [OPTION]... IMAGE`: checks and repairs images that nobody has open, with qemu-img's words and status. */
import { BlockError, CommandError } from "../base/mod.ts";
import type { BlockBackend } from "../block/mod.ts";
import { type CheckableImage, checkers, type CheckResult, drivers } from "../block/drivers/mod.ts";
import { writeJson } from "../qmp/json/mod.ts";
import type { Context } from "../sys/mod.ts";
import { imageGraph, openFile, probe, unopened, type Use, useOf } from "./open.ts";
import { makeObjects } from "./objects.ts";
import { type CheckArguments, parseCheckArguments } from "./options.ts";
import { checkJson, checkStatus, checkText, repairText } from "./report.ts";
import type { Output } from "./words.ts";

/** Images of the format cannot be checked. */
const NO_CHECKS = 63;

/** Runs it; returns the exit status. Throws CommandError, with hints. */
export async function checkCommand(
  context: Context,
  program: string,
  words: Output,
  args: readonly string[],
): Promise<number> {
  const given = parseCheckArguments(args);
  if (makeObjects(context, words, given.objects)) return 0;
  const graph = imageGraph(context);
  try {
    const { image } = given;
    const use = useOf(
      context,
      { describe: "the check", image, writes: given.fix !== "none" },
      given,
    );
    const file = await openFile(context, graph, use);
    try {
      // What the format is told must make sense, though a check has no use for it.
      const format = given.format ?? use.opts?.driver ?? await probe(context, file, image);
      useFormat(use, format);
      return await new Checking(context, program, words, {
        ...given,
        format,
        named: given.format !== undefined,
      }, file).run();
    } finally {
      await file.detach();
    }
  } finally {
    await graph.closeAll();
  }
}

function useFormat({ image, opts }: Use, format: string): void {
  try {
    opts?.typed(format);
  } catch (error) {
    if (error instanceof CommandError) throw unopened(image, error);
    throw error;
  }
}

/** One run of the command. */
class Checking {
  constructor(
    private readonly context: Context,
    private readonly program: string,
    private readonly words: Output,
    private readonly given: CheckArguments & { readonly format: string; readonly named: boolean },
    private readonly file: BlockBackend,
  ) {}

  async run(): Promise<number> {
    const { context, given, given: { format }, file } = this;
    const checker = checkers.get(format);
    if (checker === undefined) {
      if (!drivers.some(({ name }) => name === format) && given.named) {
        throw new CommandError(`Could not open '${given.image}': Unknown driver '${format}'`);
      }
      this.#complain("This image format does not support checks");
      return NO_CHECKS;
    }
    let image: CheckableImage;
    try {
      image = await checker.open(context, file);
    } catch (error) {
      if (error instanceof BlockError) throw unopened(given.image, error);
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
