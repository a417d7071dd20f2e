/** Modules that are started as Workers: neither `deno compile` nor `deno bundle` finds them by itself. */
import { root } from "../steps.ts";

async function* modules(folder: string): AsyncGenerator<string> {
  for await (const entry of Deno.readDir(folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) yield* modules(path);
    else if (entry.name.endsWith(".ts") && !entry.name.endsWith("_test.ts")) yield path;
  }
}

/** Absolute paths of all modules that lib names as `new URL("./NAME.ts", import.meta.url)`: it does so for Workers alone. */
export async function workerModules(): Promise<string[]> {
  const found = new Set<string>();
  for await (const path of modules(`${root}lib`)) {
    const text = await Deno.readTextFile(path);
    for (const match of text.matchAll(/new URL\(\s*"(\.[^"]+\.ts)",\s*import\.meta\.url/g)) {
      found.add(new URL(match[1]!, `file://${path}`).pathname);
    }
  }
  return [...found].sort();
}
