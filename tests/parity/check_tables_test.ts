/**
 * Check and repair of broken images find and mend what the original does: the same numbers, for a seeded range of
 * images with broken tables. `$QSD_CHECK_SEEDS=FROM-TO` picks another range, for runs off-line.
 *
 * Where the original's repair gives up with an error, ours goes on; the original's check must like what it makes.
 * Ours keeps what tables lead to that cannot be followed (check_keeps_test.ts).
 * Blocks of counts "outside image" are mended by a rebuild, without growing the file up to wherever they point; and
 * a new snapshot table lies elsewhere.
 */
import assert from "node:assert/strict";
import { TestDir } from "../harness/dir.ts";
import { lacks, run } from "../harness/tools.ts";
import { brokenImage, makeImages } from "./check_images.ts";
import { type Fix, ours, type Outcome } from "./check_run.ts";

async function theirs(bytes: Uint8Array, fix: Fix, path: string): Promise<Outcome> {
  Deno.writeFileSync(path, bytes);
  const repair = fix === "none" ? [] : ["-r", fix];
  const args = ["check", "-f", "qcow2", "-T", "unsafe", "--output=json", ...repair, path];
  const outcome = await run("qemu-img", args, { limit: PATIENCE }).catch(() => undefined);
  if (outcome === undefined) {
    return { status: -1, counts: "error", said: "it takes too long", bytes: new Uint8Array() };
  }
  const { status, stdout, stderr } = outcome;
  let counts: Outcome["counts"] = "error";
  if (stdout !== "") {
    const { filename: _, format: __, ...rest } = JSON.parse(stdout);
    counts = rest;
  }
  return { status, counts, said: stderr, bytes: new Uint8Array() };
}

/** Where the two may differ; see above. */
function mayDiffer(fix: Fix, original: Outcome, own: Outcome): boolean {
  if (original.status < 0) return true;
  if (fix === "none") return false;
  if (original.counts === "error" && own.counts !== "error") return true;
  // What a table that cannot be followed leads to is kept here, and given away there.
  if (/are kept|is kept/.test(own.said)) return own.status === 2;
  return fix === "all" && /is outside image|Repairing snapshot table/.test(original.said);
}

async function compare(path: string, bytes: Uint8Array, fix: Fix, what: string): Promise<void> {
  const original = await theirs(bytes, fix, path);
  const own = await ours(bytes, fix);
  if (!mayDiffer(fix, original, own)) {
    const shown = ({ status, counts }: Outcome) => ({ status, counts });
    const message = `${what}, repair ${fix}\noriginal: ${original.said}\nqsd: ${own.said}`;
    assert.deepEqual(shown(own), shown(original), message.slice(0, 4000));
  }
  if (fix !== "all" || own.status !== 0) return;
  const judged = await theirs(own.bytes, "none", path);
  assert.equal(judged.status, 0, `${what}: repaired, and the original says ${judged.said}`);
}

/** Milliseconds that the original gets: it takes minutes for some tables that overlap. */
const PATIENCE = 20_000;

/** Images that are checked, and those that are repaired, too. */
const CHECKED = 60;
const REPAIRED = 24;

Deno.test({
  name: "broken tables: the original and qsd count and mend the same",
  ignore: lacks("check of broken tables", "qemu-img", "qemu-io"),
  fn: async () => {
    await using dir = TestDir.make();
    const images = await makeImages(dir.path);
    const range = /^(\d+)-(\d+)$/.exec(Deno.env.get("QSD_CHECK_SEEDS") ?? "");
    const from = Number(range?.[1] ?? 0), to = Number(range?.[2] ?? CHECKED);
    for (let seed = from; seed < to; seed++) {
      const { image, how } = brokenImage(images, seed);
      const what = `image ${seed} (${how})`;
      await compare(dir.file("t.qcow2"), image.bytes, "none", what);
      if (range === null && seed >= REPAIRED) continue;
      await compare(dir.file("t.qcow2"), image.bytes, "leaks", what);
      await compare(dir.file("t.qcow2"), image.bytes, "all", what);
    }
  },
});
