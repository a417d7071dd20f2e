/** Integers beyond what a JavaScript number holds: taken, compared and told exactly. */
import { type Case, parity, type Step } from "./mould.ts";

const MAX = "9223372036854775807";
const HALF = "4611686018427387905";
/** As text, so that nothing on the way rounds it. */
const line = (execute: string, members: string): Step => ({
  line: `{"execute":"${execute}","arguments":{${members}}}`,
});
const FILES = { "disk.raw": { size: 1 << 20 } } as const;
const FILE = ["--blockdev", "file,node-name=f,filename=disk.raw"] as const;

const qmp = (execute: string, members: string): Case => ({
  name: `${execute} ${members}`,
  files: FILES,
  args: FILE,
  steps: [line(execute, members)],
});
const threshold = (value: string): Case => ({
  name: `write-threshold ${value}`,
  files: FILES,
  args: FILE,
  steps: [
    line("block-set-write-threshold", `"node-name":"f","write-threshold":${value}`),
    { execute: "query-named-block-nodes" },
  ],
});
const command = (...args: string[]): Case => ({ name: args.join(" "), files: FILES, args });
const added = (members: string) => qmp("blockdev-add", `"node-name":"n",${members}`);
const raw = (members: string) => added(`"driver":"raw","file":"f",${members}`);
const ring = '"id":"c","backend":{"type":"ringbuf","data":{"size":';

parity("64-bit integers", [
  threshold("18446744073709551615"),
  threshold("18446744073709551616"),
  threshold("-1"),
  threshold("-2147483648"),
  raw(`"offset":${HALF}`),
  raw(`"size":${HALF}`),
  raw(`"offset":512,"size":${MAX}`),
  added(`"driver":"null-co","latency-ns":${MAX}`),
  added(`"driver":"null-co","latency-ns":9223372036854775808`),
  added(`"driver":"null-co","latency-ns":-1`),
  added(`"driver":"null-co","latency-ns":18446744073709551616`),
  added(`"driver":"file","filename":"disk.raw","aio-max-batch":${MAX}`),
  qmp("chardev-add", `${ring}${HALF}}}`),
  qmp("ringbuf-read", `"device":"c","size":${MAX}`),
  command(...FILE, "--blockdev", `raw,node-name=n,file=f,offset=${HALF}`),
  command(...FILE, "--blockdev", `raw,node-name=n,file=f,size=${HALF}`),
  command("--blockdev", "null-co,node-name=n,latency-ns=9223372036854775808"),
  command("--blockdev", "null-co,node-name=n,latency-ns=18446744073709551616"),
  command("--blockdev", "null-co,node-name=n,latency-ns=-1"),
  command("--chardev", "ringbuf,id=c,size=18446744073709551616"),
]);
