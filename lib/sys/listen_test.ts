import assert from "node:assert/strict";
import { SO, SOL, TCP } from "./constants.ts";
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
