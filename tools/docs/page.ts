/** The pages as they are kept: made from the source, in the project's format. */
import { allCommands, allEvents } from "../../lib/qmp/schema/mod.ts";
import { root } from "../steps.ts";
import { compatibility } from "./compatibility.ts";
import { reference } from "./reference.ts";

/** A page: where it is kept, from the root, and what it must hold now. */
export interface Page {
  readonly path: string;
  readonly text: () => string;
}

/** All of them. */
export const pages: readonly Page[] = [
  { path: "docs/qmp-reference.md", text: () => reference(allCommands, allEvents) },
  { path: "docs/compatibility.md", text: compatibility },
];

/** What a page's file must hold. */
export async function formatted({ text }: Page): Promise<string> {
  const formatter = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--quiet", "--ext=md", "-"],
    cwd: root,
    stdin: "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const writer = formatter.stdin.getWriter();
  await writer.write(new TextEncoder().encode(text()));
  await writer.close();
  const { success, stdout, stderr } = await formatter.output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout);
}
