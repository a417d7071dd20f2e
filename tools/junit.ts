/** Reads what `deno test --junit-path` wrote. */

/** One test as it went. */
export interface TestCase {
  /** File and name, the names of steps joined. */
  readonly name: string;
  readonly outcome: "passed" | "failed" | "skipped";
  readonly seconds: number;
}

const entities: Readonly<Record<string, string>> = {
  lt: "<",
  gt: ">",
  amp: "&",
  quot: '"',
  apos: "'",
};

function decode(text: string): string {
  return text.replace(/&(?:#x([0-9a-fA-F]+)|#(\d+)|(\w+));/g, (whole, hex, decimal, name) => {
    if (hex !== undefined) return String.fromCodePoint(parseInt(hex, 16));
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal));
    return entities[name] ?? whole;
  });
}

/** The tests of a report. */
export function readJunit(xml: string): TestCase[] {
  const cases = xml.matchAll(/<testcase\b([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g);
  return [...cases].map((match) => {
    const attribute = (name: string) =>
      decode(new RegExp(`\\b${name}="([^"]*)"`).exec(match[1]!)?.[1] ?? "");
    const inside = match[2] ?? "";
    const outcome = /<(failure|error)\b/.test(inside)
      ? "failed"
      : /<skipped\b/.test(inside)
      ? "skipped"
      : "passed";
    const file = attribute("classname").replace(/^.*\/(?=lib\/|tests\/|tools\/|bench\/)|^\.\//, "");
    return { name: `${file}: ${attribute("name")}`, outcome, seconds: Number(attribute("time")) };
  });
}
