/** The reference page as it is kept: made from the schema, in the project's format. */
import { allCommands, allEvents } from "../../lib/qmp/schema/mod.ts";
import { root } from "../steps.ts";
import { reference } from "./reference.ts";

/** Where it is kept, from the root. */
export const referencePath = "docs/qmp-reference.md";

/** What it must hold now. */
export async function referencePage(): Promise<string> {
  const formatter = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", "--ext=md", "-"],
    cwd: root,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = formatter.stdin.getWriter();
  await writer.write(new TextEncoder().encode(reference(allCommands, allEvents)));
  await writer.close();
  const { success, stdout, stderr } = await formatter.output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}
