/** JSON as QMP speaks it: a streaming reader with QEMU's extensions and limits, and the writer. */
export { JsonReader, parseJson } from "./reader.ts";
export { isJsonObject, JsonDouble, type JsonObject, jsonObject, type JsonValue } from "./value.ts";
export { writeJson } from "./writer.ts";
