/** `deno compile`: an executable made of the runtime base (denort) and the program. */
import { root } from "../steps.ts";
import { permissionFlags } from "./permissions.ts";
import { workerModules } from "./workers.ts";

/** What became of it: undefined when it was built, else why it could not be. */
export async function compileNative(target: string): Promise<string | undefined> {
  const base = Deno.env.get("DENORT_BIN");
  if (base !== undefined) {
    const stat = await Deno.stat(base).catch(() => undefined);
    if (!stat?.isFile) throw new Error(`DENORT_BIN is ${base}, which is no file`);
  }
  // deno compile does not replace a file that it has not made.
  const unfinished = `${target}.part`;
  await Deno.remove(unfinished).catch(() => {});
  const workers = (await workerModules()).flatMap((path) => ["--include", path]);
  const output = await new Deno.Command(Deno.execPath(), {
    args: [
      "compile",
      "--quiet",
      "--no-check",
      "--no-lock",
      "--no-prompt",
      // Modules within the executable are not files.
      ...await permissionFlags(undefined),
      ...workers,
      "--output",
      unfinished,
      `${root}main.ts`,
    ],
    cwd: root,
    env: { NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).output();
  if (output.success) {
    await Deno.rename(unfinished, target);
    return undefined;
  }
  const text = new TextDecoder().decode(output.stderr).replace(/\n\nStack backtrace:[\s\S]*/, "")
    .trim();
  const noBase = /denort|Setting up base binary/.test(text);
  if (base !== undefined || !noBase) throw new Error(`deno compile failed: ${text}`);
  return text;
}
