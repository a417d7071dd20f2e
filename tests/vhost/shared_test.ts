/** One node behind vhost-user-blk and NBD at once agrees with a model; more by shared_main.ts. */
import assert from "node:assert/strict";
import { lacks } from "../harness/tools.ts";
import { layouts, runShared } from "./shared.ts";

const ignore = lacks("vhost/shared", "qemu-img");
const ROUNDS = 60;

for (const layout of layouts) {
  Deno.test({
    name: `vhost-user-blk and NBD at once: ${layout.name}`,
    ignore,
    fn: async () => {
      const { met, alone } = await runShared(layout, 1, ROUNDS);
      assert.ok(met > 100 && alone > 1000, `${met} sectors met writes, ${alone} did not`);
    },
  });
}
