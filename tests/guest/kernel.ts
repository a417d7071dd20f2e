/**
 * The Linux that runs in the guest: Debian's kernel and busybox, taken from their packages without installing
 * them, kept in tmp/guest; and e2fsprogs of this machine. Nothing here needs root but `apt-get update`.
 */
import { basename } from "node:path";
import { ROOT } from "../harness/daemon.ts";
import { run, which } from "../harness/tools.ts";
import { Cpio } from "./cpio.ts";

/** A kernel and what a guest needs in its first file system. */
export interface GuestSystem {
  readonly kernel: string;
  readonly initramfs: string;
}

const CACHE = `${ROOT}/tmp/guest`;
/** Drivers that the guest loads, with all that they need. */
const MODULES = ["virtio_pci", "virtio_console", "virtio_blk", "ext4", "crc32c_generic"];
const HOST_PROGRAMS = ["mkfs.ext4", "e2fsck", "resize2fs"];

/** The first process: loads the drivers, then does what the console says. */
const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /mnt /tmp
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
export PATH=/sbin:/bin
# Opened once: closing it would throw away what has been said to it.
exec < /dev/hvc0 > /dev/hvc0 2>&1
stty -echo
echo "@@ready"
# Not a shell on the console itself, which would prompt; nor cat in front of one, which waits for more in sendfile.
while IFS= read -r line; do eval "$line" < /dev/null; done
`;

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** The guest's system, or why there is none. */
export async function guestSystem(): Promise<GuestSystem | string> {
  if (Deno.build.arch !== "x86_64") return `there is no guest for ${Deno.build.arch}`;
  for (const program of ["qemu-system-x86_64", "mkfs.ext4", "e2fsck"]) {
    if (which(program) === undefined) return `not installed: ${program}`;
  }
  const root = `${CACHE}/root`;
  if (!await exists(`${root}/done`)) {
    const problem = await unpack(root);
    if (problem !== undefined) return problem;
  }
  const kernel = await find(`${root}/boot`, "vmlinuz-");
  const modules = await find(`${root}/lib/modules`, "");
  if (kernel === undefined || modules === undefined) return "the kernel's package is incomplete";
  const initramfs = `${CACHE}/initramfs`;
  await Deno.writeFile(initramfs, await makeInitramfs(root, modules));
  return { kernel, initramfs };
}

async function find(folder: string, prefix: string): Promise<string | undefined> {
  for await (const { name } of Deno.readDir(folder)) {
    if (name.startsWith(prefix)) return `${folder}/${name}`;
  }
  return undefined;
}

/** Downloads and unpacks the two packages. What went wrong, if something did. */
async function unpack(root: string): Promise<string | undefined> {
  if (which("apt-get") === undefined || which("dpkg-deb") === undefined) {
    return "no kernel: this is no Debian";
  }
  await Deno.mkdir(root, { recursive: true });
  const depends = () => run("apt-cache", ["depends", "linux-image-cloud-amd64"], { limit: 60_000 });
  let known = await depends();
  if (!known.stdout.includes("Depends:") && Deno.uid() === 0) {
    await run("apt-get", ["-qq", "update"], { limit: 120_000 });
    known = await depends();
  }
  const image = /Depends: (linux-image-\S+)/.exec(known.stdout)?.[1];
  if (image === undefined) return "no kernel: apt knows no linux-image-cloud-amd64";
  const got = await run("apt-get", ["-qq", "download", image, "busybox-static"], {
    cwd: CACHE,
    limit: 300_000,
  });
  if (got.status !== 0) return `no kernel: ${got.stderr.trim()}`;
  for await (const { name } of Deno.readDir(CACHE)) {
    if (!name.endsWith(".deb")) continue;
    const done = await run("dpkg-deb", ["-x", `${CACHE}/${name}`, root], { limit: 120_000 });
    if (done.status !== 0) return `no kernel: ${done.stderr.trim()}`;
    await Deno.remove(`${CACHE}/${name}`);
  }
  await Deno.writeTextFile(`${root}/done`, "");
  return undefined;
}

/** Paths of all modules below `folder`, by name with "_" for "-". */
async function moduleFiles(folder: string, found: Map<string, string>): Promise<void> {
  for await (const entry of Deno.readDir(folder)) {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory) await moduleFiles(path, found);
    else if (entry.name.endsWith(".ko")) {
      found.set(basename(entry.name, ".ko").replaceAll("-", "_"), path);
    }
  }
}

/** What a module says that it needs: the text `depends=a,b` in its file. */
function dependencies(bytes: Uint8Array): string[] {
  const text = new TextDecoder("latin1").decode(bytes);
  const list = /\0depends=([^\0]*)\0/.exec(text)?.[1] ?? "";
  return list.split(",").filter(Boolean).map((name) => name.replaceAll("-", "_"));
}

async function makeInitramfs(root: string, modules: string): Promise<Uint8Array> {
  const cpio = new Cpio();
  for (const folder of ["bin", "sbin", "modules", "dev", "lib", "lib64", "etc"]) {
    cpio.folder(folder);
  }
  cpio.device("dev/console", 5, 1);
  cpio.file("init", new TextEncoder().encode(INIT), 0o755);
  cpio.file("etc/mtab", new Uint8Array(), 0o644);
  cpio.file("bin/busybox", await Deno.readFile(`${root}/bin/busybox`), 0o755);
  const files = new Map<string, string>();
  await moduleFiles(modules, files);
  const loaded = new Set<string>();
  const load = async (name: string): Promise<void> => {
    const path = files.get(name);
    if (path === undefined || loaded.has(name)) return; // built in, or there already
    loaded.add(name);
    const bytes = await Deno.readFile(path);
    for (const needed of dependencies(bytes)) await load(needed);
    const number = String(cpio.entries).padStart(4, "0");
    cpio.file(`modules/${number}-${name}.ko`, bytes, 0o644);
  };
  for (const name of MODULES) await load(name);
  await addPrograms(cpio);
  return cpio.end();
}

/** Programs of this machine with their libraries. */
async function addPrograms(cpio: Cpio): Promise<void> {
  const libraries = new Set<string>();
  for (const program of HOST_PROGRAMS) {
    const path = which(program);
    if (path === undefined) continue;
    cpio.file(`sbin/${program}`, await Deno.readFile(path), 0o755);
    const { stdout } = await run("ldd", [path]);
    for (const found of stdout.matchAll(/(\/\S+)/g)) libraries.add(found[1]!);
  }
  for (const path of libraries) {
    const target = path.startsWith("/lib64/") ? path.slice(1) : `lib/${basename(path)}`;
    cpio.file(target, await Deno.readFile(path), 0o755);
  }
}
