/**
 * Which format an image has, by its first bytes. Asked only for a backing file whose overlay does not say. Formats
 * that qsd cannot open are told apart too: taking them for raw would show a guest the inside of an image.
 */
import { viewOf } from "../base/mod.ts";

/** How many bytes are looked at. */
export const PROBE_LENGTH = 2048;

interface Signature {
  readonly format: string;
  readonly matches: (bytes: Uint8Array) => boolean;
}

function startsWith(text: string, at = 0): (bytes: Uint8Array) => boolean {
  const wanted = [...text].map((character) => character.charCodeAt(0));
  return (bytes) => wanted.every((byte, i) => bytes[at + i] === byte);
}

function word(bytes: Uint8Array, at: number): number {
  if (at + 4 > bytes.length) return 0;
  return viewOf(bytes).getUint32(at);
}

const QFI = startsWith("QFI\xfb");

/** A descriptor of VMDK is text: its first line that is not blank or another comment names it. */
function isVmdkDescriptor(bytes: Uint8Array): boolean {
  const lines = new TextDecoder("latin1").decode(bytes).split(/\r?\n/);
  const first = lines.find((line) => line.trim() !== "");
  return first !== undefined && /^\s*(# Disk DescriptorFile|version=\d)/i.test(first);
}

const SIGNATURES: readonly Signature[] = [
  { format: "qcow2", matches: (bytes) => QFI(bytes) && word(bytes, 4) >= 2 },
  { format: "qcow", matches: (bytes) => QFI(bytes) && word(bytes, 4) === 1 },
  { format: "qed", matches: startsWith("QED\0") },
  { format: "luks", matches: startsWith("LUKS\xba\xbe") },
  { format: "vmdk", matches: startsWith("KDMV") },
  { format: "vmdk", matches: startsWith("COWD") },
  { format: "vmdk", matches: isVmdkDescriptor },
  { format: "vhdx", matches: startsWith("vhdxfile") },
  { format: "vpc", matches: startsWith("conectix") },
  { format: "vdi", matches: startsWith("\x7f\x10\xda\xbe", 64) },
  { format: "parallels", matches: startsWith("WithoutFreeSpace") },
  { format: "parallels", matches: startsWith("WithouFreSpacExt") },
  { format: "bochs", matches: startsWith("Bochs Virtual HD Image") },
  { format: "cloop", matches: startsWith("#!/bin/sh\n#V2.0 Format\n") },
];

/** QEMU's name of the format of an image that begins with `bytes`; "raw" where nothing else fits. */
export function probeFormat(bytes: Uint8Array, filename: string): string {
  const found = SIGNATURES.find(({ matches }) => matches(bytes))?.format;
  return found ?? (filename.toLowerCase().endsWith(".dmg") ? "dmg" : "raw");
}
