/**
 * `deno task dev`: the main job, to be tried at once. Makes two small demo images, exports them read-write over
 * NBD, one on a Unix socket and one on 127.0.0.1 (a daemon has one NBD server), each with a QMP socket, and prints
 * commands to try. Ctrl-C stops both and removes everything.
 */
import { say } from "./say.ts";
import { root } from "./steps.ts";

const megabytes = 64;

/** A demo image: a line of text at the start of each MiB, the rest of it a hole. */
async function makeImage(path: string): Promise<void> {
  using file = await Deno.open(path, { write: true, createNew: true });
  await file.truncate(megabytes << 20);
  const encoder = new TextEncoder();
  for (let at = 0; at < megabytes; at++) {
    await file.seek(at << 20, Deno.SeekMode.Start);
    const bytes = encoder.encode(`qsd demo image, MiB ${at} of ${megabytes}\n`);
    for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
  }
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Options of a daemon that exports `image` as "demo" on `address`. */
function options(image: string, address: string, qmp: string): string[] {
  return [
    "--blockdev",
    `driver=file,node-name=file0,filename=${image}`,
    "--blockdev",
    "driver=raw,node-name=disk0,file=file0",
    "--nbd-server",
    address,
    "--export",
    "type=nbd,id=export0,node-name=disk0,name=demo,writable=on",
    "--chardev",
    `socket,id=qmp0,path=${qmp},server=on,wait=off`,
    "--monitor",
    "chardev=qmp0",
  ];
}

/** A daemon, in a process group of its own so that Ctrl-C reaches this program alone. */
async function start(args: readonly string[], dir: string, name: string) {
  const pidfile = `${dir}/${name}.pid`;
  const child = new Deno.Command(`${root}qsd`, {
    args: [...args, "--pidfile", pidfile],
    env: { QSD_DENO: Deno.execPath() },
    stdin: "null",
    detached: true,
  }).spawn();
  let over: Deno.CommandStatus | undefined;
  const ended = child.status.then((status) => over = status);
  // The pid file appears when the daemon is ready.
  while (!await Deno.stat(pidfile).then((stat) => stat.size > 0, () => false)) {
    if (over !== undefined) throw new Error(`qsd did not start (exit status ${over.code})`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const stop = async () => {
    if (over === undefined) child.kill("SIGTERM");
    await ended;
  };
  return { ended, stop };
}

function explain(dir: string, port: number): void {
  const unix = `nbd+unix:///demo?socket=${dir}/nbd.sock`;
  const tcp = `nbd://127.0.0.1:${port}/demo`;
  say(`
qsd exports two demo images of ${megabytes} MiB, read-write, as "demo":
  ${unix}
  ${tcp}

Try, in another terminal:
  qemu-img info '${unix}'
  qemu-img convert -p -O qcow2 '${tcp}' ${dir}/copy.qcow2
  nbdcopy --progress '${unix}' ${dir}/copy.raw
  qemu-io -f raw -c 'read -v 1M 48' '${unix}'
  qemu-io -f raw -c 'write -P 0x51 2M 64k' -c 'read -P 0x51 2M 64k' '${tcp}'

QMP of the one on the Unix socket (the other has ${dir}/qmp-tcp.sock):
  ${root}qsd qmp ${dir}/qmp.sock query-block-exports
  ${root}qsd status --watch ${dir}/qmp.sock
  ${root}qsd --help

Ctrl-C stops and removes everything under ${dir}.`);
}

async function main(): Promise<void> {
  // The signal may come at any time from here on; the finally below always runs.
  let interrupt: (signal: string) => void = () => {};
  const interrupted = new Promise<string>((resolve) => interrupt = resolve);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    Deno.addSignalListener(signal, () => interrupt(signal));
  }
  const dir = await Deno.makeTempDir({ prefix: "qsd-dev-" });
  const daemons: Awaited<ReturnType<typeof start>>[] = [];
  try {
    const port = freePort();
    await makeImage(`${dir}/demo.img`);
    await makeImage(`${dir}/demo-tcp.img`);
    const unix = options(
      `${dir}/demo.img`,
      `addr.type=unix,addr.path=${dir}/nbd.sock`,
      `${dir}/qmp.sock`,
    );
    const inet = `addr.type=inet,addr.host=127.0.0.1,addr.port=${port}`;
    const tcp = options(`${dir}/demo-tcp.img`, inet, `${dir}/qmp-tcp.sock`);
    daemons.push(await start(unix, dir, "unix"));
    daemons.push(await start(tcp, dir, "tcp"));
    explain(dir, port);
    const ended = Promise.race(daemons.map((daemon) => daemon.ended)).then(() => "a daemon's end");
    say(`\nStopping (${await Promise.race([interrupted, ended])})`);
  } finally {
    await Promise.all(daemons.map((daemon) => daemon.stop()));
    await Deno.remove(dir, { recursive: true });
  }
  say("Stopped; everything was removed.");
}

await main();
Deno.exit(0);
