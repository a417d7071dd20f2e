/** Reads tools/permissions, the one place that says what the daemon may do. */

/** Flags of deno; `root` stands for the directory that holds main.ts, or the bundle. */
export async function permissionFlags(root: string): Promise<string[]> {
  const text = await Deno.readTextFile(new URL("../permissions", import.meta.url));
  return text.split("\n").filter((line) => line.startsWith("--"))
    .map((line) => line.replaceAll("@ROOT@", root));
}
