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
import { sorts } from "./docs/compatibility.ts";
import { named } from "./docs/original.ts";
import { formatted, pages } from "./docs/page.ts";
import { reference } from "./docs/reference.ts";
import { root } from "./steps.ts";

for (const page of pages) {
  Deno.test(`${page.path} is what \`deno task docs\` writes`, async () => {
    const kept = await Deno.readTextFile(root + page.path);
    assert.equal(kept, await formatted(page), "run `deno task docs` and commit what it writes");
  });
}

Deno.test("the compatibility page compares with all that the original offers, each once", () => {
  const counts = sorts.map(({ offered }) => {
    const names = [...named(offered)].map(([name]) => name);
    assert.equal(new Set(names).size, names.length);
    return names.length;
  });
  // Commands, events, drivers and exports of its query-qmp-schema; its --object help and --chardev help.
  assert.deepEqual(counts, [74, 13, 42, 4, 14, 12]);
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
