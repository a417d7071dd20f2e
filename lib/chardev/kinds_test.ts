import assert from "node:assert/strict";
import { IoVec } from "../base/mod.ts";
import { AF, O, SOCK } from "../sys/mod.ts";
import { lines, negotiate, type Setup, withSetup, write } from "./setup_test.ts";

const greeting = /^\{"QMP": /;
const unix = (path: string) => Deno.connect({ transport: "unix", path });
const answer = '{"return": {}}';

/** One line, and not a byte more. */
async function line(from: Deno.FsFile): Promise<string> {
  let text = "";
  const byte = new Uint8Array(1);
  while (!text.endsWith("\r\n") && await from.read(byte) !== null) {
    text += String.fromCharCode(byte[0]!);
  }
  return text.slice(0, -2);
}

async function until<T>(look: () => T | undefined): Promise<T> {
  for (;;) {
    const found = look();
    if (found !== undefined) return found;
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Reads text from a ring buffer until it holds `part`. */
async function fromRingbuf({ commands }: Setup, device: string, part: string): Promise<string> {
  let text = "";
  await until(() => {
    text += commands["ringbuf-read"]({ device, size: 65536 });
    return text.includes(part) || undefined;
  });
  return text;
}

Deno.test("a monitor on a ring buffer leaves its words in it, and in its log", () =>
  withSetup(async (setup) => {
    await setup.add(`ringbuf,id=rb,size=64k,logfile=${setup.dir}/log`);
    setup.monitor("rb");
    const text = await fromRingbuf(setup, "rb", "\r\n");
    assert.match(text, greeting);
    assert.equal(await Deno.readTextFile(`${setup.dir}/log`), text);
  }));

Deno.test("a ring buffer beyond any use is refused, and none outgrows its size", () =>
  withSetup(async ({ commands }) => {
    const add = (size: number) =>
      commands["chardev-add"]({ id: "rb", backend: { type: "ringbuf", data: { size } } });
    await assert.rejects(async () => await add(2 ** 40), /size of ringbuf chardev must be at most/);
    await add(8);
    for (let i = 0; i < 100; i++) {
      await commands["ringbuf-write"]({ device: "rb", data: `${i}`.repeat(i) });
    }
    assert.equal(await commands["ringbuf-read"]({ device: "rb", size: 100 }), "99999999");
  }));

Deno.test("a log gets what is sent, not what arrives, and is added to with logappend", () =>
  withSetup(async ({ add, monitor, dir }) => {
    await Deno.writeTextFile(`${dir}/log`, "before\n");
    await add(`socket,id=c,path=${dir}/s,server=on,wait=off,logfile=${dir}/log,logappend=on`);
    monitor("c");
    const client = await unix(`${dir}/s`);
    const [hello] = await lines(client, 1);
    await write(client, negotiate);
    assert.deepEqual(await lines(client, 1), [answer]);
    assert.equal(await Deno.readTextFile(`${dir}/log`), `before\n${hello}\r\n${answer}\r\n`);
    client.close();
  }));

Deno.test("with logtimestamp each line of a log begins with its time", () =>
  withSetup(async ({ add, chardevs, dir }) => {
    await add(`ringbuf,id=rb,logfile=${dir}/own,logtimestamp=on`);
    const nothing = () => {};
    const user = { opened: nothing, received: nothing, ended: nothing, closed: nothing };
    const channel = chardevs.attach("rb", { ...user, drained: nothing });
    for (const text of ["one\ntw", "o\n", "\n", "three"]) {
      channel.send(new TextEncoder().encode(text));
    }
    channel.detach();
    const at = "\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{6}Z";
    assert.match(
      await Deno.readTextFile(`${dir}/own`),
      new RegExp(`^${at} one\n${at} two\n${at} \n${at} three$`),
    );
  }));

Deno.test("a pty's other side is found by the link that was asked for, until the device goes", () =>
  withSetup(async ({ add, commands, dir }) => {
    const { pty } = await add(`pty,id=t,path=${dir}/link`);
    assert.equal(await Deno.readLink(`${dir}/link`), pty);
    await assert.rejects(add(`pty,id=t2,path=${dir}/link`), {
      message: `Failed to create PTY symlink '${dir}/link': File exists`,
    });
    await commands["chardev-remove"]({ id: "t" });
    await assert.rejects(Deno.readLink(`${dir}/link`), Deno.errors.NotFound);
  }));

Deno.test("a pair of pipes carries a monitor", () =>
  withSetup(async ({ add, monitor, dir }) => {
    const paths = [`${dir}/p.in`, `${dir}/p.out`];
    await new Deno.Command("mkfifo", { args: paths }).output();
    await add(`pipe,id=p,path=${dir}/p`);
    const [to, from] = [
      await Deno.open(paths[0]!, { write: true }),
      await Deno.open(paths[1]!, { read: true }),
    ];
    monitor("p");
    const connection = from as unknown as Deno.Conn;
    assert.match((await lines(connection, 1))[0]!, greeting);
    await to.write(new TextEncoder().encode(negotiate));
    assert.deepEqual(await lines(connection, 1), [answer]);
    to.close();
    from.close();
  }));

Deno.test("a file is a monitor's script, and another gets the replies", () =>
  withSetup(async ({ commands, monitor, dir }) => {
    await Deno.writeTextFile(`${dir}/in`, negotiate + '{"execute":"query-version"}');
    const data = { in: `${dir}/in`, out: `${dir}/out` };
    await commands["chardev-add"]({ id: "f", backend: { type: "file", data } });
    monitor("f");
    const text = await until(() => {
      const written = Deno.readTextFileSync(`${dir}/out`);
      return written.split("\r\n").length === 4 ? written : undefined;
    });
    assert.match(text, /"QMP".*\r\n\{"return": \{\}\}\r\n\{"return": \{"qemu"/);
  }));

Deno.test("whoever opens a pty's other side gets a greeting, one after the other", () =>
  withSetup(async ({ add, monitor, context }) => {
    const { pty } = await add("pty,id=t");
    assert.match(pty!, /^\/dev\/pts\/\d+$/);
    monitor("t");
    for (let served = 0; served < 2;) {
      const other = await Deno.open(pty!, { read: true, write: true });
      await other.write(new TextEncoder().encode(negotiate));
      // Whoever comes before the last one's leaving was noticed gets an error: negotiated already.
      const first = await line(other);
      if (greeting.test(first)) {
        served++;
        // Nothing is echoed, nor is a newline changed: the terminal is raw.
        assert.equal(await line(other), answer);
      } else {
        assert.match(first, /already complete/);
        await new Promise((resolve) => setTimeout(resolve, 5));
      }
      other.close();
    }
    assert.ok(context.loop.counters.turns < 100_000, "an idle pty does not keep the loop busy");
  }));

Deno.test("a serial line carries a monitor, raw and at full speed, and takes a break", () =>
  withSetup(async ({ add, monitor, chardevs, context: { sys } }) => {
    const memory = sys.allocate(65536);
    const far = sys.open("/dev/ptmx", O.RDWR | O.NOCTTY | O.CLOEXEC | O.NONBLOCK);
    assert.ok(sys.ioctl(far, 0x40045431, /* TIOCSPTLCK */ memory.address) >= 0);
    assert.ok(sys.ioctl(far, 0x80045430, /* TIOCGPTN */ memory.address) >= 0);
    await add(`serial,id=s,path=/dev/pts/${memory.view.getInt32(0, true)}`);
    monitor("s");
    assert.ok(sys.ioctl(far, 0x5401, /* TCGETS */ memory.address) >= 0);
    assert.equal(memory.view.getUint32(8, true) & 0o10017, 0o10002, "115200 baud");
    await chardevs.sendBreak("s");
    const text = new TextEncoder().encode(negotiate);
    memory.bytes.set(text);
    sys.write(far, memory.address, text.length);
    let got = "";
    await until(() => {
      const rc = sys.read(far, memory.address, 65536);
      if (rc > 0) got += new TextDecoder().decode(memory.bytes.subarray(0, rc));
      return got.endsWith(`${answer}\r\n`) || undefined;
    });
    assert.match(got, greeting);
    sys.close(far);
    memory.unmap();
  }));

Deno.test("two monitors share a device: both talk, Ctrl-A c chooses who listens", () =>
  withSetup(async ({ add, monitor, dir, chardevs }) => {
    await add(`socket,id=m,path=${dir}/s,server=on,wait=off,mux=on`);
    assert.throws(() => chardevs.remove("m-base"), { message: "Chardev 'm-base' is busy" });
    for (let i = 0; i < 4; i++) monitor("m");
    assert.throws(() => monitor("m"), { message: "Device 'm' is in use" });
    assert.throws(() => chardevs.remove("m"), { message: "Chardev 'm' is busy" });
    const client = await unix(`${dir}/s`);
    assert.equal((await lines(client, 4)).filter((line) => greeting.test(line)).length, 4);
    await write(client, negotiate);
    assert.deepEqual(await lines(client, 1), [answer]);
    await write(
      client,
      '\x01c{"execute":"query-version"}\x01c\x01c\x01c{"execute":"zz","id":"\x01',
    );
    assert.match((await lines(client, 1))[0]!, /Expecting capabilities negotiation/);
    await write(client, '\x01"}');
    assert.match((await lines(client, 1))[0]!, /JSON parse error|has not been found/);
    await write(client, "\x01h");
    let help = "";
    const piece = new Uint8Array(4096);
    while (!help.includes("C-a C-a")) {
      help += new TextDecoder().decode(piece.subarray(0, (await client.read(piece))!));
    }
    client.close();
  }));

Deno.test("a multiplexer's client that half-closes gets its replies, then the end", () =>
  withSetup(async ({ add, monitor, dir }) => {
    await add(`socket,id=m,path=${dir}/s,server=on,wait=off,mux=on`);
    monitor("m");
    monitor("m");
    const client = await unix(`${dir}/s`);
    await write(client, negotiate);
    await client.closeWrite();
    assert.equal((await lines(client, 100)).length, 3);
    client.close();
  }));

Deno.test("datagrams carry a monitor, which greets whoever speaks first", () =>
  withSetup(async ({ add, monitor, context: { sys } }) => {
    const peer = sys.socket(AF.INET, SOCK.DGRAM);
    const client = sys.socket(AF.INET, SOCK.DGRAM);
    sys.bind(client, { family: "inet", host: "127.0.0.1", port: 0 });
    sys.bind(peer, { family: "inet", host: "127.0.0.1", port: 0 });
    const port = (fd: number) => (sys.getsockname(fd) as { port: number }).port;
    const local = port(peer);
    sys.close(peer);
    await add(
      `udp,id=u,host=127.0.0.1,port=${port(client)},localaddr=127.0.0.1,localport=${local}`,
    );
    monitor("u");
    sys.connect(client, { family: "inet", host: "127.0.0.1", port: local });
    const memory = sys.allocate(65536);
    const text = new TextEncoder().encode(negotiate);
    memory.bytes.set(text);
    assert.equal(sys.send(client, memory.address, text.length, 0), text.length);
    let got = "";
    await until(() => {
      const rc = sys.recv(client, memory.address, 65536, 0);
      if (rc > 0) got += new TextDecoder().decode(memory.bytes.subarray(0, rc));
      return got.endsWith(`${answer}\r\n`) || undefined;
    });
    assert.match(got, greeting);
    memory.unmap();
    sys.close(client);
  }));

Deno.test("a telnet server offers 8 bits both ways, then greets", () =>
  withSetup(async ({ add, monitor, chardevs }) => {
    await add("socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,telnet=on");
    monitor("t");
    const { filename } = chardevs.list()[0]!;
    const port = Number(/^disconnected:telnet:127\.0\.0\.1:(\d+),server=on$/.exec(filename)![1]);
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    const offer = new Uint8Array(12);
    for (let at = 0; at < 12;) at += (await client.read(offer.subarray(at)))!;
    const wanted = [255, 251, 1, 255, 251, 3, 255, 251, 0, 255, 253, 0];
    assert.deepEqual([...offer], wanted);
    assert.match((await lines(client, 1))[0]!, greeting);
    await client.write(Uint8Array.of(255, 253, 0));
    await write(client, negotiate);
    assert.deepEqual(await lines(client, 1), [answer]);
    client.close();
  }));

/** Of which file descriptor `name` is; undefined: it is closed by now. */
function fileOf(name: string): string | undefined {
  try {
    const { dev, ino } = Deno.statSync(`/proc/self/fd/${name}`);
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

Deno.test("descriptors that a client sends along are not kept", () =>
  withSetup(async ({ add, monitor, dir, context: { sys } }) => {
    await add(`socket,id=c,path=${dir}/s,server=on,wait=off`);
    monitor("c");
    const fd = sys.socket(AF.UNIX, SOCK.STREAM);
    assert.equal(sys.connect(fd, { family: "unix", path: `${dir}/s` }), 0);
    const memory = sys.allocate(65536);
    // Of this file alone: other tests may run in this process.
    using sent = Deno.openSync(`${dir}/sent`, { write: true, create: true });
    const { dev, ino } = sent.statSync();
    const count = () =>
      [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => fileOf(name) === `${dev}:${ino}`)
        .length;
    const own = [...Deno.readDirSync("/proc/self/fd")].find(({ name }) =>
      fileOf(name) === `${dev}:${ino}`
    )!;
    const replies = async (wanted: number) => {
      for (let seen = 0; seen < wanted;) {
        const rc = sys.recv(fd, memory.address, 65536, 0);
        if (rc <= 0) await new Promise((resolve) => setTimeout(resolve, 1));
        else seen += memory.bytes.subarray(0, rc).filter((byte) => byte === 10).length;
      }
    };
    await replies(1);
    for (let i = 0; i < 20; i++) {
      const text = new TextEncoder().encode(negotiate);
      memory.bytes.set(text);
      assert.ok(
        sys.sendmsg(fd, IoVec.of(memory.address, text.length), 0, Array(3).fill(Number(own.name))) >
          0,
      );
      await replies(1);
    }
    assert.equal(count(), 1);
    memory.unmap();
    sys.close(fd);
  }));

Deno.test("devices made and removed again and again leave no descriptor behind", () =>
  withSetup(async ({ commands, dir }) => {
    const common = {};
    const address = (path: string) => ({ type: "unix" as const, data: { path } });
    const round = async () => {
      const add = commands["chardev-add"];
      const log = { logfile: `${dir}/log` };
      await add({ id: "a", backend: { type: "null", data: log } });
      await add({ id: "b", backend: { type: "pty", data: common } });
      await add({ id: "c", backend: { type: "file", data: { out: `${dir}/out` } } });
      await add({ id: "d", backend: { type: "socket", data: { addr: address(`${dir}/s`) } } });
      await add({ id: "e", backend: { type: "ringbuf", data: common } });
      await add({ id: "f", backend: { type: "mux", data: { chardev: "e" } } });
      const missing = { in: "/nonexist", out: `${dir}/o`, ...log };
      const refused = add({ id: "g", backend: { type: "file", data: missing } });
      await assert.rejects(async () => await refused, /Could not open '\/nonexist'/);
      for (const id of "fedcba") await commands["chardev-remove"]({ id });
    };
    await round();
    const count = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = count();
    for (let i = 0; i < 10; i++) await round();
    assert.equal(count(), before);
  }));
