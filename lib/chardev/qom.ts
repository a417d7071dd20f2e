/** The classes of character devices, as the object tree shows them. */
import type { QomClass } from "../qom/mod.ts";
import { chardevBackends } from "./options.ts";

/** Backends whose class does not inherit from `chardev` itself. */
const parents: Readonly<Record<string, string>> = {
  file: "chardev-fd",
  pipe: "chardev-fd",
  serial: "chardev-fd",
  stdio: "chardev-fd",
  memory: "chardev-ringbuf",
};

/** One class for each backend, after those that they inherit from. */
export const chardevClasses: readonly QomClass[] = [
  { name: "chardev", parent: "object", abstract: true },
  { name: "chardev-fd", parent: "chardev", abstract: true },
  ...chardevBackends.map((backend) => ({
    name: `chardev-${backend}`,
    parent: parents[backend] ?? "chardev",
  })),
];
