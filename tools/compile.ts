/**
 * `deno task compile`: builds dist/qsd, one executable. `deno compile` makes it where the runtime base can be
 * had (from the network, or $DENORT_BIN); elsewhere it becomes a file that carries deno and the bundled program.
 */
import { compileNative } from "./compile/native.ts";
import { buildSingleFile } from "./compile/single_file.ts";
import { complain, say } from "./say.ts";
import { root } from "./steps.ts";

/** A DENORT_BIN that is another program, or of another version of deno, makes one that is not qsd. */
async function mustBeQsd(target: string): Promise<void> {
  const { stdout } = await new Deno.Command(target, { args: ["--version"], stderr: "null" })
    .output();
  if (new TextDecoder().decode(stdout).includes("(qsd ")) return;
  await Deno.remove(target);
  const base = Deno.env.get("DENORT_BIN") ?? "the runtime base";
  throw new Error(
    `what was built with ${base} does not run as qsd; it must be denort ${Deno.version.deno}`,
  );
}

async function build(target: string): Promise<void> {
  await Deno.mkdir(new URL(".", `file://${target}`), { recursive: true });
  const problem = await compileNative(target);
  if (problem === undefined) {
    await mustBeQsd(target);
    say(`Built ${target} with deno compile`);
    return;
  }
  say("The runtime base of deno compile cannot be downloaded here, and DENORT_BIN is not set:");
  say(problem.replace(/^/gm, "  "));
  say("Building a self-contained file instead: the deno runtime and the bundled program.");
  await buildSingleFile(target);
  const { size } = await Deno.stat(target);
  say(
    `Built ${target} (${
      (size / 1e6).toFixed(0)
    } MB; needs a POSIX sh, dd, mkdir, chmod, mv and rm)`,
  );
}

try {
  await build(Deno.args[0] ?? `${root}dist/qsd`);
} catch (error) {
  complain(`compile: ${error instanceof Error ? error.message : error}`);
  Deno.exit(1);
}
