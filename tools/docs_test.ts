import assert from "node:assert/strict";
import {
  array,
  command,
  empty,
  enumeration,
  member,
  opt,
  str,
  struct,
} from "../lib/qmp/schema/core.ts";
import { event } from "../lib/qmp/schema/registry.ts";
import { referencePage, referencePath } from "./docs/page.ts";
import { reference } from "./docs/reference.ts";
import { root } from "./steps.ts";

Deno.test("docs/qmp-reference.md is what `deno task docs` writes", async () => {
  const kept = await Deno.readTextFile(root + referencePath);
  assert.equal(kept, await referencePage(), "run `deno task docs` and commit what it writes");
});

Deno.test("a command shows its arguments, its result, its errors and the types that they reach", () => {
  const Colour = enumeration("Colour", ["red", "blue"], { blue: { features: ["deprecated"] } }, {
    values: ["green"],
    message: (value) => `no such colour: ${value}`,
  });
  const Thing = struct("Thing", { colour: opt(Colour) });
  const page = reference({
    paint: command(
      struct("q_obj_paint-arg", {
        things: array(Thing),
        by: member(str, { features: ["unstable"] }),
        old: opt(str, { hidden: true }),
      }),
      Thing,
      { doc: "Paints.", errors: ["`No paint`"] },
    ),
  }, { PAINTED: event(Thing), DRY: event(empty) });
  assert.ok(page.includes(
    "### paint\n\nPaints.\n\nArguments:\n\n- `things`: list of [Thing](#thing)\n" +
      "- `by`: str (unstable)\n\nReturns: [Thing](#thing)\n\nErrors:\n\n- `No paint`\n",
  ));
  assert.ok(page.includes("### PAINTED\n\nData: [Thing](#thing)\n"));
  assert.ok(page.includes("### Thing\n\n\n- `colour`: [Colour](#colour), optional\n"));
  assert.ok(page.includes(
    "One of `red`, `blue` (deprecated).\n\n" +
      "QEMU has more, which are refused (`no such colour: X`): `green`.\n",
  ));
});
