import assert from "node:assert/strict";
import { testContext } from "../../testing.ts";
import { Pace } from "./pace.ts";

Deno.test("long work rests when its turn has been half a millisecond long, and then goes on for as long", async () => {
  const context = testContext(); // its clock goes on by a microsecond whenever it is looked at
  const pace = new Pace(context);
  for (const _ of [1, 2]) {
    for (let i = 0; i < 500; i++) assert.equal(pace.tired, false);
    assert.equal(pace.tired, true);
    await pace.rest();
  }
});
