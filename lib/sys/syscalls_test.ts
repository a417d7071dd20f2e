/** The numbers of both architectures against the kernel's headers, where they are installed. */
import assert from "node:assert/strict";
import { type Arch, syscallNumbers } from "./constants.ts";

/** Aarch64 has the generic table. */
const headers: Readonly<Record<Arch, string>> = {
  x86_64: "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
  aarch64: "/usr/include/asm-generic/unistd.h",
};

/** The numbers that a header defines, by name; those that differ with the width of pointers have the 64-bit name. */
function definitions(header: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const [, name, number] of header.matchAll(/#define __NR(?:3264)?_(\w+)\s+(\d+)/g)) {
    found.set(name!, Number(number));
  }
  return found;
}

for (const arch of ["x86_64", "aarch64"] as const) {
  Deno.test({
    name: `system calls of ${arch} have the numbers of the kernel's headers`,
    ignore: !exists(headers[arch]),
    fn: () => {
      const known = definitions(Deno.readTextFileSync(headers[arch]));
      const numbers = Object.entries(syscallNumbers(arch));
      // Older headers lack the newest calls.
      const compared = numbers.filter(([name]) => known.has(name));
      assert.ok(compared.length >= numbers.length - 1, "calls that the header does not know");
      for (const [name, number] of compared) assert.equal(number, known.get(name), name);
    },
  });
}

function exists(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}
