/** The rules that need more than one file's syntax tree, as functions from the text of all files to findings. */
import { driverOf, isCodec, layerOf, layers } from "./layers.ts";

/** A file of the project: its path from the root, and its text. */
export interface Source {
  readonly path: string;
  readonly text: string;
}

/** Something to mend. */
export interface Finding {
  readonly path: string;
  /** From 1. */
  readonly line: number;
  readonly message: string;
}

interface Import {
  readonly from: string;
  readonly to: string;
  readonly line: number;
  /** Types leave no trace at run time. */
  readonly typeOnly: boolean;
}

/** Lines that a file may have. */
export const fileLimit = 600;
/** Tables of names, which are long because QEMU's are. */
const tables: readonly RegExp[] = [/^lib\/qmp\/schema\//, /^lib\/sys\/(errno|constants)\.ts$/];

const isTest = (path: string) => /_test\.ts$/.test(path) || path.startsWith("tests/");

function lineAt(text: string, index: number): number {
  return text.slice(0, index).split("\n").length;
}

function resolve(from: string, specifier: string): string {
  const parts = from.split("/").slice(0, -1);
  for (const part of specifier.split("/")) {
    if (part === "..") parts.pop();
    else if (part !== ".") parts.push(part);
  }
  return parts.join("/");
}

/** Static imports and re-exports of one file, those of other files of the project. */
export function importsOf({ path, text }: Source): Import[] {
  const statement = /^(?:import|export)\s+(type\s+)?(?:[^"';]*?\sfrom\s+)?"(\.[^"]*)"/gm;
  return [...text.matchAll(statement)].map((match) => ({
    from: path,
    to: resolve(path, match[2]!),
    line: lineAt(text, match.index),
    typeOnly: match[1] !== undefined || onlyTypesInBraces(match[0]),
  }));
}

function onlyTypesInBraces(statement: string): boolean {
  const names = /\{([^}]*)\}/.exec(statement)?.[1]?.split(",").map((name) => name.trim());
  return names?.every((name) => name === "" || name.startsWith("type ")) ?? false;
}

/** Imports that go against the layers, past a folder's face, between drivers, or out of a codec. */
export function boundaries(sources: readonly Source[]): Finding[] {
  const drivers = new Set(
    sources.filter((source) => /\bdefineDriver\s*[<(]/.test(source.text) && !isTest(source.path))
      .map((source) => driverOf(source.path)),
  );
  return sources.filter((source) => source.path.startsWith("lib/") && !isTest(source.path))
    .flatMap(importsOf)
    .flatMap((found) => {
      const message = crossed(found, drivers);
      return message === undefined ? [] : [{ path: found.from, line: found.line, message }];
    });
}

/** Test helpers are no part of a folder's face, but use each other. */
function isTestHelper(path: string): boolean {
  return /\/testing(_\w+)?\.ts$/.test(path);
}

function crossed(found: Import, drivers: ReadonlySet<string | undefined>): string | undefined {
  const from = layerOf(found.from), to = layerOf(found.to);
  if (from === undefined) {
    return `${found.from} is in no known folder: add it to tools/tidy/layers.ts`;
  }
  if (to === undefined) return `imports ${found.to}: lib imports only lib`;
  if (isCodec(found.from) && to !== "base" && !isCodec(found.to)) {
    return `a wire codec imports ${found.to}: only lib/base and codecs`;
  }
  if (from !== to) {
    if (!layers[from]!.includes(to)) return `lib/${from} may not import lib/${to}: turn it round`;
    const isFace = found.to.endsWith("/mod.ts") || to === "qmp/schema";
    const helps = isTestHelper(found.from) && isTestHelper(found.to);
    return isFace || helps
      ? undefined
      : `imports ${found.to}: import lib/${to}/mod.ts, its public face`;
  }
  const here = driverOf(found.from), there = driverOf(found.to);
  if (here !== undefined && there !== undefined && here !== there && drivers.has(there)) {
    return `driver ${here} imports driver ${there}: share a helper that is no driver`;
  }
  return undefined;
}

/** Cycles of imports that are there at run time, each once, at its first file by name. */
export function cycles(sources: readonly Source[]): Finding[] {
  const graph = new Map<string, Import[]>();
  for (const source of sources) {
    graph.set(source.path, importsOf(source).filter((found) => !found.typeOnly));
  }
  const findings: Finding[] = [];
  const done = new Set<string>();
  const trail: Import[] = [];
  const visit = (path: string) => {
    if (done.has(path)) return;
    const start = trail.findIndex((step) => step.from === path);
    if (start !== -1) {
      const loop = trail.slice(start);
      const names = [...loop.map((step) => step.from), path].join(" -> ");
      findings.push({ path, line: loop[0]!.line, message: `import cycle: ${names}` });
      return;
    }
    for (const found of graph.get(path) ?? []) {
      trail.push(found);
      visit(found.to);
      trail.pop();
    }
    done.add(path);
  };
  for (const path of [...graph.keys()].sort()) visit(path);
  return findings;
}

/** Files that are too long to hold one concern. */
export function lengths(sources: readonly Source[]): Finding[] {
  return sources.filter((source) => source.path.endsWith(".ts"))
    .filter((source) => !tables.some((table) => table.test(source.path)))
    .map(({ path, text }) => ({ path, lines: text.split("\n").length - 1 }))
    .filter(({ lines }) => lines > fileLimit)
    .map(({ path, lines }) => ({
      path,
      line: fileLimit + 1,
      message: `${lines} lines: at most ${fileLimit}; split it by concern`,
    }));
}

/** Drivers without a test of their own. */
export function untested(sources: readonly Source[]): Finding[] {
  const tested = new Set(
    sources.filter(({ path }) => isTest(path)).map(({ path }) => driverOf(path)),
  );
  return sources.filter(({ path, text }) => !isTest(path) && /\bdefineDriver\s*[<(]/.test(text))
    .flatMap(({ path, text }) => {
      const driver = driverOf(path);
      if (driver === undefined || tested.has(driver)) return [];
      const line = lineAt(text, text.search(/\bdefineDriver\s*[<(]/));
      return [{ path, line, message: `driver ${driver} has no _test.ts beside it` }];
    });
}

// Written in pieces, so that this file does not find itself.
const leftover = new RegExp(`\\b(${["FIX" + "ME", "TO" + "DO", "X" + "XX"].join("|")})\\b`, "g");
const registry = new RegExp(
  [
    "registry\\.npm" + "js\\.org",
    "npm" + "js\\.com",
    "\\bjsr" + "\\.io",
    "proxy\\.golang" + "\\.org",
  ]
    .join("|"),
  "g",
);

/** Notes to self that were left behind, and names of package registries (which differ between places). */
export function leftovers(sources: readonly Source[]): Finding[] {
  return sources.flatMap(({ path, text }) => [
    ...[...text.matchAll(leftover)].map((match) => ({
      path,
      line: lineAt(text, match.index),
      message: `leftover ${match[0]}: do it, or open an issue`,
    })),
    ...[...text.matchAll(registry)].map((match) => ({
      path,
      line: lineAt(text, match.index),
      message: `names the registry ${match[0]}: leave it to the user's configuration`,
    })),
  ]);
}

/** Everything that is wrong, in the order of files and lines. */
export function findAll(sources: readonly Source[]): Finding[] {
  return [boundaries, cycles, lengths, untested, leftovers].flatMap((rule) => rule(sources))
    .sort((a, b) => a.path < b.path ? -1 : a.path > b.path ? 1 : a.line - b.line);
}
