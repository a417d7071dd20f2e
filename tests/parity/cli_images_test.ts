/** Images that cannot be opened: what is said on standard error, and where. */
import { type Case, parity, says } from "./mould.ts";

const file = (name: string, more = "") => `file,node-name=f,filename=${name}${more}`;
const SERVER = ["--nbd-server", "addr.type=unix,addr.path=nbd"] as const;
const EXPORT = "nbd,id=e,node-name=f,writable=on";
const powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];

const cases: Case[] = [
  { name: "missing", args: ["--blockdev", file("nobody.raw")] },
  { name: "missing folder", args: ["--blockdev", file("no/such/folder.raw")] },
  { name: "empty name", args: ["--blockdev", file("")] },
  { name: "folder", files: { d: { folder: true } }, args: ["--blockdev", file("d")] },
  {
    name: "folder, read-only",
    files: { d: { folder: true } },
    args: ["--blockdev", file("d", ",read-only=on")],
  },
  {
    name: "path through a file",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw/b")],
  },
  { name: "name too long", args: ["--blockdev", file("n".repeat(300))] },
  { name: "dangling link", files: { l: { link: "nobody" } }, args: ["--blockdev", file("l")] },
  { name: "endless link", files: { l: { link: "l" } }, args: ["--blockdev", file("l")] },
  {
    name: "character device",
    args: ["--blockdev", file("/dev/null")],
  },
  {
    name: "regular file as host_device",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", "host_device,node-name=f,filename=a.raw"],
  },
  {
    name: "missing host_device",
    args: ["--blockdev", "host_device,node-name=f,filename=/dev/nobody"],
  },
  {
    name: "character device as host_device",
    args: ["--blockdev", "host_device,node-name=f,filename=/dev/null", "extra"],
  },
  {
    name: "missing host_cdrom",
    args: ["--blockdev", "host_cdrom,node-name=f,filename=/dev/nobody"],
  },
  {
    name: "unreadable",
    files: { "a.raw": { size: 512, mode: 0o000 } },
    args: ["--blockdev", file("a.raw")],
    wrapper: powerless,
    needs: ["setpriv"],
  },
  {
    name: "unreadable, read-only",
    files: { "a.raw": { size: 512, mode: 0o000 } },
    args: ["--blockdev", file("a.raw", ",read-only=on")],
    wrapper: powerless,
    needs: ["setpriv"],
  },
  {
    name: "unwritable",
    files: { "a.raw": { size: 512, mode: 0o444 } },
    args: ["--blockdev", file("a.raw")],
    wrapper: powerless,
    needs: ["setpriv"],
  },
  {
    name: "unwritable, auto-read-only, exported writable",
    files: { "a.raw": { size: 512, mode: 0o444 } },
    args: ["--blockdev", file("a.raw", ",auto-read-only=on"), ...SERVER, "--export", EXPORT],
    wrapper: powerless,
    needs: ["setpriv"],
  },
  {
    name: "unknown aio",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw", ",aio=nonsense")],
  },
  {
    name: "aio=native without cache.direct",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw", ",aio=native")],
  },
  {
    name: "unknown locking",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw", ",locking=nonsense")],
  },
  {
    name: "force-share while writable",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw", ",force-share=on")],
  },
  {
    name: "size that is not an integer of the driver",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw", ",size=1")],
  },
  {
    name: "pr-manager that does not exist",
    files: { "a.raw": { size: 512 } },
    args: ["--blockdev", file("a.raw", ",pr-manager=nobody")],
  },
  {
    name: "null byte in the name",
    args: ["--blockdev", `{"driver":"file","node-name":"f","filename":"a\\u0000b"}`],
    differs: says(
      "no file name holds a null byte: the original looks for another name, qsd says EINVAL",
      (text) => text.replace(/'a.*b': .*\n/s, "'a\\0b': Invalid argument\n"),
    ),
  },
];

const locked = (name: string, holder: string[], ...args: string[]): Case => ({
  name,
  files: { "a.qcow2": { make: ["qemu-img", "create", "-q", "-f", "qcow2", "a.qcow2", "1M"] } },
  holder,
  args,
  needs: ["qemu-img"],
});
const HINT = "Is another process using the image [a.qcow2]?\n";
/** Where the original refuses without a hint, qsd gives it all the same. */
const hinted = (each: Case): Case => ({
  ...each,
  differs: says("a hint helps here as much as where the original gives it", (text) => text + HINT),
});
const writer = [
  "--blockdev",
  "file,node-name=f,filename=a.qcow2",
  "--blockdev",
  "qcow2,node-name=q,file=f",
];
const reader = [
  "--blockdev",
  "file,node-name=f,filename=a.qcow2,read-only=on",
  "--blockdev",
  "qcow2,node-name=q,file=f,read-only=on",
];

const locks: Case[] = [
  hinted(
    locked(
      "a writer holds it",
      writer,
      "--blockdev",
      file("a.qcow2"),
      ...SERVER,
      "--export",
      EXPORT,
    ),
  ),
  locked(
    "a writer holds it, read-only export",
    writer,
    "--blockdev",
    file("a.qcow2", ",read-only=on"),
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=f",
  ),
  hinted(
    locked(
      "a reader holds it",
      reader,
      "--blockdev",
      file("a.qcow2"),
      ...SERVER,
      "--export",
      EXPORT,
    ),
  ),
  hinted(locked(
    "a writer holds it, raw on top",
    writer,
    "--blockdev",
    file("a.qcow2"),
    "--blockdev",
    "raw,node-name=r,file=f",
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=r,writable=on",
  )),
  locked(
    "a writer holds it, raw window on top",
    writer,
    "--blockdev",
    file("a.qcow2"),
    "--blockdev",
    "raw,node-name=r,file=f,offset=512",
    "extra",
  ),
  locked(
    "a writer holds it, locking=off",
    writer,
    "--blockdev",
    file("a.qcow2", ",locking=off"),
    ...SERVER,
    "--export",
    EXPORT,
    "extra",
  ),
  locked(
    "a writer holds it, force-share",
    writer,
    "--blockdev",
    file("a.qcow2", ",read-only=on,force-share=on"),
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=f",
    "extra",
  ),
  locked(
    "a writer holds it, force-share, raw on top",
    writer,
    "--blockdev",
    "raw,node-name=f,read-only=on,force-share=on,file.driver=file,file.filename=a.qcow2",
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=f",
    "extra",
  ),
];

parity("images that cannot be opened", cases);
parity("locked images", locks);
