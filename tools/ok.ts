/** `deno task ok`: format, lint, types, tidy and unit tests, for every save. */
import { say } from "./say.ts";
import { checks, countLine, tests } from "./steps.ts";

const outcomes = [...await checks(), await tests("unit", ["lib", "tools"])];
say(countLine(outcomes.flatMap((outcome) => outcome.cases)));
if (!outcomes.every((outcome) => outcome.ok)) Deno.exit(1);
