import assert from "node:assert/strict";
import { lines, negotiate, withSetup, write } from "./setup_test.ts";

Deno.test("a monitor on a Unix server socket: one client at a time, the next waits for its turn", () =>
  withSetup(async ({ add, monitor, dir, chardevs }) => {
    const path = `${dir}/s`;
    await add(`socket,id=c,path=${path},server=on,wait=off`);
    monitor("c");
    assert.equal(chardevs.list()[0]!.filename, `disconnected:unix:${path},server=on`);
    const first = await Deno.connect({ transport: "unix", path });
    assert.match((await lines(first, 1))[0]!, /^\{"QMP": /);
    const second = await Deno.connect({ transport: "unix", path });
    await write(first, negotiate + '{"execute":"query-version"}');
    assert.equal((await lines(first, 2)).length, 2);
    assert.equal(chardevs.list()[0]!.filename, `unix:${path},server=on`);
    first.close();
    assert.match((await lines(second, 1))[0]!, /^\{"QMP": /);
    second.close();
  }));

Deno.test("a client that half-closes gets all its replies, then the end", () =>
  withSetup(async ({ add, monitor, dir }) => {
    const path = `${dir}/s`;
    await add(`socket,id=c,path=${path},server=on,wait=off`);
    monitor("c");
    const client = await Deno.connect({ transport: "unix", path });
    await write(client, negotiate + '{"execute":"query-commands"}'.repeat(20));
    await client.closeWrite();
    assert.equal((await lines(client, 1000)).length, 22);
    client.close();
  }));

Deno.test("TCP servers show the port that they got, and reply", () =>
  withSetup(async ({ add, monitor, chardevs }) => {
    await add("socket,id=t,host=127.0.0.1,port=0,server=on,wait=off,nodelay=on");
    monitor("t");
    const port = Number(/127\.0\.0\.1:(\d+),server=on$/.exec(chardevs.list()[0]!.filename)![1]);
    const client = await Deno.connect({ hostname: "127.0.0.1", port });
    assert.equal((await lines(client, 1)).length, 1);
    assert.match(chardevs.list()[0]!.filename, /^tcp:127\.0\.0\.1:\d+,server=on <-> 127\.0\.0\.1:/);
    client.close();
  }));

Deno.test("wait=on says what it waits for, and ends with a client or with the daemon", () =>
  withSetup(async ({ add, dir, info, stop }) => {
    const path = `${dir}/w`;
    const waiting = add(`socket,id=w,path=${path},server=on`);
    while (info.length === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    assert.deepEqual(info, [
      `QEMU waiting for connection on: disconnected:unix:${path},server=on`,
    ]);
    const client = await Deno.connect({ transport: "unix", path });
    await waiting;
    client.close();
    const again = add(`socket,id=v,path=${dir}/v,server=on`);
    while (info.length < 2) await new Promise((resolve) => setTimeout(resolve, 1));
    stop();
    await again;
  }));

Deno.test("a client device connects, and with reconnect tries again", () =>
  withSetup(async ({ add, monitor, dir, info }) => {
    const path = `${dir}/r`;
    await add(`socket,id=r,path=${path},reconnect-ms=50`);
    monitor("r");
    assert.match(info[0]!, /^Unable to connect character device r: Failed to connect to/);
    const listener = Deno.listen({ transport: "unix", path });
    for (let i = 0; i < 2; i++) {
      const connection = await listener.accept();
      assert.match((await lines(connection, 1))[0]!, /^\{"QMP": /);
      connection.close();
    }
    listener.close();
  }));

Deno.test("a slow reader stops its own monitor only, and gets everything in the end", () =>
  withSetup(async ({ add, monitor, dir }) => {
    await add(`socket,id=a,path=${dir}/a,server=on,wait=off`);
    await add(`socket,id=b,path=${dir}/b,server=on,wait=off`);
    monitor("a");
    monitor("b");
    const slow = await Deno.connect({ transport: "unix", path: `${dir}/a` });
    const quick = await Deno.connect({ transport: "unix", path: `${dir}/b` });
    const count = 300;
    const sent = write(slow, negotiate + '{"execute":"query-qmp-schema"}'.repeat(count));
    await write(quick, negotiate + '{"execute":"query-version"}');
    assert.equal((await lines(quick, 3)).length, 3);
    assert.equal((await lines(slow, count + 2)).length, count + 2);
    await sent;
    slow.close();
    quick.close();
  }));

Deno.test("the socket file goes away with the device", async () => {
  let path = "";
  await withSetup(async ({ add, dir, chardevs }) => {
    path = `${dir}/gone`;
    await add(`socket,id=c,path=${path},server=on,wait=off`);
    assert.ok((await Deno.lstat(path)).isSocket);
    chardevs.close();
    await assert.rejects(Deno.lstat(path), Deno.errors.NotFound);
  });
});

/** Refusals as qemu-storage-daemon 7.2.22 words them. */
const refused: readonly (readonly [string, string])[] = [
  ["foo,id=a", "'foo' is not a valid char driver name"],
  ["stdio", "chardev: no id specified"],
  ["", "chardev: no id specified"],
  ["id=x", 'chardev: "x" missing backend'],
  ["null,id=a,foo=1", "Invalid parameter 'foo'"],
  ["null,id=a,__proto__=1", "Invalid parameter '__proto__'"],
  ["stdio,id=a,signal=x", "Parameter 'signal' expects 'on' or 'off'"],
  ["socket,id=a", "Unable to parse FD number "],
  ["socket,id=a,port=1", "Unable to parse FD number "],
  ["socket,id=a,fd=xx", "Unable to parse FD number xx"],
  ["socket,id=a,fd=999", "File descriptor '999' is not a socket"],
  ["socket,id=a,host=127.0.0.1", "chardev: socket: no port given"],
  ["socket,id=a,host=127.0.0.1,port=1", "Failed to connect to '127.0.0.1:1': Connection refused"],
  ["socket,id=a,path=/nonexist/x", "Failed to connect to '/nonexist/x': No such file or directory"],
  [
    "socket,id=a,path=/nonexist/x,server=on,wait=off",
    "Failed to bind socket to /nonexist/x: No such file or directory",
  ],
  [
    "socket,id=a,path=/x,host=1,port=3",
    "None or one of 'path', 'fd' or 'host' option required.",
  ],
  [
    "socket,id=a,path=/x,server=on,wait=off,reconnect=1",
    "'reconnect' option is incompatible with socket in server listen mode",
  ],
  [
    "socket,id=a,path=/x,wait=off",
    "'wait' option is incompatible with socket in client connect mode",
  ],
  [
    "socket,id=a,path=/x,server=on,wait=off,reconnect-ms=1",
    "'reconnect-ms' option is incompatible with socket in server listen mode",
  ],
  [
    "socket,id=a,path=/x,reconnect=1,reconnect-ms=1",
    "'reconnect' and 'reconnect-ms' are mutually exclusive",
  ],
  ["socket,id=a,path=/x,reconnect=x", "Parameter 'reconnect' expects a number"],
  ["file,id=a", "chardev: file: no filename given"],
  ["file,id=a,path=/nonexist/a", "Could not open '/nonexist/a': No such file or directory"],
  ["socket,id=a,path=/x,server=on,tn3270=on", "Parameter 'tn3270' is not supported"],
  ["socket,id=a,path=/x,server=on,websocket=on", "Parameter 'websocket' is not supported"],
  ["socket,id=a,path=/x,websocket=on", "Websocket client is not implemented"],
  ["socket,id=a,path=/x,server=on,tls-creds=t", "No TLS credentials with id 't'"],
  ["socket,id=a,path=/x,server=on,tls-authz=t", "'tls_authz' option requires 'tls_creds' option"],
  ["vc,id=a", "'vc' is not a valid char driver name"],
  ["pipe,id=a", "chardev: pipe: no device path given"],
  ["pipe,id=a,path=/nonexist/a", "Could not open '/nonexist/a': No such file or directory"],
  ["serial,id=a", "chardev: serial/tty: no device path given"],
  ["parallel,id=a", "chardev: parallel: no device path given"],
  ["parallel,id=a,path=/dev/null", "not a parallel port: Inappropriate ioctl for device"],
  ["mux,id=a", "chardev: mux: no chardev given"],
  ["mux,id=a,chardev=zz", "mux: base chardev zz not found"],
  ["udp,id=a", "chardev: udp: remote port not specified"],
  ["ringbuf,id=a,size=1000", "size of ringbuf chardev must be power of two"],
  ["ringbuf,id=a,size=x", "Parameter 'size' expects a non-negative number below 2^64"],
  ["null,id=a,logfile=/nonexist/x", "Could not create '/nonexist/x': No such file or directory"],
];

Deno.test("what cannot be made is refused in the original's words", () =>
  withSetup(async ({ add, monitor }) => {
    for (const [text, message] of refused) {
      await assert.rejects(add(text), { name: "CommandError", message }, text);
    }
    await add("null,id=n");
    await assert.rejects(add("null,id=n"), {
      message: "attempt to add duplicate property 'n' to object (type 'container')",
    });
    assert.throws(() => monitor("x"), { message: 'chardev "x" not found' });
    monitor("n");
    assert.throws(() => monitor("n"), { message: "Device 'n' is in use" });
  }));
