/** Other people's programs that the tests drive, and libraries: installed where that can be done. */
import { say } from "./say.ts";

/** Debian's package for each program or file that the tests need. */
const packages: Readonly<Record<string, string>> = {
  "/usr/bin/qemu-storage-daemon": "qemu-system-common",
  "/usr/bin/qemu-img": "qemu-utils",
  "/usr/bin/nbdinfo": "libnbd-bin",
  "/usr/lib/python3/dist-packages/nbd.py": "python3-libnbd",
  "/usr/bin/nbdkit": "nbdkit",
  "/usr/bin/fio": "fio",
  "/usr/bin/python3": "python3",
  "/usr/bin/strace": "strace",
  "/usr/bin/gcc": "gcc",
  "/usr/include/stdio.h": "libc6-dev",
  "/usr/bin/qemu-system-x86_64": "qemu-system-x86",
  [`/usr/lib/${Deno.build.arch}-linux-gnu/libdeflate.so.0`]: "libdeflate0",
  [`/usr/lib/${Deno.build.arch}-linux-gnu/libzstd.so.1`]: "libzstd1",
  "/usr/sbin/e2fsck": "e2fsprogs",
};

async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

async function aptGet(...args: string[]): Promise<string | undefined> {
  try {
    const output = await new Deno.Command("apt-get", {
      args: ["-qq", "-y", ...args],
      env: { DEBIAN_FRONTEND: "noninteractive" },
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).output();
    return output.success ? undefined : new TextDecoder().decode(output.stderr).trim();
  } catch (error) {
    return String(error);
  }
}

/** Installs what is missing if this is root and there is apt-get; says what could not be had. */
export async function installPackages(): Promise<void> {
  const missing: string[] = [];
  for (const [path, name] of Object.entries(packages)) {
    if (!await exists(path)) missing.push(name);
  }
  if (missing.length === 0) return;
  if (Deno.uid() !== 0 || !await exists("/usr/bin/apt-get")) {
    say(
      `Not installed: ${missing.join(" ")} (needs root and apt-get); suites that need them skip.`,
    );
    return;
  }
  say(`Installing ${missing.join(" ")}`);
  const install = () => aptGet("install", "--no-install-recommends", ...missing);
  const problem = await install() && (await aptGet("update") ?? await install());
  if (problem) say(`Could not install them; suites that need them skip. ${problem}`);
}
