/** The image keeps the drivers' contract, and qemu-img finds nothing wrong with what it leaves behind. */
import assert from "node:assert/strict";
import type { BlockdevOptionsValue } from "../../../qmp/schema/blockdev.ts";
import { createContext } from "../../../sys/mod.ts";
import { type ContractSubject, driverContract } from "../../contract.ts";
import { file } from "../file/mod.ts";
import { raw } from "../raw.ts";
import { imageDriver } from "./testing.ts";
import type { ImageOptions } from "./types.ts";
import type { DriverDefinition } from "../../mod.ts";

const MiB = 1 << 20;

/** Runs qemu-img; its output. */
async function qemuImg(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command("qemu-img", {
    args,
    stdout: "piped",
    stderr: "piped",
  }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.equal(code, 0, `qemu-img ${args.join(" ")}: ${text}`);
  return text;
}

/** One shape of an image. */
interface Shape {
  readonly create?: readonly string[];
  readonly size?: number;
  readonly options?: Partial<ImageOptions>;
  /** Bytes of a backing file of zeroes. */
  readonly backing?: number;
  readonly dataFile?: boolean;
  readonly cannot?: ContractSubject["cannot"];
}

async function subject(shape: Shape): Promise<ContractSubject> {
  const directory = await Deno.makeTempDir();
  const filename = `${directory}/disk.qcow2`;
  const size = shape.size ?? MiB;
  const create = ["create", "-q", "-f", "qcow2"];
  const options: Record<string, unknown> = {
    driver: "qcow2",
    file: { driver: "file", filename },
  };
  const format = [...shape.create ?? []];
  if (shape.dataFile === true) {
    format.push(`data_file=${directory}/data`);
    options["data-file"] = { driver: "file", filename: `${directory}/data` };
  }
  if (shape.backing !== undefined) {
    await Deno.writeFile(`${directory}/backing`, new Uint8Array(shape.backing));
    create.push("-b", `${directory}/backing`, "-F", "raw");
    options["backing"] = {
      driver: "raw",
      file: { driver: "file", filename: `${directory}/backing` },
    };
  }
  if (format.length > 0) create.push("-o", format.join(","));
  await qemuImg(...create, filename, String(size));
  const context = createContext({ name: "test" });
  return {
    context,
    drivers: [file, raw, imageDriver(shape.options)] as DriverDefinition<unknown>[],
    options: options as BlockdevOptionsValue,
    size,
    ...(shape.cannot === undefined ? {} : { cannot: shape.cannot }),
    async end() {
      await context.close();
      try {
        await qemuImg("check", "-q", filename);
      } finally {
        await Deno.remove(directory, { recursive: true });
      }
    },
  };
}

const SHAPES: Readonly<Record<string, Shape>> = {
  "version 3": {},
  "version 2": { create: ["compat=0.10"] },
  "clusters of 512": { create: ["cluster_size=512"] },
  "clusters of 2 MiB": { create: ["cluster_size=2M"], size: 4 * MiB },
  "1-bit counts": { create: ["refcount_bits=1", "cluster_size=4k"] },
  "64-bit counts": { create: ["refcount_bits=64", "cluster_size=4k"] },
  "subclusters": { create: ["extended_l2=on"] },
  "subclusters of 512": { create: ["extended_l2=on", "cluster_size=16k"] },
  "subclusters over a backing file": {
    create: ["extended_l2=on", "cluster_size=32k"],
    backing: MiB,
  },
  "a backing file": { backing: MiB },
  "a shorter backing file": { backing: 70000 },
  "a longer backing file": { backing: 2 * MiB },
  "version 2 over a backing file": { create: ["compat=0.10"], backing: MiB },
  "lazy refcounts": { create: ["lazy_refcounts=on"], options: { lazyRefcounts: true } },
  "a data file": { dataFile: true, create: ["cluster_size=4k"] },
  "a raw data file": { dataFile: true, create: ["cluster_size=4k", "data_file_raw=on"] },
  "preallocated metadata": { create: ["preallocation=metadata"] },
  "discard-no-unref": { options: { discardNoUnref: true } },
  "an odd length": { size: MiB + 512 * 3 },
};
for (const [name, shape] of Object.entries(SHAPES)) {
  driverContract(`qcow2, ${name}`, () => subject(shape));
}
