/** The clients for people, and --config: qsd qmp, qsd status, x-qsd-reload. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, ORIGINAL, runToEnd, subject } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { lacks, run } from "../harness/tools.ts";

/** Runs a client on a monitor `control` that no other client holds. */
const client = (dir: TestDir, ...args: string[]) => run(subject(), args, { cwd: dir.path });
const control = ["--chardev", "socket,id=c,path=control,server=on,wait=off", "--monitor", "c"];

Deno.test({
  name: "qsd qmp runs one command, typed by the schema; an error goes to stderr with status 1",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 1048576);
    await using _daemon = await Daemon.start({ dir, qmp: false, args: control });
    const add =
      "blockdev-add driver=raw node-name=n size=64K file.driver=file file.filename=disk.raw";
    const added = await client(dir, "qmp", "control", ...add.split(" "));
    assert.deepEqual([added.status, added.stdout, added.stderr], [0, "{}\n", ""]);
    const nodes = JSON.parse(
      (await client(dir, "qmp", "control", "query-named-block-nodes")).stdout,
    );
    assert.equal(nodes[0].image["virtual-size"], 65536);
    const refused = await client(dir, "qmp", "control", "blockdev-del", '{"node-name": "x"}');
    assert.deepEqual([refused.status, refused.stdout], [1, ""]);
    assert.match(refused.stderr, /^qsd qmp: Failed to find node with node-name='x'\n$/);
    assert.match((await client(dir, "qmp", "nosuch", "query-jobs")).stderr, /nosuch.*No such file/);
  },
});

Deno.test({
  name: "qsd status shows nodes as a tree and exports, of qsd and of the original",
  ignore: ON_ORIGINAL || lacks("interop/client", ORIGINAL),
  fn: async () => {
    for (const program of [subject(), ORIGINAL]) {
      await using dir = TestDir.make();
      noisy(dir.file("disk.raw"), 1048576);
      await using _daemon = await Daemon.start({
        dir,
        program,
        qmp: false,
        args: [
          "--blockdev",
          "raw,node-name=disk,read-only=on,file.driver=file,file.filename=disk.raw,file.node-name=f",
          "--nbd-server",
          "addr.type=unix,addr.path=nbd",
          "--export",
          "nbd,id=e,node-name=disk",
          ...control,
        ],
      });
      const { status, stdout } = await client(dir, "status", "control");
      assert.equal(status, 0);
      assert.match(stdout, /Nodes\n {2}disk +raw +1 MiB +read-only\n {2}└─ file: f +file +1 MiB/);
      assert.match(stdout, /Exports\n(.*\n)? {2}e +nbd/);
      const { stdout: json } = await client(dir, "status", "control", "--json");
      assert.equal(JSON.parse(json).exports[0].id, "e");
    }
  },
});

const config = `
- blockdev: {driver: file, node-name: disk, filename: disk.raw}
- chardev: {backend: socket, id: c, path: control, server: on, wait: off}
- monitor: {chardev: c}
- nbd-server: {addr: {type: unix, path: nbd}}
- export: {type: nbd, id: e, node-name: disk}
`;

/** A daemon whose configuration file qsd.yaml holds `text`. */
async function startConfigured(dir: TestDir, text: string): Promise<Daemon> {
  await Deno.writeTextFile(dir.file("qsd.yaml"), text);
  // Deno finds the parser in its cache, as a developer's does.
  const cache = Deno.env.get("DENO_DIR");
  const env = cache === undefined ? { HOME: Deno.env.get("HOME") ?? "/" } : { DENO_DIR: cache };
  return await Daemon.start({ dir, qmp: false, args: ["--config", "qsd.yaml"], env });
}

Deno.test({
  name: "--config defines, x-qsd-reload changes what differs or, when it cannot, nothing",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 1048576);
    await using _daemon = await startConfigured(dir, config);
    const reload = async (text: string) => {
      await Deno.writeTextFile(dir.file("qsd.yaml"), text);
      return await client(dir, "qmp", "control", "x-qsd-reload");
    };
    const exports = async () =>
      JSON.parse((await client(dir, "qmp", "control", "query-block-exports")).stdout)
        .map((one: { id: string }) => one.id).sort();
    const more = `${config}- export: {type: nbd, id: e2, name: second, node-name: disk}\n`;
    assert.deepEqual(JSON.parse((await reload(more)).stdout), {
      added: ["export:e2"],
      removed: [],
      reopened: [],
      replaced: [],
      unchanged: 5,
    });
    // The first export goes, then the new one fails: the first is there again.
    const bad = more.replace(/^- export.*id: e,.*\n/m, "") +
      "- export: {type: nbd, id: e3, node-name: nosuch}\n";
    const { status, stderr } = await reload(bad);
    assert.equal(status, 1);
    assert.match(stderr, /qsd.yaml:7: export:e3: .*nosuch.* \(nothing was changed\)/);
    assert.deepEqual(await exports(), ["e", "e2"]);
    assert.match(
      (await reload(config.replace("path: control", "path: x"))).stderr,
      /qsd.yaml:4: monitor:c would have to go, but it is what asks/,
    );
    assert.deepEqual(JSON.parse((await reload(config)).stdout).removed, ["export:e2"]);
    assert.deepEqual(await exports(), ["e"]);
  },
});

Deno.test({
  name: "what is no longer in the configuration is no longer so, discard too",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    const text = (more: string) =>
      `- chardev: {backend: socket, id: c, path: control, server: on, wait: off}
- monitor: {chardev: c}
- blockdev: {driver: null-co, node-name: n${more}}
`;
    await using _daemon = await startConfigured(dir, text(", discard: unmap"));
    await Deno.writeTextFile(dir.file("qsd.yaml"), text(""));
    const { stdout } = await client(dir, "qmp", "control", "x-qsd-reload");
    assert.deepEqual(JSON.parse(stdout).reopened, ["blockdev:n"]);
    const node = { driver: "null-co", "node-name": "n", "detect-zeroes": "unmap" };
    const options = JSON.stringify({ options: [node] });
    const { stderr } = await client(dir, "qmp", "control", "blockdev-reopen", options);
    assert.match(stderr, /not allowed without setting discard operation to unmap/);
  },
});

Deno.test({
  name: "x-qsd-reload adds and removes monitors and their devices, but for the one that asks",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    const own = "- chardev: {backend: socket, id: c, path: control, server: on, wait: off}\n" +
      "- monitor: {chardev: c}\n";
    await using _daemon = await startConfigured(dir, own);
    const reload = async (text: string) => {
      await Deno.writeTextFile(dir.file("qsd.yaml"), text);
      const { stdout, stderr } = await client(dir, "qmp", "control", "x-qsd-reload");
      return stderr === "" ? JSON.parse(stdout) : stderr;
    };
    const answers = async (socket: string) =>
      (await client(dir, "qmp", socket, "query-version")).status === 0;
    // A server that waits for clients does not make the reload wait.
    const second = "- chardev: {backend: socket, id: d, path: second, server: on}\n" +
      "- monitor: {id: m, chardev: d, pretty: true}\n";
    assert.deepEqual((await reload(own + second)).added, ["chardev:d", "monitor:m"]);
    assert.equal(await answers("second"), true);
    const moved = second.replace("path: second", "path: third");
    assert.deepEqual((await reload(own + moved)).replaced, ["chardev:d", "monitor:m"]);
    assert.equal(await answers("second"), false);
    assert.equal(await answers("third"), true);
    // The other monitor's devices are there again when a later step fails.
    const bad = `${own}- blockdev: {driver: file, node-name: f, filename: nosuch}\n`;
    assert.match(await reload(bad), /nosuch.*\(nothing was changed\)/);
    assert.equal(await answers("third"), true);
    assert.match(await reload(moved), /monitor:c would have to go, but it is what asks/);
    assert.deepEqual((await reload(own)).removed, ["chardev:d", "monitor:m"]);
    assert.equal(await answers("third"), false);
    assert.deepEqual(await reload(own), {
      added: [],
      removed: [],
      reopened: [],
      replaced: [],
      unchanged: 2,
    });
  },
});

Deno.test({
  name: "a mistake in the configuration file is told with file and line, and nothing is served",
  ignore: ON_ORIGINAL,
  fn: async () => {
    await using dir = TestDir.make();
    await Deno.writeTextFile(
      dir.file("qsd.yaml"),
      "- blockdev:\n    driver: file\n    filname: x\n",
    );
    const cache = Deno.env.get("DENO_DIR");
    const env = cache === undefined ? { HOME: Deno.env.get("HOME") ?? "/" } : { DENO_DIR: cache };
    const { status, stderr } = await runToEnd({ dir, args: ["--config", "qsd.yaml"], env });
    assert.equal(status, 1);
    assert.match(
      stderr,
      /^qsd: --config qsd.yaml: qsd.yaml:\d: blockdev: Parameter 'filename' is missing\n$/,
    );
  },
});
