/** The object `monitor-qmp` (QEMU 11.1): a monitor that is made and deleted at run time. */
import type { Channel, ChannelUser } from "../chardev/mod.ts";
import type { MonitorQmpPropertiesValue } from "./schema/qom.ts";
import type { ObjectKind, Property, QomClass } from "../qom/mod.ts";
import type { QmpServer } from "./server.ts";

const given = (name: string, type: string): Property => ({ name, type, creatable: true });

/** The classes. None of the properties can be changed later. */
export const monitorClasses: readonly QomClass[] = [
  { name: "monitor", parent: "object", abstract: true, implements: ["user-creatable"] },
  {
    name: "monitor-qmp",
    parent: "monitor",
    properties: [
      given("chardev", "string"),
      given("pretty", "bool"),
      given("close-action", "MonitorQMPCloseAction"),
    ],
  },
];

/** What monitors need of the daemon. */
export interface MonitorSurroundings {
  readonly server: QmpServer;
  /** Makes `user` the frontend of a character device. Throws CommandError. */
  readonly attach: (chardev: string, user: ChannelUser) => Channel;
  /** Deletes object `id` and removes character device `chardev`; not called from within the device. */
  readonly deleteBoth: (id: string, chardev: string) => void;
  /** Runs `task` soon, when nothing else is on the stack. */
  readonly later: (task: () => void) => void;
}

/** Makes monitors. */
export function monitorKind(around: MonitorSurroundings): ObjectKind<MonitorQmpPropertiesValue> {
  return {
    type: "monitor-qmp",
    make(id, { chardev, pretty = false, "close-action": action = "none" }) {
      let removed = false;
      const left = () =>
        around.later(() => {
          if (!removed) around.deleteBoth(id, chardev);
        });
      const monitor = around.server.addMonitor(
        { name: id, pretty, ...(action === "delete" ? { left } : {}) },
        (user) => around.attach(chardev, user),
      );
      const values = new Map<string, unknown>([
        ["chardev", chardev],
        ["pretty", pretty],
        ["close-action", action],
      ]);
      return {
        get: (property) => values.get(property),
        remove() {
          removed = true;
          around.server.removeMonitor(monitor);
        },
      };
    },
  };
}
