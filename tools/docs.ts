/** `deno task docs`: writes the pages that are made from the source. */
import { referencePage, referencePath } from "./docs/page.ts";
import { say } from "./say.ts";
import { root } from "./steps.ts";

await Deno.writeTextFile(root + referencePath, await referencePage());
say(`wrote ${referencePath}`);
