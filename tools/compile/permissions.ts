/** Reads tools/permissions, the one place that says what the daemon may do. */

/** Flags of deno. */
export async function permissionFlags(): Promise<string[]> {
  const text = await Deno.readTextFile(new URL("../permissions", import.meta.url));
  return text.split("\n").filter((line) => line.startsWith("--"));
}
