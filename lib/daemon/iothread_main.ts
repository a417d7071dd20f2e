/** The module that runs in the Worker of an IOThread. */
import { drivers } from "../block/drivers/mod.ts";
import { driverRegistry } from "../block/mod.ts";
import { nbdPart } from "../nbd/mod.ts";
import { vhostPart } from "../vhost/mod.ts";
import { runThread } from "../thread/mod.ts";

runThread(driverRegistry(drivers), [nbdPart, vhostPart]);
