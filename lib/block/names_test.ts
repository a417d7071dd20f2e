import assert from "node:assert/strict";
import { NameGenerator } from "./names.ts";
import { testContext } from "./testing.ts";

Deno.test("generated names count up and end in two random digits", () => {
  const names = new NameGenerator(testContext().sys);
  const made = Array.from({ length: 120 }, () => names.next());
  made.forEach((name, i) => assert.match(name, new RegExp(`^#block${i}\\d\\d$`)));
  assert.ok(new Set(made.map((name) => name.slice(-2))).size > 20, "the digits vary");
});
