/** Texts and order as qemu-storage-daemon 7.2.22 has them. */
import assert from "node:assert/strict";
import { parseCommandLine, parseQemuOpts } from "./mod.ts";

const parse = (...args: string[]) => parseCommandLine("qsd", args, "1.2.3");

const problems: readonly (readonly [string[], string])[] = [
  [["--foo"], "unrecognized option '--foo'"],
  [["--foo=1"], "unrecognized option '--foo=1'"],
  [["--foo", "--help"], "unrecognized option '--foo'"],
  [["--blockdev"], "option '--blockdev' requires an argument"],
  [["--mon"], "option '--monitor' requires an argument"],
  [["--version=1"], "option '--version' doesn't allow an argument"],
  [["-x"], "invalid option -- 'x'"],
  [["-blockdev", "x"], "invalid option -- 'b'"],
  [["-T"], "option requires an argument -- 'T'"],
];
for (const [args, problem] of problems) {
  Deno.test(`refuses ${args.join(" ")}`, () => assert.deepEqual(parse(...args), { problem }));
}

Deno.test("options of pass 2 keep their order and their place as typed", () => {
  const typed = parse(
    "--bl",
    "a",
    "--export=b",
    "xyz",
    "--daemonize",
    "-Tfoo",
    "-T",
    "bar",
    "--pidfile",
    "p",
    "--pidf=q",
  );
  assert.deepEqual(typed, {
    daemonize: true,
    pidfile: "q",
    options: [
      { name: "blockdev", argument: "a", typed: "--bl a" },
      { name: "export", argument: "b", typed: "--export=b" },
      { name: "positional", argument: "xyz", typed: "xyz" },
      { name: "trace", argument: "foo", typed: "-Tfoo" },
      { name: "trace", argument: "bar", typed: "-T bar" },
    ],
  });
});

Deno.test("help and version win over what pass 2 would refuse; -- ends the options", () => {
  const version = "qemu-storage-daemon version 7.2.22 (qsd 1.2.3)\n";
  for (const args of [["extra", "-V"], ["-Vx"], ["--blockdev", "garbage", "--ver"]]) {
    const result = parse(...args);
    assert.ok("text" in result && result.text.startsWith(version), args.join(" "));
    assert.equal("text" in result && result.text.split("\n").length, 3);
  }
  const help = parse("--blockdev", "garbage", "-h");
  assert.ok("text" in help);
  for (
    const option of [
      "--blockdev",
      "--chardev",
      "--export",
      "--monitor",
      "--nbd-server",
      "--object",
      "--daemonize",
      "--pidfile",
      "--trace",
      "--version",
      "--help",
      "null-co, qcow2, raw",
      "nbd, vhost-user-blk",
      "status SOCKET",
    ]
  ) {
    assert.ok("text" in help && help.text.includes(option), option);
  }
  assert.deepEqual(parse("--", "foo", "--blockdev"), { daemonize: false, options: [] });
});

Deno.test("QemuOpts: implied key, doubled commas, short-form booleans with their warnings", () => {
  const { id, options, warnings } = parseQemuOpts("socket,id=a,path=x,,y,server,nowait", "backend");
  assert.equal(id, "a");
  assert.deepEqual(options, [
    { key: "backend", value: "socket" },
    { key: "path", value: "x,y" },
    { key: "server", value: "on" },
    { key: "wait", value: "off" },
  ]);
  assert.deepEqual(warnings, [
    {
      message: "short-form boolean option 'server' deprecated",
      hint: "Please use server=on instead",
    },
    {
      message: "short-form boolean option 'nowait' deprecated",
      hint: "Please use wait=off instead",
    },
  ]);
  assert.throws(() => parseQemuOpts("stdio,id=1", "backend"), {
    message: "Parameter 'id' expects an identifier",
    hints: ["Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."],
  });
});
