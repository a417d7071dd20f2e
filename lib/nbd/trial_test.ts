import assert from "node:assert/strict";
import { Traffic, Trial } from "./trial.ts";

const READ = 256 * 1024;
const MiB = 1024 * 1024;

/** Runs reads of `bytes` through a trial whose ways take so many ns a read; how many bytes went each way. */
function run(trial: Trial, clock: { now: number }, bytes: number, sent: number, copied: number) {
  const went = { sent: 0, copied: 0 };
  for (let done = 0; done < bytes; done += READ) {
    trial.count(READ);
    went[trial.sends ? "sent" : "copied"] += READ;
    clock.now += trial.sends ? sent : copied;
  }
  return went;
}

function begin() {
  const clock = { now: 0, monotonicNs: () => clock.now };
  const traffic = new Traffic();
  return { clock, traffic, trial: new Trial(clock, traffic) };
}

Deno.test("a client that takes data faster when it is sent gets it sent, but for a few trials", () => {
  const { clock, trial } = begin();
  const went = run(trial, clock, 8192 * MiB, 30_000, 90_000);
  assert.ok(went.copied > 0 && went.copied <= 80 * MiB, `${went.copied / MiB} MiB were copied`);
});

Deno.test("a client that takes data faster when it was copied gets copies, but for a few trials", () => {
  const { clock, trial } = begin();
  const went = run(trial, clock, 8192 * MiB, 200_000, 100_000);
  assert.ok(went.sent > 0 && went.sent <= 128 * MiB, `${went.sent / MiB} MiB were sent`);
});

Deno.test("with hardly a difference data is sent", () => {
  const { clock, trial } = begin();
  run(trial, clock, 64 * MiB, 100_000, 95_000);
  assert.equal(trial.sends, true);
});

Deno.test("a pause in one phase does not decide", () => {
  for (let pause = 0; pause < 40; pause += 4) {
    const { clock, trial } = begin();
    run(trial, clock, pause * MiB, 30_000, 90_000);
    clock.now += 1e9;
    run(trial, clock, (64 - pause) * MiB, 30_000, 90_000);
    assert.equal(trial.sends, true, `after a pause at ${pause} MiB`);
  }
});

Deno.test("a client that becomes different is judged anew", () => {
  const { clock, trial } = begin();
  run(trial, clock, 64 * MiB, 200_000, 100_000);
  assert.equal(trial.sends, false);
  run(trial, clock, 512 * MiB, 30_000, 90_000);
  assert.equal(trial.sends, true);
});

Deno.test("a trial that says otherwise than the one before is soon repeated", () => {
  const { clock, trial } = begin();
  run(trial, clock, 2048 * MiB, 30_000, 90_000);
  for (let i = 0; i < 64 && trial.sends; i++) run(trial, clock, 128 * MiB, 200_000, 100_000);
  assert.equal(trial.sends, false, "the wrong choice, as noise may make it");
  run(trial, clock, 384 * MiB, 30_000, 90_000);
  assert.equal(trial.sends, true);
});

Deno.test("the next client begins with what the last trial chose, and is tried before long", () => {
  const { clock, traffic, trial } = begin();
  run(trial, clock, 64 * MiB, 200_000, 100_000);
  const alike = run(new Trial(clock, traffic), clock, 1024 * MiB, 200_000, 100_000);
  assert.ok(alike.sent > 0 && alike.sent <= 24 * MiB, `${alike.sent / MiB} MiB were sent`);
  const other = run(new Trial(clock, traffic), clock, 1024 * MiB, 30_000, 90_000);
  assert.ok(other.copied <= 128 * MiB, `${other.copied / MiB} MiB were copied`);
});

Deno.test("one trial that says otherwise is not believed", () => {
  const { clock, trial } = begin();
  run(trial, clock, 64 * MiB, 200_000, 100_000);
  const traffic = trial.traffic;
  let trials = 0;
  for (let i = 0; i < 4096; i++) {
    const before = trial.sends;
    // The machine is busy while it copies for the first trial that comes.
    run(trial, clock, READ, 200_000, trials < 5 && i > 800 ? 400_000 : 100_000);
    if (before !== trial.sends) trials++;
    assert.equal(traffic.chosen, false);
  }
});

Deno.test("clients that read at the same time get data sent, and nothing is tried", () => {
  const { clock, traffic, trial } = begin();
  const others = [new Trial(clock, traffic), new Trial(clock, traffic)];
  for (let i = 0; i < 4096; i++) {
    for (const each of [trial, ...others]) {
      run(each, clock, READ, 200_000, 100_000);
      assert.equal(each.sends, true);
    }
  }
});

Deno.test("a client that was alone and is no longer has its choice taken back, and tries again when it is", () => {
  const { clock, traffic, trial } = begin();
  run(trial, clock, 64 * MiB, 200_000, 100_000);
  assert.equal(trial.sends, false);
  const other = new Trial(clock, traffic);
  for (let i = 0; i < 64; i++) {
    run(trial, clock, READ, 200_000, 100_000);
    run(other, clock, READ, 200_000, 100_000);
  }
  assert.equal(trial.sends, true);
  run(trial, clock, 64 * MiB, 200_000, 100_000);
  assert.equal(trial.sends, false);
});
