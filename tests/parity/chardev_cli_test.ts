/** `--chardev`: what each kind needs, and how it is told. */
import { type Case, parity } from "./mould.ts";

/** Each of these ends with an error. */
const refused: readonly string[] = [
  "pipe,id=a",
  "pipe,id=a,path=nope",
  "serial,id=a",
  "serial,id=a,path=/nonexist/a",
  "parallel,id=a",
  "parport,id=a,path=/dev/null",
  "parport,id=a",
  "tty,path=/dev/null",
  "mux,id=a",
  "mux,id=a,chardev=zz",
  "udp,id=a,host=127.0.0.1",
  "udp,id=a,port=xx",
  // Ports may have names.
  "socket,id=a,host=127.0.0.1,port=tcpmux",
  "socket,id=a,host=nosuch.invalid,port=http",
  "udp,id=a,port=ntp,localaddr=192.0.2.1,localport=domain",
  "ringbuf,id=a,size=1000",
  "ringbuf,id=a,size=x",
  "null,id=a,logfile=/nonexist/a",
  "socket,id=a,path=x,tls-creds=zz,server=on,wait=off",
  "socket,id=a,path=x,tls-authz=zz,server=on,wait=off",
  "socket,id=a,path=x,websocket=on",
  "vc,id=a",
  "file,id=a,path=x,in=y",
];

const listed: Case = {
  name: "every kind with its name",
  args: [
    ...["--chardev", "ringbuf,id=rb,size=1k,mux=on"],
    ...["--chardev", "null,id=n,logfile=log,logappend=on"],
    ...["--chardev", "tty,id=s,path=/dev/null"],
    ...["--chardev", "udp,id=u,port=9,localaddr=127.0.0.1"],
  ],
  steps: ["rb", "rb-base", "n", "s", "u"].map((id) => ({
    execute: "chardev-remove",
    arguments: { id },
  })),
  differs: {
    reason: "a multiplexer without frontends is not busy",
    expect: (theirs) => ({
      ...theirs,
      steps: [{ return: {} }, { return: {} }, ...theirs.steps.slice(2)],
    }),
  },
};

parity("chardev command line", [
  ...refused.map((text): Case => ({ name: text, args: ["--chardev", text] })),
  listed,
]);
