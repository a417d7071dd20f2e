/** The command line: QEMU's option grammars, giving the same typed values as QMP. */
export { parseKeyval } from "./keyval.ts";
export { type CommandLine, type Option, parseCommandLine } from "./options.ts";
export { parseQemuOpts } from "./qemuopts.ts";
export { parseObject } from "./objects.ts";
export { parseValue } from "./values.ts";
