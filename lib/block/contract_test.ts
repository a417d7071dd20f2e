/** The contract on the memory driver, in every shape: it proves the seam, and the contract itself. */
import { driverContract } from "./contract.ts";
import { MemoryDisk, memoryDriver, testContext, windowDriver } from "./testing.ts";
import type { DriverDefinition } from "./driver_types.ts";
import type { Limits } from "./types.ts";

const shapes: Record<string, Partial<Limits>> = {
  "any alignment": {},
  "512 bytes": { requestAlignment: 512 },
  "4 KiB, aligned memory": { requestAlignment: 4096, memoryAlignment: 512 },
  "small transfers": { requestAlignment: 512, maxTransfer: 2048, maxWriteZeroes: 4096 },
  "coarse zeroes": { writeZeroesAlignment: 8192, discardAlignment: 8192, maxDiscard: 16384 },
};

for (const [shape, limits] of Object.entries(shapes)) {
  for (const latency of ["sync", "async"] as const) {
    driverContract(`memory, ${shape}, ${latency}`, () => {
      const disk = new MemoryDisk(1 << 20);
      disk.limits = limits;
      disk.latency = latency;
      return {
        context: testContext(),
        drivers: [memoryDriver({ d: disk })],
        options: { driver: "memory", disk: "d" },
        size: 1 << 20,
        end: () => {},
      };
    });
  }
}

driverContract("memory that cannot zero or discard", () => {
  const disk = new MemoryDisk(1 << 18);
  disk.canZero = false;
  disk.canDiscard = false;
  return {
    context: testContext(),
    drivers: [memoryDriver({ d: disk })],
    options: { driver: "memory", disk: "d" },
    size: 1 << 18,
    end: () => {},
  };
});

driverContract("raw over memory with blocks of 4 KiB", () => {
  const disk = new MemoryDisk((1 << 18) + 4096);
  disk.limits = { requestAlignment: 4096, memoryAlignment: 4096 };
  disk.latency = "async";
  return {
    context: testContext(),
    drivers: [memoryDriver({ d: disk }), windowDriver as DriverDefinition<unknown>],
    options: { driver: "raw", offset: 4096, file: { driver: "memory", disk: "d" } },
    size: 1 << 18,
    end: () => {},
  };
});
