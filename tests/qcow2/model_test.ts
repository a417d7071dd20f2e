/** qsd's qcow2 agrees with a plain array of bytes, and the original agrees with both. */
import { TestDir } from "../harness/dir.ts";
import { lacks } from "../harness/tools.ts";
import { cases } from "./cases.ts";
import { ModelRun } from "./model.ts";

const ignore = lacks("qcow2/model", "qemu-img");
const OPERATIONS = 220;

for (const image of cases) {
  Deno.test({
    name: `${OPERATIONS} random operations: ${image.name}`,
    ignore,
    fn: async () => {
      await using dir = TestDir.make();
      const run = await ModelRun.start(image, 1, dir);
      await run.run(OPERATIONS);
      await run.askQemu();
    },
  });
}
