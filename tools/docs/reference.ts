/** The QMP reference as Markdown, from the schema. Pure: what there is to say is in the schema's notes. */
import {
  type Command,
  type Member,
  type Meta,
  type Notes,
  type Schema,
  shownValues,
} from "../../lib/qmp/schema/core.ts";
import type { CommandTable, EventTable } from "../../lib/qmp/schema/registry.ts";

type Named = Extract<Meta, { kind: "struct" | "union" | "enum" | "alternate" }>;

const head = `# QMP reference

Every command, event and type that qsd has, made from the schema by \`deno task docs\`. Names, members
and error texts are QEMU's. Integers are exact between -(2^53 - 1) and 2^53 - 1; what lies beyond is
refused (\`Parameter 'P' expects a value between 0 and 9007199254740991\`), and so are negative numbers
where the type is unsigned: QEMU takes those and adds 2^64. What QEMU has and qsd has not yet (of newer
QEMU: \`blockdev-set-active\`, \`active\`, \`allow-inactive\`) is listed in [Compatibility](compatibility.md).

Every command can fail with the errors of its arguments' types: \`Parameter 'P' is missing\`,
\`Parameter 'P' is unexpected\`, \`Invalid parameter type for 'P', expected: T\`,
\`Parameter 'P' does not accept value 'V'\`. The class is GenericError where none is named.
`;

/** The whole page. */
export function reference(commands: CommandTable, events: EventTable): string {
  const page = new Page();
  const parts = [head, "## Commands\n"];
  for (const name of Object.keys(commands).sort()) parts.push(page.command(name, commands[name]!));
  parts.push("## Events\n");
  for (const name of Object.keys(events).sort()) {
    const { data, notes } = events[name]!;
    parts.push(`### ${name}\n`, page.notes(notes), page.members("Data", data));
  }
  parts.push("## Types\n", page.types());
  return parts.filter((part) => part !== "").join("\n");
}

/** Collects the types that were met. */
class Page {
  private readonly met = new Map<string, Named>();

  command(name: string, command: Command<unknown, unknown>): string {
    const { notes, returns } = command;
    const lines = [
      `### ${name}\n`,
      this.notes(notes),
      this.members("Arguments", command.arguments),
    ];
    if (!isEmpty(returns)) lines.push(`Returns: ${this.type(returns)}\n`);
    if (notes.errors !== undefined) {
      lines.push("Errors:\n", ...notes.errors.map((error) => `- ${error}`), "");
    }
    return lines.filter((line, at) => line !== "" || at === lines.length - 1).join("\n");
  }

  /** What there is to say, and features. */
  notes(notes: Notes): string {
    const features = notes.features?.map((feature) => `\`${feature}\``).join(", ");
    const text = [notes.doc, features && `Features: ${features}.`].filter(Boolean).join(" ");
    return text === "" ? "" : `${text}\n`;
  }

  /** Arguments or data: the members themselves where the type has no name of its own. */
  members(title: string, schema: Schema<unknown> | undefined): string {
    if (schema === undefined || isEmpty(schema)) return "";
    const { meta } = schema;
    if (meta.kind !== "struct" || !meta.name.startsWith("q_obj_")) {
      return `${title}: ${this.type(schema)}\n`;
    }
    return `${title}:\n\n${this.list(meta.members)}\n`;
  }

  /** All types that were met, and those that they reach. */
  types(): string {
    const done = new Map<string, string>();
    for (;;) {
      const next = [...this.met].find(([name]) => !done.has(name));
      if (next === undefined) break;
      done.set(next[0], this.describe(next[1]));
    }
    return [...done].sort(([a], [b]) => a < b ? -1 : 1).map(([, text]) => text).join("\n");
  }

  private describe(meta: Named): string {
    const title = `### ${meta.name}\n`;
    switch (meta.kind) {
      case "enum": {
        const values = shownValues({ meta }).map((value) => {
          const features = meta.notes[value]?.features;
          return `\`${value}\`${features === undefined ? "" : ` (${features.join(", ")})`}`;
        });
        const absent = meta.absent?.values.map((value) => `\`${value}\``).join(", ");
        const refused = absent === undefined
          ? ""
          : `\nQEMU has more, which are refused (\`${meta.absent!.message("X")}\`): ${absent}.\n`;
        return `${title}\nOne of ${values.join(", ")}.\n${refused}`;
      }
      case "alternate": {
        const types = Object.values(meta.alternatives).map((type) => this.type(type()));
        return `${title}\nOne of ${types.join(", ")}, told apart by its JSON type.\n`;
      }
      case "struct":
        return [title, this.notes(meta.notes), this.list(meta.members)].join("\n") + "\n";
      case "union": {
        const branches = Object.entries(meta.branches)
          .map(([value, branch]) =>
            `- where \`${meta.tag}\` is \`${value}\`: ${this.type(branch)}`
          );
        return [title, this.notes(meta.notes), this.list(meta.members), ...branches].join("\n") +
          "\n";
      }
    }
  }

  private list(members: Readonly<Record<string, Member<unknown, boolean>>>): string {
    return Object.entries(members).filter(([, member]) => member.notes.hidden !== true)
      .map(([name, { type, optional, notes }]) => {
        const features = notes.features === undefined ? "" : ` (${notes.features.join(", ")})`;
        const doc = notes.doc === undefined ? "" : `. ${notes.doc}`;
        return `- \`${name}\`: ${this.type(type())}${
          optional ? ", optional" : ""
        }${features}${doc}`;
      }).join("\n");
  }

  private type(schema: Schema<unknown>): string {
    const { meta } = schema;
    switch (meta.kind) {
      case "builtin":
      case "int":
        return meta.name;
      case "array":
        return `list of ${this.type(meta.element())}`;
      default: {
        this.met.set(meta.name, meta);
        return `[${meta.name}](#${meta.name.toLowerCase()})`;
      }
    }
  }
}

function isEmpty({ meta }: Schema<unknown>): boolean {
  return meta.kind === "struct" && Object.keys(meta.members).length === 0;
}
