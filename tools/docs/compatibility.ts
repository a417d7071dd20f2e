/** The compatibility page as Markdown: what the original offers, compared with the schema. Pure. */
import { shownValues as values } from "../../lib/qmp/schema/core.ts";
import * as schema from "../../lib/qmp/schema/mod.ts";
import { BlockdevDriver } from "../../lib/qmp/schema/blockdev.ts";
import { ChardevBackendKind } from "../../lib/qmp/schema/chardev.ts";
import { BlockExportType } from "../../lib/qmp/schema/export.ts";
import { ObjectType } from "../../lib/qmp/schema/qom.ts";
import { differences } from "./differences.ts";
import * as original from "./original.ts";

const head = `# Compatibility with \`qemu-storage-daemon\` 7.2

What of it is there, what is not yet, and where qsd differs on purpose. Made by \`deno task docs\`: the
lists come from the schema. What is not there is not advertised by \`query-qmp-schema\` either, and is
refused with a clear error.
`;

/** The counts of a comparison of both programs' query-qmp-schema, member by member (0.1.0 and 7.2.22). */
const measured = `## The schema, member by member

Every command and event of the original's \`query-qmp-schema\`, followed to each member, value and branch of
its types, makes 3619 paths. qsd 0.1.0 has 1269 of them, all alike (35.1 %); 3149 are of the commands and
events that both have (40.3 %). 44 of the 56 commands and the 4 events are complete. What the
others lack are branches and values: those of the drivers, objects and exports above that are still to come,
and those of character devices that need a display, a guest or a library, which the original shows and
refuses as qsd does; and these members:
`;

/** A sort of names that both programs have lists of. */
interface Sort {
  readonly title: string;
  readonly offered: original.Offered;
  readonly ours: readonly string[];
}

/** What is compared. */
export const sorts: readonly Sort[] = [
  { title: "QMP commands", offered: original.commands, ours: Object.keys(schema.allCommands) },
  { title: "QMP events", offered: original.events, ours: Object.keys(schema.allEvents) },
  { title: "Block drivers", offered: original.drivers, ours: values(BlockdevDriver) },
  { title: "Exports", offered: original.exports, ours: values(BlockExportType) },
  { title: "Objects", offered: original.objects, ours: values(ObjectType) },
  { title: "Character devices", offered: original.chardevs, ours: values(ChardevBackendKind) },
];

const code = (names: readonly string[]) => names.map((name) => `\`${name}\``).join(", ");

function section({ title, offered, ours }: Sort): string {
  const all = [...original.named(offered)];
  const there = all.filter(([name]) => ours.includes(name)).map(([name]) => name);
  const lines = [`## ${title}\n`, `${there.length} of ${all.length}: ${code(there.sort())}.\n`];
  const missing = Map.groupBy(all.filter(([name]) => !ours.includes(name)), ([, with_]) => with_);
  if (missing.size > 0) {
    lines.push("Not yet, by what they come with:\n");
    for (const [feature, names] of missing) {
      lines.push(`- ${feature}: ${code(names.map(([name]) => name))}`);
    }
    lines.push("");
  }
  const known = new Set(all.map(([name]) => name));
  const own = ours.filter((name) => !known.has(name)).sort();
  if (own.length > 0) lines.push(`Beyond 7.2: ${code(own)}.\n`);
  return lines.join("\n");
}

/** The whole page. */
export function compatibility(): string {
  const table = (title: string, rows: readonly (readonly [string, string])[]) =>
    [`| | ${title} |`, "| --- | --- |", ...rows.map(([what, when]) => `| ${what} | ${when} |`), ""]
      .join("\n");
  return [
    head,
    "All options of its command line are there.\n",
    ...sorts.map(section),
    measured,
    table("comes with", original.members),
    "## Of newer QEMU\n",
    "What newer QEMU added to the parts that exist and qsd takes is in the [QMP reference](qmp-reference.md).",
    "Not yet:\n",
    table("since", original.newer),
    "## Intentional differences\n",
    ...Object.entries(differences).flatMap(([part, notes]) => [
      `### ${part}\n`,
      ...notes.map((note) => `- ${note}`),
      "",
    ]),
  ].join("\n");
}
