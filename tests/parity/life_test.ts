/** Start and end: pid file, daemonize, signals, quit, sockets left behind, order of the end. */
import { type Case, type Difference, parity } from "./mould.ts";

const setup = [
  "--blockdev",
  "file,node-name=f,filename=a.raw",
  "--nbd-server",
  "addr.type=unix,addr.path=nbd",
  "--export",
  "nbd,id=e,node-name=f",
];
const base: Case = { name: "", args: setup, files: { "a.raw": { size: 4096, noise: 1 } } };
/** In what the last step listed, the NBD server's socket is missing. */
const tidier = (socket: string): Difference => ({
  reason: "qsd removes the socket that it has bound, the original leaves it",
  expect: (theirs) => {
    const last = theirs.steps.at(-1) as { output: string };
    const output = last.output.replace(`\n${socket}\n`, "\n");
    return { ...theirs, steps: theirs.steps.with(-1, { ...last, output }) };
  },
});
const query = { execute: "query-block-exports" } as const;
/** Starts in the background, waits for the caller, then reports on the daemon and stops it. */
const background = (options: string) => [
  "sh",
  "-c",
  `.bin/qemu-storage-daemon --daemonize --pidfile p ${options} >out 2>err; echo "started: $?"
   cat out err; [ -e p ] || exit 0
   pid=$(cat p); stat -c %a p; readlink /proc/$pid/cwd; umask=$(grep Umask /proc/$pid/status); echo "$umask"
   for fd in 0 1 2; do readlink /proc/$pid/fd/$fd; done
   [ "$(ps -o sid= -p $pid | tr -d ' ')" != "$(ps -o sid= -p $$ | tr -d ' ')" ] && echo "own session"
   [ -e nbd ] && stat -c %a nbd
   kill $pid; while [ -e p ]; do sleep 0.02; done; echo "pid file gone"; ls`,
];

parity("the end", [
  ...(["SIGTERM", "SIGINT", "SIGHUP"] as const).map((signal): Case => ({
    ...base,
    name: signal,
    steps: [query, { signal }],
  })),
  { ...base, name: "quit", steps: [{ execute: "quit" }, { ends: true }] },
  { ...base, name: "quit with an id", steps: [{ execute: "quit", id: "q" }, { ends: true }] },
  {
    ...base,
    name: "quit with arguments",
    steps: [{ execute: "quit", arguments: { x: 1 } }, query],
  },
  {
    ...base,
    differs: tidier("nbd"),
    name: "what is left behind",
    steps: [{ exist: ["nbd", "qmp", "pid"] }, {
      tool: ["sh", "-c", "kill $(cat pid); while [ -e pid ]; do sleep 0.02; done; ls"],
    }],
  },
]);

parity("daemonize and pid file", [
  {
    ...base,
    name: "in the background",
    steps: [{ tool: background(setup.join(" ")) }],
    differs: tidier("nbd"),
  },
  {
    ...base,
    name: "a start that fails is told to the caller",
    steps: [{ tool: background("--blockdev file,node-name=x,filename=nobody") }],
  },
  {
    ...base,
    name: "stdio cannot be used",
    steps: [{ tool: background("--chardev stdio,id=s --monitor s") }],
  },
  {
    ...base,
    name: "a pid file that another daemon holds",
    steps: [{ tool: ["sh", "-c", ".bin/qemu-storage-daemon --pidfile pid; echo $?; ls -a"] }],
  },
  {
    ...base,
    name: "a stale pid file is taken over",
    files: { ...base.files, p: { text: "123456789012345678901234567890\n" } },
    steps: [{
      tool: [
        "sh",
        "-c",
        ".bin/qemu-storage-daemon --daemonize --pidfile p; echo $?; pid=$(cat p); tr -dc '\\n' <p | wc -c; kill $pid; while [ -e p ]; do sleep 0.02; done; ls",
      ],
    }],
  },
  {
    ...base,
    name: "the last of two pid files wins",
    steps: [{
      tool: [
        "sh",
        "-c",
        ".bin/qemu-storage-daemon --daemonize --pidfile x --pidfile y; ls; kill $(cat y); while [ -e y ]; do sleep 0.02; done; ls",
      ],
    }],
  },
  {
    name: "a start that fails after a socket was bound",
    differs: tidier("n"),
    steps: [{
      tool: [
        "sh",
        "-c",
        ".bin/qemu-storage-daemon --nbd-server addr.type=unix,addr.path=n --blockdev nonsense --pidfile q; echo $?; ls",
      ],
    }],
  },
]);

const stdio = "--chardev stdio,id=s --monitor s";
/** More than are opened before a client's first request could be read. */
const manyNodes = Array.from(
  { length: 20 },
  (_, i) => `--blockdev qcow2,node-name=n${i},read-only=on,file.driver=file,file.filename=q`,
).join(" ");
parity("nobody is served before all options were applied", [
  {
    name: "a monitor's client",
    files: { q: { make: ["qemu-img", "create", "-q", "-f", "qcow2", "q", "1M"] } },
    needs: ["qemu-img"],
    steps: [{
      tool: [
        "sh",
        "-c",
        `.bin/qemu-storage-daemon ${stdio} ${manyNodes} | tail -n +2`,
      ],
      input: `{"execute":"qmp_capabilities"}
        {"execute":"blockdev-add","arguments":{"driver":"null-co","node-name":"n19"}}
        {"execute":"quit"}`,
    }],
  },
  {
    name: "an NBD client",
    files: base.files!,
    needs: ["nbdinfo", "python3"],
    steps: [{
      tool: [
        "sh",
        "-c",
        `.bin/qemu-storage-daemon --pidfile p --blockdev file,node-name=f,filename=a.raw \
           --nbd-server addr.type=unix,addr.path=$PWD/n --chardev socket,id=w,path=w,server=on,wait=on \
           --export nbd,id=e,node-name=f &
         until [ -e w ]; do sleep 0.02; done
         nbdinfo --size "nbd+unix:///f?socket=n" >size & client=$!
         until [ $(grep -c " $PWD/n$" /proc/net/unix) -gt 1 ] || [ ! -e /proc/$client ]; do sleep 0.02; done
         python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect("w")'
         wait $client; echo $?; cat size; kill $(cat p); wait`,
      ],
    }],
  },
]);

parity("a limit on the size of files ends nothing", [
  {
    name: "block_resize",
    files: base.files!,
    steps: [{
      tool: [
        "sh",
        "-c",
        `ulimit -f 2048; .bin/qemu-storage-daemon ${stdio} --blockdev file,node-name=f,filename=a.raw |
           tail -n +2; stat -c %s a.raw`,
      ],
      input: `{"execute":"qmp_capabilities"}
        {"execute":"block_resize","arguments":{"node-name":"f","size":4194304}}
        {"execute":"quit"}`,
    }],
  },
]);

parity("a monitor on standard input", [
  {
    name: "greets, answers, quits",
    steps: [{
      tool: [
        "sh",
        "-c",
        `.bin/qemu-storage-daemon ${stdio} | sed 's/"QMP.*//; s/"timestamp": {[^}]*}//' | tr -d '\\r' | sort`,
      ],
      input:
        '{"execute":"qmp_capabilities"}\n{"execute":"query-block-exports","id":1}\n{"execute":"quit"}\n',
    }],
  },
  {
    name: "is refused twice",
    args: ["--chardev", "stdio,id=s", "--chardev", "stdio,id=t"],
  },
]);
