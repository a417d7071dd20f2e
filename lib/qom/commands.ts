/** QMP commands on objects and on the tree. */
import type { Handlers } from "../qmp/schema/core.ts";
import type { objectCommands } from "../qmp/schema/qom.ts";
import type { ObjectRegistry } from "./registry.ts";
import { getProperty, listProperties, resolvePath, setProperty } from "./tree.ts";

/** The handlers of `objectCommands`. */
export function objectHandlers(objects: ObjectRegistry): Handlers<typeof objectCommands> {
  const { classes } = objects;
  const resolve = (path: string) => resolvePath(objects.tree(), path);
  return {
    "object-add": (options) => {
      objects.add(options);
      return {};
    },
    "object-del": ({ id }) => {
      objects.delete(id);
      return {};
    },
    "qom-list": ({ path }) => listProperties(classes, resolve(path)),
    "qom-get": ({ path, property }) => getProperty(classes, resolve(path), property),
    "qom-set": ({ path, property, value }) => {
      setProperty(classes, resolve(path), property, value);
      return {};
    },
    "qom-list-get": ({ paths }) =>
      paths.map((path) => {
        const node = resolve(path);
        const properties = listProperties(classes, node).map(({ name, type }) => {
          const value = getProperty(classes, node, name);
          return value === undefined ? { name, type } : { name, type, value };
        });
        return { properties };
      }),
    "qom-list-types": ({ implements: ancestor, abstract }) =>
      classes.list(ancestor, abstract ?? false),
    "qom-list-properties": ({ typename }) => classes.describe(typename),
  };
}
