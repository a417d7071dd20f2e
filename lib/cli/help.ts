/** The text of --help. */
import { BlockdevDriver } from "../qmp/schema/blockdev.ts";
import { shownValues } from "../qmp/schema/core.ts";
import { BlockExportType } from "../qmp/schema/export.ts";

const text = `Usage: PROGRAM [OPTION]...
       PROGRAM COMMAND [ARGUMENT]...
Serves disk images to other programs, controlled over QMP.

  -h, --help             print this text and exit
  -V, --version          print the version and exit
  -T, --trace [enable=]PATTERN[,events=FILE][,file=FILE]
                         switch trace events on; '-T help' lists them

  --blockdev [driver=]DRIVER[,node-name=NAME][,OPTION=VALUE]...
                         open a block node; drivers are
                         DRIVERS
  --chardev BACKEND,id=ID[,OPTION=VALUE]...
                         make a character device, for a monitor to use;
                         '--chardev help' lists the back ends, '--chardev BACKEND,help' options
  --export [type=]TYPE,id=ID,node-name=NODE[,writable=on|off][,OPTION=VALUE]...
                         offer a block node to clients: EXPORTS
  --monitor [chardev=]ID[,mode=control][,pretty=on|off]
                         speak QMP on a character device
  --nbd-server addr.type=unix,addr.path=PATH[,max-connections=N]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,max-connections=N]
                         start the NBD server, which --export nbd,... needs
  --object TYPE,id=ID[,PROPERTY=VALUE]...
                         make an object; '--object help' lists the types,
                         '--object TYPE,help' properties

  --config FILE          make what the file defines (YAML or JSON: a list of
                         blockdev, export... with their members); x-qsd-reload reads it again
  --daemonize            go to the background once everything is set up
  --pidfile PATH         write the process id to PATH once everything is set up

--blockdev, --export, --monitor, --nbd-server and --object also take JSON: '{"driver": ...}'.
Options act in the order given: name a thing after it was made.

Commands; 'PROGRAM COMMAND --help' tells more:
  qmp SOCKET             speak QMP with a running daemon: a prompt, or one command
  status SOCKET          show what a running daemon does, --watch: again and again
  check IMAGE            check an image, and repair it
  snapshot IMAGE         list, take, apply and delete internal snapshots of an image
  measure IMAGE          say how large a converted image will be
`;

/** How to use `program`. */
export function helpText(program: string): string {
  const words = (schema: typeof BlockdevDriver | typeof BlockExportType) =>
    shownValues(schema).join(", ");
  return text.replaceAll("PROGRAM", () => program)
    .replace("DRIVERS", () => words(BlockdevDriver))
    .replace("EXPORTS", () => words(BlockExportType));
}
