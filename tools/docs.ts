/** `deno task docs`: writes the pages that are made from the source. */
import { formatted, pages } from "./docs/page.ts";
import { say } from "./say.ts";
import { root } from "./steps.ts";

for (const page of pages) {
  await Deno.writeTextFile(root + page.path, await formatted(page));
  say(`wrote ${page.path}`);
}
