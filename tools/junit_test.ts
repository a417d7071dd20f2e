import assert from "node:assert/strict";
import { readJunit } from "./junit.ts";

Deno.test("every way a test can go is read back from the report that deno writes", async () => {
  const dir = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(
      `${dir}/a_test.ts`,
      `Deno.test("passes & <quotes> \\"it\\"", () => {});
       Deno.test("fails", () => { throw new Error("</testcase> no"); });
       Deno.test({ name: "is skipped", ignore: true, fn() {} });`,
    );
    await new Deno.Command(Deno.execPath(), {
      args: ["test", "--no-config", "--no-check", `--junit-path=${dir}/report.xml`, "a_test.ts"],
      cwd: dir,
      stdout: "null",
      stderr: "null",
    }).output();
    const cases = readJunit(await Deno.readTextFile(`${dir}/report.xml`));
    assert.deepEqual(
      cases.map(({ name, outcome }) => [name.replace(/^.*a_test\.ts: /, ""), outcome]),
      [['passes & <quotes> "it"', "passed"], ["fails", "failed"], ["is skipped", "skipped"]],
    );
    assert.ok(cases.every(({ seconds }) => Number.isFinite(seconds)));
  } finally {
    await Deno.remove(dir, { recursive: true });
  }
});
