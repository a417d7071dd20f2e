/** The QMP wire: envelope and parse errors, negotiation, ids, out-of-band, pretty printing. */
import { type Case, parity, together } from "./mould.ts";

/** One line of text, and after it proof that the monitor still answers. */
const text = (probe: string, more: Partial<Case> = {}): Case => ({
  name: probe,
  steps: [{ probe }],
  ...more,
});
/** Text that leaves the parser in the middle of something. */
const broken = (probe: string): Case => ({ name: probe, steps: [{ probe, reset: true }] });
const before = (raw: string): Case =>
  text(raw, { name: `${raw} (not negotiated)`, negotiate: false });

together("QMP envelope", [
  text("1"),
  text("-5"),
  text("1.5"),
  text('"text"'),
  text("true"),
  text("false"),
  text("null"),
  text("[]"),
  text('[{"execute":"query-version"}]'),
  text("{}"),
  text('{"id":1}'),
  text('{"execute":null}'),
  text('{"execute":1}'),
  text('{"execute":{}}'),
  text('{"execute":""}'),
  text('{"execute":"nonsense"}'),
  text('{"execute":"nonsense","id":{"a":[1,null,"x"]}}'),
  text('{"execute":"query-block-exports","arguments":null}'),
  text('{"execute":"query-block-exports","arguments":[]}'),
  text('{"execute":"query-block-exports","arguments":1}'),
  text('{"execute":"query-block-exports","arguments":{"nonsense":1}}'),
  text('{"execute":"query-block-exports","arguments":{}}'),
  text('{"execute":"query-block-exports","nonsense":1}'),
  text('{"execute":"query-block-exports","control":{}}'),
  text('{"exec-oob":"query-block-exports"}'),
  text('{"execute":"query-block-exports","exec-oob":"query-block-exports"}'),
  text('{"return":{}}'),
  text('{"execute":"query-block-exports","id":1}'),
  text('{"execute":"query-block-exports","id":null}'),
  text('{"execute":"query-block-exports","id":[]}'),
  text('{"execute":"query-block-exports","id":{}}'),
  text('{"execute":"query-block-exports","id":true}'),
  text('{"execute":"query-block-exports","id":""}'),
  text('{"execute":"query-block-exports","id":"\\u00e4\\ud83d\\ude00\\n\\t\\\\\\""}'),
  text('{"execute":"query-block-exports","id":"ä"}'),
  text('{"execute":"query-block-exports","id":1,"id":2}'),
  text("{'execute':'query-block-exports','id':'it\\'s'}"),
]);

together(
  "QMP ids keep their value",
  [
    ...["0", "-0", "9007199254740993", "9223372036854775807", "-9223372036854775808"],
    ...["18446744073709551615", "1e3", "1.5", "0.1", "-2.5e-3"],
  ].map((id): Case => ({
    name: id,
    // JSON.parse would round: the lines are compared as text.
    steps: [{ line: `{"execute":"query-block-exports","id":${id}}` }],
  })),
);

together("QMP parse errors", [
  broken("x"),
  broken("nul"),
  broken("]"),
  broken("}"),
  broken(","),
  broken(":"),
  broken("{]"),
  broken("[}"),
  broken('{"execute"}'),
  broken('{"execute":}'),
  broken('{"execute":,}'),
  broken('{"execute" "query-version"}'),
  broken("{1:2}"),
  broken('{"a":1 "b":2}'),
  broken('{"a":1,}'),
  broken("[1 2]"),
  broken("[1,]"),
  broken("[,1]"),
  broken('{"a":nul}'),
  broken('{"a":+1}'),
  broken('{"a":01}'),
  broken('{"a":1.}'),
  broken('{"a":.5}'),
  broken('{"a":1e}'),
  broken('{"a":--1}'),
  broken('{"a":0x10}'),
  broken('{"a":"\\x"}'),
  broken('{"a":"\\u12"}'),
  broken('{"a":"\\ud800"}'),
  broken('{"a":"\\u0000"}'),
  broken('{"a":"tab\there"}'),
  broken("%s"),
  broken('{"a":%d}'),
  broken("\u00a0"),
  broken("#"),
]);

together("QMP negotiation", [
  before('{"execute":"query-version"}'),
  before('{"execute":"nonsense"}'),
  before('{"execute":"nonsense","id":7}'),
  before("{}"),
  before("1"),
  before("x"),
  before('{"execute":"qmp_capabilities","arguments":{"enable":["nonsense"]}}'),
  before('{"execute":"qmp_capabilities","arguments":{"enable":"oob"}}'),
  before('{"execute":"qmp_capabilities","arguments":{"enable":[1]}}'),
  before('{"execute":"qmp_capabilities","arguments":{"nonsense":1}}'),
  before('{"execute":"qmp_capabilities","id":1}'),
  before('{"execute":"qmp_capabilities","arguments":{"enable":[]}}'),
  before('{"exec-oob":"qmp_capabilities"}'),
  {
    name: "a second time is refused",
    steps: [{ execute: "qmp_capabilities" }, { execute: "query-block-exports" }],
  },
  {
    name: "the greeting, then a failed attempt, then a good one",
    negotiate: false,
    steps: [
      { execute: "qmp_capabilities", arguments: { enable: ["nonsense"] } },
      { execute: "query-block-exports" },
      { execute: "qmp_capabilities" },
      { execute: "query-block-exports" },
    ],
  },
  {
    name: "a client that comes back is greeted and starts again",
    steps: [
      { execute: "query-block-exports" },
      { reconnect: true },
      { execute: "query-block-exports" },
      { execute: "qmp_capabilities" },
      { execute: "query-block-exports" },
    ],
  },
  {
    name: "with oob, commands that do not allow it are refused",
    negotiate: false,
    steps: [
      { execute: "qmp_capabilities", arguments: { enable: ["oob"] } },
      { raw: '{"exec-oob":"query-block-exports","id":1}' },
      { raw: '{"exec-oob":"query-block-exports"}' },
      { raw: '{"exec-oob":"nonsense","id":2}' },
      { raw: '{"exec-oob":"qmp_capabilities","id":3}' },
      { execute: "query-block-exports", id: 4 },
      { raw: '{"execute":"query-block-exports","exec-oob":"query-version","id":5}' },
    ],
  },
]);

parity("QMP framing", [
  {
    name: "several requests on one line",
    steps: [{
      raw: '{"execute":"query-block-exports","id":1}{"execute":"nonsense","id":2} 3\n',
      replies: 3,
    }],
  },
  {
    name: "one request over many lines",
    steps: [{ raw: '{\n"execute"\n:\n\t"query-block-exports"\r\n,"id":1\n}' }],
  },
  {
    name: "the parser recovers after an error on the same line",
    steps: [{ raw: '{"a" x}\n{"execute":"query-block-exports","id":1}\n', replies: 2 }],
  },
  {
    name: "pretty answers",
    monitor: ",pretty=on",
    negotiate: false,
    steps: [
      { text: '{"execute":"qmp_capabilities"}', until: '"return"' },
      { text: '{"execute":"nonsense","id":[1,{"a":[]},"b\\n"]}', until: '"error"' },
    ],
  },
]);
