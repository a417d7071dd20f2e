/// <reference lib="deno.unstable" />
/**
 * Lint rules of this project, run by `deno lint` (deno.json names this file): what needs the syntax tree.
 * What needs the whole tree of files is in tidy.ts.
 */

/** Lines that one function may have. */
export const functionLimit = 70;

/** Parts of the machine that only lib/sys may reach: everything else gets them from a Context. */
const machine = new Set([
  "Deno",
  "setTimeout",
  "setInterval",
  "setImmediate",
  "performance",
  "Worker",
  "fetch",
]);

/** Schema files are tables of names that QEMU's own documentation explains. */
const isTable = (file: string) => file.includes("/lib/qmp/schema/");
const isTest = (file: string) => file.endsWith("_test.ts");
const root = new URL("../", import.meta.url).pathname;
const inLib = (file: string) => file.startsWith(`${root}lib/`) || file === `${root}main.ts`;
/** What only tests import, see tools/tidy/rules.ts. */
const isHelper = (file: string) => /\/testing(_\w+)?\.ts$/.test(file);
const mayReachMachine = (file: string) =>
  !inLib(file) || isTest(file) || isHelper(file) || file.includes("/lib/sys/");

type Position = { range: [number, number] };

function lineOf(text: string, offset: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at !== -1 && at < offset; at = text.indexOf("\n", at + 1)) {
    line++;
  }
  return line;
}

function functionLength(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  const check = (node: Position) => {
    const text = context.sourceCode.text;
    const lines = lineOf(text, node.range[1]) - lineOf(text, node.range[0]) + 1;
    if (lines > functionLimit && !isTest(context.filename)) {
      context.report({
        range: [node.range[0], node.range[0] + 1],
        message: `function of ${lines} lines: at most ${functionLimit}`,
        hint: "give a part of it a name and move it out",
      });
    }
  };
  return {
    FunctionDeclaration: check,
    FunctionExpression: check,
    ArrowFunctionExpression: check,
  };
}

/** Whether an identifier is a use of a global, and not a member, key or type of that name. */
function isUse(node: Deno.lint.Identifier): boolean {
  const parent = node.parent as unknown as { type: string } & Record<string, unknown>;
  switch (parent.type) {
    case "MemberExpression":
      return parent.object === node || parent.computed === true;
    case "Property":
    case "PropertyDefinition":
    case "MethodDefinition":
      return parent.value === node;
    case "TSPropertySignature":
    case "TSMethodSignature":
    case "ImportSpecifier":
    case "VariableDeclarator":
    case "FunctionDeclaration":
    case "ClassDeclaration":
    case "TSQualifiedName":
      return parent.init === node;
    default:
      return true;
  }
}

function machineOnlyInSys(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  if (mayReachMachine(context.filename)) return {};
  const report = (node: Deno.lint.Node, what: string) =>
    context.report({
      node,
      message: `${what} outside lib/sys`,
      hint: "take it from the Context (sys, loop, log), so that tests can replace it",
    });
  return {
    Identifier(node) {
      if (machine.has(node.name) && isUse(node)) report(node, node.name);
    },
    NewExpression(node) {
      if (node.callee.type === "Identifier" && node.callee.name === "Date") {
        report(node, "Date");
      }
    },
    MemberExpression(node) {
      if (node.object.type !== "Identifier" || node.property.type !== "Identifier") return;
      const name = `${node.object.name}.${node.property.name}`;
      if (name === "Date.now" || name === "Math.random") report(node, name);
    },
  };
}

function noModuleState(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  if (!inLib(context.filename) || isTest(context.filename)) return {};
  return {
    Program(program) {
      for (const statement of program.body) {
        const declaration = statement.type === "ExportNamedDeclaration"
          ? statement.declaration
          : statement;
        if (declaration?.type === "VariableDeclaration" && declaration.kind !== "const") {
          context.report({
            node: declaration,
            message: `module-level ${declaration.kind}`,
            hint: "state hangs off an instance, so that a thread can have its own",
          });
        }
      }
    },
  };
}

function documentedExports(context: Deno.lint.RuleContext): Deno.lint.LintVisitor {
  const file = context.filename;
  if (!inLib(file) || isTest(file)) return {};
  return {
    ExportNamedDeclaration(node) {
      if (node.declaration === null || node.declaration === undefined) return;
      if (isTable(file) && node.declaration.type === "VariableDeclaration") return;
      if (isTable(file) && node.declaration.type === "TSTypeAliasDeclaration") return;
      const before = context.sourceCode.text.slice(0, node.range[0]).trimEnd();
      // A rule that is switched off may stand between the two.
      const text = before.replace(/(\n\s*\/\/ deno-lint-ignore[^\n]*)+$/, "").trimEnd();
      if (!text.endsWith("*/") || !/\/\*\*(?:(?!\*\/)[\s\S])*\*\/$/.test(text)) {
        context.report({
          range: [node.range[0], node.range[0] + 6],
          message: "export without a doc comment",
          hint: "say what it is, with units, limits and errors: /** ... */",
        });
      }
    },
  };
}

const plugin: Deno.lint.Plugin = {
  name: "qsd",
  rules: {
    "function-length": { create: functionLength },
    "machine-only-in-sys": { create: machineOnlyInSys },
    "no-module-state": { create: noModuleState },
    "documented-exports": { create: documentedExports },
  },
};
export default plugin;
