/**
 * tidy: fails on what the formatter, the linter and the compiler do not see. Rules of one file's syntax
 * tree are in lint.ts (run by `deno lint`), those of the whole tree in tidy/rules.ts.
 */
import { complain, say } from "./say.ts";
import { findAll, type Source } from "./tidy/rules.ts";

const root = new URL("../", import.meta.url);
const text = /\.(ts|json|md|sh|lock|yml|yaml|py)$|(^|\/)(qsd|run|Dockerfile|permissions)$/;

/** Every file of text that git knows or would take. */
async function sources(): Promise<Source[]> {
  const listed = await new Deno.Command("git", {
    args: ["ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd: root,
  }).output();
  if (!listed.success) throw new Error(new TextDecoder().decode(listed.stderr));
  const paths = new TextDecoder().decode(listed.stdout).split("\0").filter((path) =>
    text.test(path)
  );
  const files = await Promise.all(paths.map(async (path) => {
    try {
      return [{ path, text: await Deno.readTextFile(new URL(path, root)) }];
    } catch (error) {
      // A file that was removed and is not yet committed as such.
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  }));
  return files.flat();
}

const files = await sources();
const findings = findAll(files);
for (const { path, line, message } of findings) complain(`${path}:${line}: ${message}`);
say(
  findings.length === 0 ? `tidy: ${files.length} files` : `tidy: ${findings.length} to mend`,
);
if (findings.length > 0) Deno.exit(1);
