/**
 * Check and repair of an image: counts everything that leads to clusters, compares with the reference counts, and
 * looks at the copied flags. A repair changes only what is wrong, in an order in which a cut leaves the image no
 * worse: counts before flags, new structures before what leads to them.
 */
import { BlockError } from "../../../../base/mod.ts";
import { AUTOCLEAR_KNOWN, Incompatible } from "../format.ts";
import { type Header, parseHeader } from "../header.ts";
import { compareCounts, type Comparison, keepCounts } from "./compare.ts";
import { CopiedFlags } from "./copied.ts";
import { Findings } from "./find.ts";
import { Mapping } from "./mapping.ts";
import { rebuildRefcounts } from "./rebuild.ts";
import { RefcountTable } from "./refcount_table.ts";
import { CheckedSnapshots } from "./snapshots.ts";
import { checkBitmaps, checkRefcountStructure } from "./structure.ts";
import type { CheckFile, CheckOptions, CheckResult } from "./types.ts";

/** Offset in the header of the incompatible features, and of the autoclear features; 8 bytes each. */
const HEADER_INCOMPATIBLE = 72;
const HEADER_AUTOCLEAR = 88;

/**
 * Checks an image with this header, and repairs it as `options.fix` says. After a repair the header on disk may
 * differ from the one given: read it again. Throws BlockError where the check cannot be done.
 */
export async function checkImage(
  file: CheckFile,
  header: Header,
  options: CheckOptions,
): Promise<CheckResult> {
  const result = await new Check(file, header, options).run();
  const clean = result.corruptions === 0 && result.checkErrors === 0;
  if (options.fix !== "none") await settleFeatures(file, header, clean);
  return result;
}

/** One counting of everything that leads to clusters. */
class Counting {
  readonly findings: Findings;
  readonly mapping: Mapping;
  readonly snapshots: CheckedSnapshots;

  constructor(
    private readonly file: CheckFile,
    private readonly header: Header,
    options: CheckOptions,
    before?: CheckedSnapshots,
  ) {
    this.findings = new Findings(file, header, options);
    this.mapping = new Mapping(this.findings);
    this.snapshots = new CheckedSnapshots(this.findings, before);
  }

  /** Counts, and gives the reference count structure that is to be compared. */
  async run(): Promise<RefcountTable> {
    const { findings, mapping, snapshots, header } = this;
    await snapshots.read();
    findings.reference(0, findings.geometry.clusterSize);
    await mapping.table(header.l1Offset, header.l1Size, true);
    await snapshots.count(mapping);
    await mapping.clusters();
    if (header.crypto !== undefined) {
      findings.reference(header.crypto.offset, header.crypto.length);
    }
    await checkBitmaps(findings);
    const table = await RefcountTable.read(this.file, header, findings.geometry);
    checkRefcountStructure(findings, table);
    return table;
  }
}

/** One check, from counting to flags. */
class Check {
  constructor(
    private readonly file: CheckFile,
    private readonly header: Header,
    private readonly options: CheckOptions,
  ) {}

  async run(): Promise<CheckResult> {
    const { fix } = this.options;
    const counting = new Counting(this.file, this.header, this.options);
    const { findings, findings: { result } } = counting;
    const table = await counting.run();
    const found = await compareCounts(findings, table, "none");
    if (findings.lost && fix !== "none" && found.leaks > 0) {
      findings.say("Leaked clusters are kept: a table that cannot be followed may lead to them");
    }
    if (findings.rebuild && fix === "all") return await this.#rebuilt(counting, table, found);
    if (findings.rebuild && fix === "leaks") {
      findings.say("ERROR need to rebuild refcount structures");
      throw new BlockError("EIO", "Input/output error");
    }
    if (fix !== "none" && found.leaks + found.corruptions > 0) {
      take(result, await compareCounts(findings, table, fix));
      await this.file.flush();
    } else take(result, found);
    result.imageEndOffset = found.end;
    await this.#finish(counting, table);
    return result;
  }

  /** The flags, and the snapshot table if it is to be written anew. */
  async #finish(counting: Counting, table: RefcountTable): Promise<void> {
    const { findings, mapping, snapshots } = counting;
    const wrong = findings.result.corruptions - snapshots.corruptions +
      findings.result.checkErrors;
    await new CopiedFlags(findings, table, mapping, wrong > 0).run();
    if (findings.result.corruptionsFixed > 0) await this.file.flush();
    if (!snapshots.broken) return;
    if (findings.lost) return snapshots.keep();
    await snapshots.mend();
    await this.#sweep();
  }

  /** Everything in the counts that was wrong is right in a new structure. */
  async #rebuilt(
    counting: Counting,
    before: RefcountTable,
    found: Comparison,
  ): Promise<CheckResult> {
    const { findings } = counting;
    findings.say("Rebuilding refcount structure");
    if (findings.lost) await keepCounts(findings, before);
    const header = { ...this.header, ...await rebuildRefcounts(findings) };
    // Counting again finds the old structure leaked, and the errors that are still there.
    const again = new Counting(this.file, header, this.options, counting.snapshots);
    const table = await again.run();
    // The file may have grown up to the table: what that led to is lost all the same.
    again.findings.lost ||= findings.lost;
    const after = await compareCounts(again.findings, table, "leaks");
    await this.file.flush();
    const { result } = again.findings;
    const wrong = findings.result.corruptions + found.corruptions;
    result.corruptionsFixed += findings.result.corruptionsFixed +
      Math.max(0, wrong - result.corruptions);
    if (!findings.lost) result.leaksFixed += found.leaks;
    result.imageEndOffset = after.end;
    await this.#finish(again, table);
    return result;
  }

  /** Gives back what the repair itself left behind, without a word. */
  async #sweep(): Promise<void> {
    const bytes = new Uint8Array(2 ** this.header.clusterBits);
    await this.file.read(0, bytes);
    const options: CheckOptions = { ...this.options, say() {} };
    const counting = new Counting(this.file, parseHeader(bytes, { forCheck: true }), options);
    const { findings, mapping } = counting;
    const table = await counting.run();
    await compareCounts(findings, table, "leaks");
    await this.file.flush();
    await new CopiedFlags(findings, table, mapping, false).run();
    await this.file.flush();
  }
}

/** What a comparison found belongs to the result. */
function take(result: CheckResult, found: Comparison): void {
  result.corruptions += found.corruptions;
  result.leaks += found.leaks;
  result.checkErrors += found.checkErrors;
  result.corruptionsFixed += found.corruptionsFixed;
  result.leaksFixed += found.leaksFixed;
}

/**
 * A clean image is neither dirty nor corrupt any more; and whoever writes to an image clears autoclear features
 * that he does not know.
 */
async function settleFeatures(file: CheckFile, header: Header, clean: boolean): Promise<void> {
  if (header.version !== 3) return;
  const change = async (at: number, from: bigint, to: bigint) => {
    if (from === to) return;
    const field = new DataView(new ArrayBuffer(8));
    field.setBigUint64(0, to);
    await file.write(at, new Uint8Array(field.buffer));
    await file.flush();
  };
  const { incompatibleFeatures: features, autoclearFeatures: autoclear } = header;
  await change(HEADER_AUTOCLEAR, autoclear, autoclear & AUTOCLEAR_KNOWN);
  if (!clean) return;
  const settled = features & ~(Incompatible.dirty | Incompatible.corrupt);
  await change(HEADER_INCOMPATIBLE, features, settled);
}
