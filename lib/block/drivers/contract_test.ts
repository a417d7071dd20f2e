/** Every driver keeps the contract (lib/block/contract.ts), in each of its shapes. */
import type { BlockdevOptionsValue } from "../../qmp/schema/blockdev.ts";
import { createContext } from "../../sys/mod.ts";
import { type ContractSubject, driverContract } from "../contract.ts";
import { drivers } from "./mod.ts";
import { testContext } from "./testing.ts";

/** A subject on a new file of `length` bytes; `shape` makes the node's options from those of the file. */
async function onFile(
  length: number,
  size: number,
  shape: (file: Record<string, unknown>) => Record<string, unknown>,
  parent?: string,
): Promise<ContractSubject> {
  const directory = await Deno.makeTempDir(parent === undefined ? {} : { dir: parent });
  const filename = `${directory}/disk`;
  await Deno.writeFile(filename, new Uint8Array(0));
  await Deno.truncate(filename, length);
  // With the real loop: kernel queues announce completions to it.
  const context = createContext({ name: "test" });
  return {
    context,
    drivers,
    options: shape({ driver: "file", filename }) as BlockdevOptionsValue,
    size,
    async end() {
      await context.close();
      await Deno.remove(directory, { recursive: true });
    },
  };
}

const MiB = 1 << 20;

driverContract("file, buffered", () => onFile(MiB, MiB, (file) => file));
driverContract("file, buffered, odd length", () => onFile(MiB - 100, MiB, (file) => file));
driverContract("file on tmpfs", () => onFile(MiB, MiB, (file) => file, "/dev/shm"));
for (const aio of ["threads", "native", "io_uring"]) {
  driverContract(
    `file, O_DIRECT, aio=${aio}`,
    () => onFile(MiB, MiB, (file) => ({ ...file, aio, cache: { direct: true } })),
  );
}
driverContract(
  "file, buffered, aio=io_uring",
  () => onFile(MiB, MiB, (file) => ({ ...file, aio: "io_uring" })),
);
driverContract("raw over file", () => onFile(MiB, MiB, (file) => ({ driver: "raw", file })));
driverContract(
  "raw, the end of a file",
  () => onFile(MiB, MiB - 1024, (file) => ({ driver: "raw", file, offset: 1024 })),
);
driverContract(
  "raw, a window on O_DIRECT",
  async () => {
    const subject = await onFile(MiB, 65536, (file) => ({
      driver: "raw",
      file: { ...file, cache: { direct: true } },
      offset: 1536,
      size: 65536,
    }));
    return { ...subject, cannot: { resize: "its size was fixed" } };
  },
);

for (const driver of ["null-co", "null-aio"]) {
  driverContract(driver, () => {
    const context = testContext();
    return {
      context,
      drivers,
      options: { driver, size: MiB },
      size: MiB,
      cannot: { contents: "it forgets what is written", resize: "its size is fixed" },
      end: () => context.end(),
    };
  });
}
