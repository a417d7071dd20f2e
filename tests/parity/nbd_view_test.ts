/** What NBD clients see of the same set-ups: nbdinfo's reports, alike on both. */
import { type Case, parity, type Step } from "./mould.ts";

const server = ["--nbd-server", "addr.type=unix,addr.path=nbd"];
const info = (name: string): Step => ({
  tool: ["nbdinfo", "--json", `nbd+unix:///${name}?socket=nbd`],
});
const list: Step = { tool: ["nbdinfo", "--list", "--json", "nbd+unix://?socket=nbd"] };
const map = (name: string, context = "base:allocation"): Step => ({
  tool: ["nbdinfo", "--json", `--map=${context}`, `nbd+unix:///${name}?socket=nbd`],
});
const block = (more: string) => ["--blockdev", more];
const exported = (more: string) => ["--export", `nbd,${more}`];
const view = (name: string, args: string[], steps: Step[], more: Partial<Case> = {}): Case => ({
  name,
  args,
  steps,
  needs: ["nbdinfo"],
  files: {
    "a.raw": { size: 1048576, noise: 6 },
    "hole.raw": { size: 8388608 },
    "odd.raw": { size: 1000, noise: 7 },
    "empty.raw": { size: 0 },
    "mixed.raw": {
      make: [
        "sh",
        "-c",
        "truncate -s 4M mixed.raw; head -c 65536 /dev/urandom | dd of=mixed.raw seek=1M oflag=seek_bytes conv=notrunc status=none; head -c 4096 /dev/urandom | dd of=mixed.raw seek=3M oflag=seek_bytes conv=notrunc status=none",
      ],
    },
  },
  ...more,
});
const file = (name: string, more = "") => block(`file,node-name=n,filename=${name}${more}`);

parity("nbdinfo", [
  view("a file, read-only", [...file("a.raw"), ...server, ...exported("id=e,node-name=n")], [
    info("n"),
    list,
  ]),
  view("a file, writable", [
    ...file("a.raw"),
    ...server,
    ...exported("id=e,node-name=n,writable=on"),
  ], [info("n"), map("n")]),
  view("writethrough", [
    ...file("a.raw"),
    ...server,
    ...exported("id=e,node-name=n,writable=on,writethrough=on"),
  ], [info("n")]),
  view("a name and a description", [
    ...file("a.raw"),
    ...server,
    ...exported("id=e,node-name=n,name=the name,description=what it is"),
  ], [list]),
  view("the default export", [...file("a.raw"), ...server, ...exported("id=e,node-name=n,name=")], [
    info(""),
    list,
  ]),
  view("several exports", [
    ...file("a.raw"),
    ...block("null-co,node-name=m,size=4096"),
    ...server,
    ...exported("id=e,node-name=n"),
    ...exported("id=f,node-name=m"),
    ...exported("id=g,node-name=m,name=again"),
  ], [list]),
  view("no exports", [...server], [list, info("nobody")]),
  view("an export that is not there", [
    ...file("a.raw"),
    ...server,
    ...exported("id=e,node-name=n"),
  ], [info("nobody"), info("")]),
  view("a hole", [...file("hole.raw"), ...server, ...exported("id=e,node-name=n")], [
    info("n"),
    map("n"),
  ]),
  view("data among holes", [...file("mixed.raw"), ...server, ...exported("id=e,node-name=n")], [
    map("n"),
  ]),
  view("data among holes through a raw window", [
    ...file("mixed.raw"),
    ...block("raw,node-name=r,file=n,offset=65536,size=2097152"),
    ...server,
    ...exported("id=e,node-name=r"),
  ], [info("r"), map("r")]),
  view("a size that is no multiple of 512", [
    ...file("odd.raw"),
    ...server,
    ...exported("id=e,node-name=n"),
  ], [info("n"), map("n")]),
  view("an empty file", [...file("empty.raw"), ...server, ...exported("id=e,node-name=n")], [
    info("n"),
    map("n"),
  ]),
  view("null-co", [
    ...block("null-co,node-name=n,size=1048576"),
    ...server,
    ...exported("id=e,node-name=n,writable=on"),
  ], [info("n"), map("n")]),
  view("null-co that reads zeroes", [
    ...block("null-co,node-name=n,size=1048576,read-zeroes=on"),
    ...server,
    ...exported("id=e,node-name=n"),
  ], [map("n")]),
  view("null-co of an odd size", [
    ...block("null-co,node-name=n,size=1000"),
    ...server,
    ...exported("id=e,node-name=n"),
  ], [info("n")]),
  view("allocation depth", [
    ...file("mixed.raw"),
    ...server,
    ...exported("id=e,node-name=n,allocation-depth=on"),
  ], [info("n"), list, map("n", "qemu:allocation-depth")]),
  view("one connection at a time", [
    ...file("a.raw"),
    "--nbd-server",
    "addr.type=unix,addr.path=nbd,max-connections=1",
    ...exported("id=e,node-name=n,writable=on"),
  ], [info("n")]),
  view("O_DIRECT", [
    ...file("a.raw", ",cache.direct=on"),
    ...server,
    ...exported("id=e,node-name=n,writable=on"),
  ], [info("n")]),
  view("a shared read-only node", [
    ...file("a.raw", ",read-only=on,force-share=on"),
    ...server,
    ...exported("id=e,node-name=n"),
  ], [info("n"), map("n")]),
]);
