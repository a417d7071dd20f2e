/** The whole table of states and verbs, written down once more by hand. */
import assert from "node:assert/strict";
import { JobStatus } from "../../qmp/schema/job.ts";
import { accepts, checkVerb, type JobVerb, mayMove } from "./mod.ts";

const meta = JobStatus.meta;
const states = (meta.kind === "enum" ? meta.values : []) as readonly Parameters<
  typeof mayMove
>[0][];

// A column a state, in the schema's order: undefined created running paused ready standby waiting pending aborting
// concluded null.
const moves: Readonly<Record<string, string>> = {
  undefined: ".X.........",
  created: "..X.....X.X",
  running: "...XX.X.X..",
  paused: "..X........",
  ready: ".....XX.X..",
  standby: "....X......",
  waiting: ".......XX..",
  pending: "........XX.",
  aborting: "........XX.",
  concluded: "..........X",
  null: "...........",
};
const verbs: Readonly<Record<JobVerb, string>> = {
  cancel: ".XXXXXXX...",
  pause: ".XXXXX.....",
  resume: ".XXXXX.....",
  "set-speed": ".XXXXX.....",
  complete: "....XX.....",
  finalize: ".......X...",
  dismiss: ".........X.",
};

Deno.test("every move between two states is allowed or not as in the table", () => {
  assert.equal(states.length, 11);
  for (const from of states) {
    states.forEach((to, at) => {
      assert.equal(mayMove(from, to), moves[from]![at] === "X", `${from} to ${to}`);
    });
  }
});

Deno.test("every verb is taken or refused in every state as in the table", () => {
  for (const [verb, row] of Object.entries(verbs) as [JobVerb, string][]) {
    states.forEach((state, at) => {
      const taken = row[at] === "X";
      assert.equal(accepts(state, verb), taken, `${verb} in ${state}`);
      if (taken) return checkVerb("j", state, verb);
      assert.throws(() => checkVerb("j", state, verb), {
        name: "CommandError",
        message: `Job 'j' in state '${state}' cannot accept command verb '${verb}'`,
      });
    });
  }
});
