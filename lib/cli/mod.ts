/** The command line: QEMU's option grammars, giving the same typed values as QMP. */
export { parseKeyval } from "./keyval.ts";
export { type CommandLine, type Option, parseCommandLine, versionText } from "./options.ts";
export { helpText } from "./help.ts";
export { type FlatOption, type FlatOptions, parseQemuOpts } from "./qemuopts.ts";
export { type ObjectArgument, parseObject } from "./objects.ts";
export { parseValue } from "./values.ts";
