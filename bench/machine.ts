/** What a report says of where it was made. */

/** Processor, number of CPUs, kernel. */
export async function describeMachine(): Promise<string> {
  const model = /^model name\s*:\s*(.+)$/m.exec(await Deno.readTextFile("/proc/cpuinfo"))?.[1];
  return `${model ?? Deno.build.arch}, ${navigator.hardwareConcurrency} CPUs, ` +
    `Linux ${Deno.osRelease()}, Deno ${Deno.version.deno}`;
}

/** The type of the file system that holds `path`, from /proc/self/mountinfo. */
export function fileSystemOf(path: string, mountinfo: string): string {
  let best = "";
  let type = "unknown";
  for (const line of mountinfo.split("\n")) {
    const fields = line.split(" ");
    const at = fields[4];
    const dash = fields.indexOf("-");
    if (at === undefined || dash < 0) continue;
    const within = path === at || path.startsWith(at === "/" ? "/" : at + "/");
    if (within && at.length >= best.length) {
      best = at;
      type = fields[dash + 1]!;
    }
  }
  return type;
}
