/**
 * Smoke tests of the load generator against the servers that are installed. It must notice wrong data,
 * errors and lost replies: a generator that does not is worse than none.
 */
import assert from "node:assert/strict";
import { runLoad } from "./engine.ts";
import { parseCommandLine } from "./generator.ts";
import { LinuxSys } from "../../lib/sys/mod.ts";
import {
  DEFAULTS,
  fillPattern,
  matchesPattern,
  Random,
  type Result,
  type Workload,
} from "./workload.ts";

const SIZE = 4 << 20;

function has(program: string): boolean {
  const path = Deno.env.get("PATH") ?? "";
  return path.split(":").some((directory) => {
    try {
      return Deno.statSync(`${directory}/${program}`).isFile;
    } catch {
      return false;
    }
  });
}

/** Runs `use` with a server of `program` on a Unix socket; `{}` in the arguments is its directory. */
async function withServer(
  program: string,
  args: string[],
  use: (socket: string, load: (change: Partial<Workload>) => Result) => void,
): Promise<void> {
  const directory = await Deno.makeTempDir();
  const socket = `${directory}/s`;
  await Deno.writeFile(`${directory}/image`, new Uint8Array(SIZE));
  const child = new Deno.Command(program, {
    args: args.map((arg) => arg.replaceAll("{}", directory)),
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
  const sys = new LinuxSys();
  try {
    const deadline = performance.now() + 10_000;
    while (!await Deno.stat(socket).then(() => true, () => false)) {
      if (performance.now() > deadline) throw new Error(`${program} makes no socket`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    use(socket, (change) => runLoad(sys, { ...DEFAULTS, target: { path: socket }, ...change }));
  } finally {
    sys.dispose();
    child.kill("SIGTERM");
    await child.status;
    await Deno.remove(directory, { recursive: true });
  }
}

function originalArguments(writable: boolean): string[] {
  return [
    "--blockdev",
    "driver=file,node-name=f,filename={}/image",
    "--nbd-server",
    "addr.type=unix,addr.path={}/s",
    "--export",
    `type=nbd,id=e,node-name=f,name=,writable=${writable ? "on" : "off"}`,
  ];
}

for (
  const [program, args] of [
    ["qemu-storage-daemon", originalArguments(true)],
    ["nbdkit", ["--foreground", "--unix", "{}/s", "file", "{}/image"]],
  ] as const
) {
  Deno.test({
    name: `what is written through ${program} is read back and verified`,
    ignore: !has(program),
    fn: () =>
      withServer(program, [...args], (_, load) => {
        const fill = { blockSize: 65536, depth: 8, verify: true, count: SIZE / 65536, seed: 3 };
        const written = load({ ...fill, pattern: "write" });
        assert.deepEqual([written.requests, written.errors], [SIZE / 65536, {}]);
        for (const structured of [false, true]) {
          const read = {
            pattern: "randread",
            verify: true,
            count: 500,
            seed: 3,
            structured,
          } as const;
          assert.equal(load(read).requests, 500);
          assert.equal(load({ ...read, blockSize: 1 << 20, depth: 2, count: 20 }).requests, 20);
          const mixed = load({ ...read, pattern: "randrw", connections: 3, latency: true });
          assert.equal(mixed.requests, 500);
          assert.ok(mixed.latency!.p50 > 0 && mixed.latency!.max >= mixed.latency!.p99);
        }
        const timed = load({ seconds: 0.05, warmup: 0.01, cpuOf: Deno.pid });
        assert.ok(timed.requests > 0 && timed.seconds >= 0.05 && timed.serverCpuUs !== null);
        // Last: nbdkit 1.32 may end when a client leaves with replies on their way.
        assert.throws(() => load({ ...fill, pattern: "read", seed: 4 }), /wrong data/);
      }),
  });
}

Deno.test({
  name: "errors are counted by their number, in simple and in structured replies",
  ignore: !has("qemu-storage-daemon"),
  fn: () =>
    withServer("qemu-storage-daemon", originalArguments(false), (_, load) => {
      for (const structured of [false, true]) {
        const { errors } = load({ pattern: "randwrite", count: 40, structured });
        assert.deepEqual(errors, { 22: 40 }); // it answers EINVAL
      }
      assert.throws(() => load({ exportName: "none", count: 1 }), /export "none" is refused/);
    }),
});

Deno.test("the null server answers everything, and more than one request a call", async () => {
  const script = new URL("null_server.ts", import.meta.url).pathname;
  await withServer(Deno.execPath(), ["run", "-A", script, "{}/s"], (_, load) => {
    const result = load({ pattern: "randrw", count: 20_000 });
    assert.equal(result.requests, 20_000);
    assert.ok(result.callsPerRequest < 1);
  });
});

Deno.test("the verified pattern does not depend on where a request begins, but on seed and offset", () => {
  const whole = new Uint8Array(64);
  fillPattern(whole, 2 ** 40 + 1, 7);
  assert.ok(matchesPattern(whole.subarray(13, 40), 2 ** 40 + 14, 7));
  assert.ok(!matchesPattern(whole, 2 ** 40 + 1, 8));
  assert.ok(!matchesPattern(whole, 1, 7));
});

Deno.test("a seed fixes the offsets, and they reach the whole range", () => {
  const draw = (seed: number) => {
    const random = new Random(seed);
    return Array.from({ length: 2000 }, () => random.below(100));
  };
  assert.deepEqual(draw(5), draw(5));
  assert.notDeepEqual(draw(5), draw(6));
  assert.equal(new Set(draw(5)).size, 100);
});

Deno.test("the command line is checked", () => {
  const { work } = parseCommandLine(["--socket", "/s", "--pattern", "rw", "--bs", "512"]);
  assert.deepEqual([work.pattern, work.blockSize, work.depth], ["rw", 512, 32]);
  assert.throws(() => parseCommandLine([]), /--socket/);
  assert.throws(() => parseCommandLine(["--socket", "/s", "--depth", "0"]), /--depth/);
  assert.throws(() => parseCommandLine(["--socket", "/s", "--pattern", "x"]), /--pattern/);
});
