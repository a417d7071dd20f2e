/** Reads tools/permissions, the one place that says what the daemon may do. */

/** Flags of deno. `lib`: what stands for the place of the program's modules (@LIB@); undefined: none is needed. */
export async function permissionFlags(lib: string | undefined): Promise<string[]> {
  const text = await Deno.readTextFile(new URL("../permissions", import.meta.url));
  const flags = text.split("\n").filter((line) => line.startsWith("--"));
  return lib === undefined
    ? flags.filter((flag) => !flag.includes("@LIB@"))
    : flags.map((flag) => flag.replace("@LIB@", lib));
}
