import assert from "node:assert/strict";
import { AF, SO, SOCK, SOL, TCP } from "./constants.ts";
import { createContext } from "./context.ts";
import { keepAliveOf, listenOn, setKeepAlive, type StreamAddress } from "./listen.ts";
import type { Context, Sys } from "./types.ts";

const inet = { type: "inet", host: "127.0.0.1", port: "0" } as const;

async function withListener(
  address: StreamAddress,
  body: (sys: Sys, fd: number) => void,
): Promise<void> {
  const context = createContext({ name: "test" });
  try {
    const { fds } = await listenOn(context as Context, address, 1);
    body(context.sys, fds[0]!);
    for (const fd of fds) context.sys.close(fd);
  } finally {
    await context.close();
  }
}

Deno.test("mptcp listens for TCP over several paths, where the kernel has it", async () => {
  const has = Deno.readTextFileSync("/proc/net/protocols").includes("MPTCP");
  const listening = withListener({ ...inet, mptcp: true }, (sys, fd) => {
    assert.equal(sys.getsockopt(fd, SOL.SOCKET, SO.PROTOCOL), 262);
  });
  if (has) await listening;
  else {await assert.rejects(listening, {
      name: "CommandError",
      message: /Failed to create socket/,
    });}
  await withListener(inet, (sys, fd) => {
    assert.equal(sys.getsockopt(fd, SOL.SOCKET, SO.PROTOCOL), 6);
  });
});

Deno.test("keep-alive probes are as the address says, else the system's own", async () => {
  await withListener(inet, (sys, fd) => {
    const options = [TCP.KEEPCNT, TCP.KEEPIDLE, TCP.KEEPINTVL] as const;
    const now = () => options.map((option) => sys.getsockopt(fd, SOL.TCP, option));
    const before = now();
    assert.equal(keepAliveOf({ ...inet, "keep-alive-idle": 9 }), undefined);
    setKeepAlive(sys, fd, keepAliveOf({ ...inet, "keep-alive": true })!);
    assert.equal(sys.getsockopt(fd, SOL.SOCKET, SO.KEEPALIVE), 1);
    assert.deepEqual(now(), before);
    const wanted = {
      ...inet,
      "keep-alive": true,
      "keep-alive-count": 3,
      "keep-alive-idle": 40,
      "keep-alive-interval": 5,
    } as const;
    setKeepAlive(sys, fd, keepAliveOf(wanted)!);
    assert.deepEqual(now(), [3, 40, 5]);
  });
});

Deno.test("an inherited socket is named by a number or by its name, and must be one", async () => {
  const context = createContext({ name: "test" });
  const listen = (str: string) => listenOn(context as Context, { type: "fd", str }, 1);
  const { sys } = context;
  const fd = sys.socket(AF.UNIX, SOCK.STREAM);
  try {
    assert.equal(sys.bind(fd, { family: "unix", path: `\0qsd-test-${sys.pid}` }), 0);
    sys.descriptors!.set("web", fd);
    for (const str of ["web", `${fd}`, ` +${fd}`, `0${fd}`]) {
      assert.deepEqual((await listen(str)).fds, [fd]);
      const message = `File descriptor '${str}' is in use by another chardev, export or NBD server`;
      await assert.rejects(listen(str), { name: "CommandError", message });
      sys.adopted!.delete(fd);
    }
    const wrong = {
      nobody: "Unable to parse FD number nobody",
      "": "Unable to parse FD number ",
      "7x": "Unable to parse FD number 7x",
      "2147483648": "Unable to parse FD number 2147483648: Numerical result out of range",
      "-2147483649": "Unable to parse FD number -2147483649: Numerical result out of range",
      "-1": "File descriptor '-1' is not a socket",
      "9999": "File descriptor '9999' is not a socket",
      "2147483647": "File descriptor '2147483647' is not a socket",
    };
    for (const [str, message] of Object.entries(wrong)) {
      await assert.rejects(listen(str), { name: "CommandError", message });
    }
  } finally {
    sys.close(fd);
    await context.close();
  }
});
