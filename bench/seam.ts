/** What the block core itself costs: nanoseconds a request from a backend to a driver that does nothing. */
import { IoVec } from "../lib/base/mod.ts";
import {
  BlockGraph,
  defineDriver,
  type DriverDefinition,
  driverRegistry,
  type IoInstance,
  Perm,
} from "../lib/block/mod.ts";
import { testContext, windowDriver } from "../lib/block/testing.ts";
import { struct } from "../lib/qmp/schema/core.ts";

class Nothing implements IoInstance {
  readonly kind = "io";
  readonly size = 1 << 30;
  reads = 0;
  read(_offset: number, _iov: IoVec): void {
    this.reads++;
  }
  write(_offset: number, _iov: IoVec): void {
    this.reads++;
  }
  close(): void {}
}
const nothing = defineDriver({
  name: "nothing",
  kind: "protocol",
  options: struct("Nothing", {}),
  open: () => new Nothing(),
});

const graph = new BlockGraph({
  context: testContext(),
  drivers: driverRegistry([nothing, windowDriver] as readonly DriverDefinition<unknown>[]),
  events: { emit: () => {} },
});
await graph.add({ driver: "raw", "node-name": "r", file: { driver: "nothing" } }, {
  monitorOwned: true,
});
const disk = await graph.backend("r", {
  describe: "bench",
  needed: Perm.consistentRead | Perm.write,
  shared: Perm.all,
});
const iov = IoVec.of(0x10000, 4096);
const COUNT = 5_000_000;

function slice(act: (offset: number) => unknown): number {
  const start = performance.now();
  for (let i = 0; i < COUNT; i++) act((i & 0xffff) * 4096);
  return (performance.now() - start) * 1e6 / COUNT;
}
function median(act: (offset: number) => unknown): string {
  const runs = Array.from({ length: 7 }, () => slice(act)).sort((a, b) => a - b);
  return runs[3]!.toFixed(1);
}
const read = (offset: number) => disk.read(offset, iov);
const write = (offset: number) => disk.write(offset, iov);
// deno-lint-ignore no-console
console.log(`raw -> nothing: read ${median(read)} ns, write ${median(write)} ns a request`);
