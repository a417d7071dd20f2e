/** Command lines that parse, but whose values are wrong or whose order is. */
import { type Case, parity, says } from "./mould.ts";

const wrong = (...args: string[]): Case => ({ name: args.join(" "), args });
const NODE = ["--blockdev", "null-co,node-name=n,size=1048576"] as const;
const SERVER = ["--nbd-server", "addr.type=unix,addr.path=nbd"] as const;

/** What the original adds where a size is wrong. */
const SUFFIXES = "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n" +
  "and exabytes, respectively.\n";

parity("--blockdev values", [
  wrong("--blockdev", "driver=nonsense,node-name=a"),
  wrong("--blockdev", "node-name=a"),
  wrong("--blockdev", "null-co"),
  wrong("--blockdev", "null-co,node-name="),
  wrong("--blockdev", "null-co,node-name=1a"),
  wrong("--blockdev", "null-co,node-name=#block1"),
  wrong("--blockdev", `null-co,node-name=${"n".repeat(31)},size=x`),
  wrong("--blockdev", `null-co,node-name=${"n".repeat(32)}`),
  wrong("--blockdev", "null-co,node-name=a,size=1M"),
  wrong("--blockdev", "null-co,node-name=a,size="),
  {
    ...wrong("--blockdev", "null-co,node-name=a,size=-1"),
    differs: {
      reason: "the original aborts",
      expect: (theirs) => ({
        ...theirs,
        signal: null,
        status: 1,
        stderr: `${theirs.stderr.replace(/^Unexpected error in .*\n/, "")}${SUFFIXES}`,
      }),
    },
  },
  wrong("--blockdev", "null-co,node-name=a,size=0x"),
  wrong("--blockdev", "null-co,node-name=a,size=99999999999999999999"),
  wrong("--blockdev", "null-co,node-name=a,latency-ns=x"),
  wrong("--blockdev", "null-co,node-name=a,read-zeroes=1"),
  wrong("--blockdev", "null-co,node-name=a,read-only=maybe"),
  wrong("--blockdev", "null-co,node-name=a,nonsense=1"),
  wrong("--blockdev", "null-co,node-name=a,cache=on"),
  wrong("--blockdev", "null-co,node-name=a,cache.nonsense=on"),
  wrong("--blockdev", "null-co,node-name=a,cache.direct=x"),
  wrong("--blockdev", "null-co,node-name=a,discard=maybe"),
  wrong("--blockdev", "null-co,node-name=a,detect-zeroes=maybe"),
  wrong("--blockdev", "null-co,node-name=a,detect-zeroes=unmap"),
  wrong("--blockdev", "null-co,node-name=a,force-share=on"),
  wrong("--blockdev", "raw,node-name=a"),
  wrong("--blockdev", "raw,node-name=a,file=nobody"),
  wrong("--blockdev", "raw,node-name=a,file="),
  wrong("--blockdev", "raw,node-name=a,file.driver=nonsense"),
  wrong("--blockdev", "raw,node-name=a,file.driver=file"),
  wrong("--blockdev", "raw,node-name=a,file.driver=null-co,offset=x"),
  wrong("--blockdev", "raw,node-name=a,file.driver=null-co,file.size=4096,offset=8192"),
  wrong("--blockdev", "raw,node-name=a,file.driver=null-co,file.size=4096,offset=512,size=4096"),
  wrong("--blockdev", "raw,node-name=a,file.driver=null-co,file.size=4096,size=8192"),
  wrong("--blockdev", "raw,node-name=a,file.driver=null-co,file.size=4096,size=100"),
  wrong("--blockdev", "raw,node-name=a,file.driver=null-co,offset=-512"),
  wrong(...NODE, ...NODE),
  wrong("--blockdev", "raw,node-name=n,file=n"),
]);

parity("--export values", [
  wrong("--export", "nbd"),
  wrong("--export", "id=e,node-name=n"),
  wrong("--export", "nonsense,id=e,node-name=n"),
  wrong("--export", "nbd,id=e"),
  wrong("--export", "nbd,id=e,node-name=nobody"),
  wrong(...NODE, "--export", "nbd,id=e,node-name=n"),
  wrong("--export", "nbd,id=e,node-name=n", ...SERVER, ...NODE),
  wrong(...SERVER, "--export", "nbd,id=e,node-name=n", ...NODE),
  wrong(...NODE, ...SERVER, "--export", "nbd,id=1e,node-name=n"),
  wrong(...NODE, ...SERVER, "--export", "nbd,id=,node-name=n"),
  wrong(...NODE, ...SERVER, "--export", "nbd,id=e,node-name=n,nonsense=1"),
  wrong(...NODE, ...SERVER, "--export", "nbd,id=e,node-name=n,writable=maybe"),
  wrong(...NODE, ...SERVER, "--export", `nbd,id=e,node-name=n,name=${"n".repeat(4097)}`),
  wrong(...NODE, ...SERVER, "--export", `nbd,id=e,node-name=n,description=${"d".repeat(4097)}`),
  wrong(...NODE, ...SERVER, "--export", "nbd,id=e,node-name=n,iothread=nobody"),
  wrong(...NODE, ...SERVER, "--export", "nbd,id=e,node-name=n,bitmaps.0=nobody"),
  wrong(
    ...NODE,
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=n",
    "--export",
    "nbd,id=e,node-name=n,name=x",
  ),
  wrong(
    ...NODE,
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=n",
    "--export",
    "nbd,id=f,node-name=n",
  ),
  wrong(
    "--blockdev",
    "null-co,node-name=n,read-only=on",
    ...SERVER,
    "--export",
    "nbd,id=e,node-name=n,writable=on",
  ),
]);

parity("--nbd-server values", [
  wrong("--nbd-server", "addr.type=unix"),
  wrong("--nbd-server", "addr.type=nonsense"),
  wrong("--nbd-server", "addr.path=nbd"),
  wrong("--nbd-server", "addr.type=inet"),
  wrong("--nbd-server", "addr.type=inet,addr.host=127.0.0.1"),
  wrong("--nbd-server", "addr.type=inet,addr.host=127.0.0.1,addr.port=nonsense"),
  wrong("--nbd-server", "addr.type=inet,addr.host=host.invalid,addr.port=1"),
  wrong("--nbd-server", "addr.type=unix,addr.path=no/such/folder/nbd"),
  wrong("--nbd-server", `addr.type=unix,addr.path=${"p".repeat(120)}`),
  wrong("--nbd-server", "addr.type=unix,addr.path=nbd,max-connections=x"),
  wrong("--nbd-server", "addr.type=unix,addr.path=nbd,max-connections=-1"),
  wrong("--nbd-server", "addr.type=unix,addr.path=nbd,max-connections=4294967296"),
  wrong("--nbd-server", "addr.type=unix,addr.path=nbd,tls-creds=nobody"),
  wrong("--nbd-server", "addr.type=unix,addr.path=nbd,nonsense=1"),
  wrong("--nbd-server", "addr.type=fd,addr.str=99"),
  wrong("--nbd-server", "addr.type=fd,addr.str=nobody"),
  wrong("--nbd-server", "addr.type=fd,addr.str=0"),
  wrong(...SERVER, ...SERVER),
]);

parity("--chardev, --monitor, --object, --pidfile values", [
  wrong("--chardev", "socket"),
  wrong("--chardev", "nonsense,id=c"),
  wrong("--chardev", "id=c"),
  wrong("--chardev", "socket,id=c"),
  wrong("--chardev", "socket,id=1c,path=s,server=on,wait=off"),
  wrong("--chardev", "socket,id=c,path=s,server=maybe"),
  wrong("--chardev", "socket,id=c,path=s,nonsense=on"),
  wrong("--chardev", "socket,id=c,path=no/such/folder,server=on,wait=off"),
  wrong("--chardev", "socket,id=c,path=nobody"),
  wrong("--chardev", "socket,id=c,path=s,wait=off"),
  wrong("--chardev", "socket,id=c,host=127.0.0.1,server=on,wait=off"),
  wrong("--chardev", "socket,id=c,path=s,reconnect=18446744073709551616"),
  wrong("--chardev", "ringbuf,id=c,size=18446744073709551616"),
  {
    ...wrong(
      "--chardev",
      "socket,id=c,path=s,server=on,wait=off",
      "--chardev",
      "socket,id=c,path=t,server=on,wait=off",
    ),
    differs: says(
      "a taken id is refused in the same words for every back end",
      (text) =>
        text.replace(
          "duplicate yank instance",
          "attempt to add duplicate property 'c' to object (type 'container')",
        ),
    ),
  },
  wrong("--monitor", "nobody"),
  wrong("--monitor", "chardev=nobody,mode=readline"),
  wrong("--monitor", "chardev=nobody,mode=nonsense"),
  wrong("--monitor", "nobody,pretty=maybe"),
  wrong("--monitor", "nobody,nonsense=1"),
  wrong("--monitor", "c", "--chardev", "socket,id=c,path=s,server=on,wait=off"),
  wrong("--chardev", "socket,id=c,path=s,server=on,wait=off", "--monitor", "c", "--monitor", "c"),
  wrong("--object", "nonsense,id=o"),
  wrong("--object", "iothread,id=1o"),
  wrong("--object", "iothread,id=o,nonsense=1"),
  wrong("--object", "iothread,id=o", "--object", "iothread,id=o"),
  wrong("--pidfile", "no/such/folder/pid"),
  wrong("--pidfile", ""),
]);
