/** Ways of starting: inherited sockets, symbolic links, TCP, a monitor on standard input. */
import assert from "node:assert/strict";
import { Daemon, ON_ORIGINAL, ROOT, runToEnd, subject } from "../harness/daemon.ts";
import { TestDir } from "../harness/dir.ts";
import { noisy } from "../harness/images.ts";
import { NbdPeer } from "../harness/nbd.ts";
import { QmpClient } from "../harness/qmp.ts";
import { serveArgs } from "../harness/serve.ts";
import { lacks, ok, which } from "../harness/tools.ts";

const program = () => subject().includes("/") ? subject() : which(subject())!;

Deno.test({
  name: "an inherited listening socket (addr.type=fd) serves NBD, and its file stays",
  ignore: lacks("interop/start", "python3", "qemu-img"),
  fn: async () => {
    await using dir = TestDir.make();
    noisy(dir.file("disk.raw"), 1048576);
    await using daemon = await Daemon.start({
      dir,
      sockets: { 9: "handed" },
      args: [
        "--blockdev",
        "file,node-name=f,filename=disk.raw",
        "--nbd-server",
        "addr.type=fd,addr.str=9",
        "--export",
        "nbd,id=e,node-name=f",
      ],
    });
    await ok("qemu-img", ["compare", "-f", "raw", dir.file("disk.raw"), daemon.uri("f", "handed")]);
    assert.equal((await daemon.stop()).status, 0);
    assert.ok(Deno.lstatSync(dir.file("handed")).isSocket);
  },
});

Deno.test({
  name: "an inherited socket serves QMP",
  ignore: lacks("interop/start", "python3"),
  fn: async () => {
    await using daemon = await Daemon.start({
      sockets: { 7: "handed" },
      qmp: false,
      args: ["--chardev", "socket,id=c,fd=7,server=on,wait=off", "--monitor", "c"],
    });
    await using qmp = await QmpClient.open(daemon.file("handed"));
    assert.deepEqual(await qmp.execute("query-block-exports"), []);
  },
});

const servers = {
  nbd: ["--nbd-server", "addr.type=fd,addr.str=7"],
  chardev: ["--chardev", "socket,id=c,fd=7,server=on,wait=off"],
  another: ["--chardev", "socket,id=d,fd=7,server=on,wait=off"],
};

for (
  const [first, second] of [
    [servers.nbd, servers.chardev],
    [servers.chardev, servers.nbd],
    [servers.chardev, servers.another],
  ] as const
) {
  Deno.test({
    name: `an inherited socket is one's only: ${first.join(" ")} before ${second.join(" ")}`,
    // The original shares it: who accepts first has the client.
    ignore: ON_ORIGINAL || lacks("interop/start", "python3"),
    fn: async () => {
      await using daemon = Daemon.spawn({
        sockets: { 7: "handed" },
        qmp: false,
        args: [...first, ...second],
      });
      const { status, stderr } = await daemon.end();
      const problem = "File descriptor '7' is in use by another chardev, export or NBD server";
      assert.deepEqual([status, stderr], [1, `qsd: ${second.join(" ")}: ${problem}\n`]);
    },
  });
}

Deno.test("messages carry the name that the program was called by", async () => {
  await using dir = TestDir.make();
  Deno.symlinkSync(program(), dir.file("some-name"));
  Deno.symlinkSync("some-name", dir.file("another"));
  const { status, stderr } = await runToEnd({
    dir,
    program: dir.file("another"),
    args: ["--blockdev", "nonsense"],
  });
  assert.equal(status, 1);
  assert.match(stderr, /^another: --blockdev nonsense: /);
});

Deno.test("it starts from another folder by a relative path through a link", async () => {
  await using dir = TestDir.make();
  Deno.mkdirSync(dir.file("sub"));
  Deno.symlinkSync(program(), dir.file("sub/linked"));
  await using daemon = await Daemon.start({ dir, program: "./sub/linked" });
  assert.deepEqual(await daemon.qmp.execute("query-block-exports"), []);
});

Deno.test({
  name: "it starts from a folder with a comma and a space in its path",
  ignore: subject() !== `${ROOT}/qsd`,
  fn: async () => {
    await using dir = TestDir.make();
    const home = dir.file("one, two");
    for (const folder of ["lib", "tools"]) Deno.mkdirSync(`${home}/${folder}`, { recursive: true });
    for (const name of ["qsd", "tools/permissions"]) {
      Deno.copyFileSync(`${ROOT}/${name}`, `${home}/${name}`);
    }
    // Not the daemon: what matters is that it runs, and may read what Workers read.
    Deno.writeTextFileSync(`${home}/lib/text`, "read");
    const read = "Deno.readTextFileSync(new URL('lib/text', import.meta.url))";
    Deno.writeTextFileSync(`${home}/main.ts`, `console.log(${read});\n`);
    const { status, stdout, stderr } = await runToEnd({ dir, program: `${home}/qsd`, args: [] });
    assert.deepEqual([status, stdout, stderr], [0, "read\n", ""]);
  },
});

Deno.test("TCP on 127.0.0.1 and on ::1 serves what the Unix socket serves", async () => {
  for (const host of ["127.0.0.1", "::1"]) {
    const free = Deno.listen({ port: 0, hostname: host });
    const { port } = free.addr;
    free.close();
    await using dir = TestDir.make();
    const bytes = noisy(dir.file("disk.raw"), 65536);
    await using _daemon = await Daemon.start({
      dir,
      args: [
        "--blockdev",
        "file,node-name=f,filename=disk.raw",
        "--nbd-server",
        `addr.type=inet,addr.host=${host},addr.port=${port}`,
        "--export",
        "nbd,id=e,node-name=f",
      ],
    });
    using peer = await NbdPeer.connect({ port, host });
    await peer.hello();
    assert.equal((await peer.go("f")).size, 65536);
    assert.deepEqual(await peer.read(512, 1024), bytes.slice(512, 1536));
  }
});

Deno.test("an abstract Unix socket serves NBD", {
  ignore: lacks("interop/start", "python3"),
}, async () => {
  await using dir = TestDir.make();
  noisy(dir.file("disk.raw"), 65536);
  const name = `qsd-${crypto.randomUUID()}`;
  await using _daemon = await Daemon.start({
    dir,
    args: [
      "--blockdev",
      "file,node-name=f,filename=disk.raw",
      "--nbd-server",
      `addr.type=unix,addr.path=${name},addr.abstract=on`,
      "--export",
      "nbd,id=e,node-name=f",
    ],
  });
  const greeting = await ok("/usr/bin/python3", [
    "-c",
    `import socket; s = socket.socket(socket.AF_UNIX); s.connect("\\0${name}"); print(s.recv(8).decode())`,
  ]);
  assert.equal(greeting, "NBDMAGIC\n");
});

Deno.test("a monitor on standard input answers, and its end does not end the daemon", async () => {
  await using dir = TestDir.make();
  const child = new Deno.Command(program(), {
    args: ["--chardev", "stdio,id=s", "--monitor", "s"],
    cwd: dir.path,
    stdin: "piped",
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const qmp = new QmpClient({ readable: child.stdout, writable: child.stdin });
  try {
    await qmp.negotiate();
    assert.deepEqual(await qmp.execute("query-block-exports"), []);
    assert.deepEqual([...qmp.endings], ["\r\n"]);
    await qmp.end();
    child.kill("SIGTERM");
    assert.equal((await child.status).code, 0);
  } finally {
    try {
      child.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await child.status;
    await qmp.close();
  }
});

Deno.test("sockets that are made are owned by their maker alone, as the umask says", async () => {
  await using dir = TestDir.make();
  noisy(dir.file("disk.raw"), 4096);
  await using _daemon = await Daemon.start({
    dir,
    args: serveArgs(),
    wrapper: ["sh", "-c", 'umask 077; exec "$0" "$@"'],
  });
  for (const name of ["nbd", "qmp"]) {
    assert.equal((Deno.statSync(dir.file(name)).mode ?? 0) & 0o077, 0, name);
  }
});

Deno.test("the original's misbehaviour is not copied", { ignore: ON_ORIGINAL }, async () => {
  await using daemon = await Daemon.start();
  for (const size of [-1, -512]) {
    const args = { driver: "null-co", "node-name": "n", size };
    await daemon.qmp.refused("blockdev-add", args);
  }
  await daemon.qmp.command({ execute: "blockdev-reopen", arguments: { options: [] } });
  assert.deepEqual(await daemon.qmp.execute("query-named-block-nodes"), []);
  await daemon.qmp.send('{"execute":"query-block-exports","id":1e400}\n');
  assert.match(JSON.stringify(await daemon.qmp.reply()), /return|error/);
});
