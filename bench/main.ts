/** Entry of `deno task bench`: see bench.ts. */
import process from "node:process";
import { main } from "./bench.ts";

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : error}\n`);
  process.exitCode = 1;
}
