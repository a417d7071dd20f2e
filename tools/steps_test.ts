import assert from "node:assert/strict";
import { failureText } from "./steps.ts";

Deno.test("of a failed suite the errors are shown, not the tests that passed before", () => {
  const output =
    "running 2 tests\na ... ok\nb ... FAILED\n\n ERRORS \n\nb => x.ts:1\nerror: no\n\n";
  assert.equal(failureText(output), " ERRORS \n\nb => x.ts:1\nerror: no");
});

Deno.test("very many errors are cut short, and it is said how much was left out", () => {
  const output = " ERRORS \n1\n2\n3\n";
  assert.equal(failureText(output, 3), " ERRORS \n1\n2\n(1 more lines)");
});

Deno.test("a run that broke off before its errors shows its last lines", () => {
  assert.equal(failureText("1\n2\n3\n4\n", 2), "(2 lines before these)\n3\n4");
  assert.equal(failureText("1\n2\n", 2), "1\n2");
});

Deno.test("deno names its list of errors as it is looked for", async () => {
  const path = await Deno.makeTempFile({ suffix: "_test.ts" });
  try {
    await Deno.writeTextFile(path, `Deno.test("b", () => { throw new Error("the reason"); });`);
    const { stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "--no-check", "--no-config", "--no-lock", path],
      env: { NO_COLOR: "1" },
      stderr: "null",
    }).output();
    const text = failureText(new TextDecoder().decode(stdout));
    assert.match(text, /^ ERRORS \n/);
    assert.match(text, /the reason/);
  } finally {
    await Deno.remove(path);
  }
});
