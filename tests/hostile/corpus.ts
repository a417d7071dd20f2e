/** Inputs that broke NBD servers elsewhere, one entry a case, with what must happen instead. */
import {
  type Field,
  goData,
  IHAVEOPT,
  metaData,
  OPT,
  option,
  pack,
  REP,
} from "../harness/nbd_wire.ts";

/** What the server must do: answer the option with that, or close. */
export type Expected = { readonly reply: readonly number[] } | { readonly closes: true };

/** One hostile option, sent after the greeting. */
export interface HostileOption {
  readonly id: string;
  readonly bytes: Uint8Array;
  /** Any of these is right. */
  readonly expected: readonly Expected[];
}

const refused: Expected = {
  reply: [REP.ERR_INVALID, REP.ERR_UNSUP, REP.ERR_POLICY, REP.ERR_TOO_BIG],
};
const unknown: Expected = { reply: [REP.ERR_UNKNOWN, REP.ERR_INVALID, REP.ERR_TOO_BIG] };
const closes: Expected = { closes: true };
const name = (length: number) => "n".repeat(length);
const raw = (code: number, length: number, ...rest: Field[]) =>
  pack([8, IHAVEOPT], [4, code], [4, length], ...rest);
const query = (text: string): Field => pack([4, text.length], text);

export const OPTIONS: readonly HostileOption[] = [
  {
    id: "CVE-2013-7441: EXPORT_NAME of nobody",
    bytes: option(OPT.EXPORT_NAME, pack("nobody")),
    expected: [closes],
  },
  {
    id: "CVE-2013-7441: GO of nobody",
    bytes: option(OPT.GO, goData("nobody")),
    expected: [unknown],
  },
  ...[257, 1024, 4096, 4097, 65536].map((length): HostileOption => ({
    id: `CVE-2017-15118: EXPORT_NAME of ${length} bytes`,
    bytes: option(OPT.EXPORT_NAME, pack(name(length))),
    expected: [closes],
  })),
  ...[257, 1024, 4096, 4097, 65536].map((length): HostileOption => ({
    id: `CVE-2017-15118: GO with a name of ${length} bytes`,
    bytes: option(OPT.GO, goData(name(length))),
    expected: [unknown],
  })),
  {
    id: "CVE-2022-26495: name length 0xffffffff",
    bytes: option(OPT.GO, pack([4, 0xffffffff], [2, 0])),
    expected: [refused, closes],
  },
  {
    id: "CVE-2022-26495: name length 0x7fffffff",
    bytes: option(OPT.INFO, pack([4, 0x7fffffff], [2, 0])),
    expected: [refused, closes],
  },
  {
    id: "CVE-2022-26495: meta context name length 0xffffffff",
    bytes: option(OPT.LIST_META_CONTEXT, pack([4, 0xffffffff], [4, 0])),
    expected: [refused, closes],
  },
  {
    id: "CVE-2022-26496: GO whose name is longer than its data",
    bytes: option(OPT.GO, pack([4, 100], "short", [2, 0])),
    expected: [refused, closes],
  },
  {
    id: "CVE-2022-26496: GO with bytes left over",
    bytes: option(OPT.GO, pack(goData("disk"), "left over")),
    expected: [refused, closes],
  },
  {
    id: "CVE-2022-26496: INFO with more requests than sent",
    bytes: option(OPT.INFO, pack([4, 4], "disk", [2, 0xffff], [2, 0])),
    expected: [refused, closes],
  },
  { id: "GO without data", bytes: option(OPT.GO), expected: [refused, closes] },
  {
    id: "GO of three bytes",
    bytes: option(OPT.GO, pack([1, 0], [2, 0])),
    expected: [refused, closes],
  },
  {
    id: "GO of five bytes",
    bytes: option(OPT.GO, pack([4, 0], [1, 0])),
    expected: [refused, closes],
  },
  { id: "CVE-2021-3716: STARTTLS without TLS", bytes: option(OPT.STARTTLS), expected: [refused] },
  { id: "STARTTLS with data", bytes: option(OPT.STARTTLS, pack("x")), expected: [refused, closes] },
  {
    id: "STRUCTURED_REPLY with data",
    bytes: option(OPT.STRUCTURED_REPLY, pack("x")),
    expected: [refused, closes],
  },
  { id: "LIST with data", bytes: option(OPT.LIST, pack("x")), expected: [refused, closes] },
  {
    id: "SET_META_CONTEXT before structured replies",
    bytes: option(OPT.SET_META_CONTEXT, metaData("disk", ["base:allocation"])),
    expected: [refused],
  },
  {
    id: "LIST_META_CONTEXT without data",
    bytes: option(OPT.LIST_META_CONTEXT),
    expected: [refused, closes],
  },
  {
    id: "LIST_META_CONTEXT of nobody",
    bytes: option(OPT.LIST_META_CONTEXT, metaData("nobody", [])),
    expected: [unknown, refused],
  },
  {
    id: "LIST_META_CONTEXT with more queries than sent",
    bytes: option(OPT.LIST_META_CONTEXT, pack([4, 4], "disk", [4, 0xffffffff])),
    expected: [refused, closes],
  },
  {
    id: "LIST_META_CONTEXT with a query longer than its data",
    bytes: option(OPT.LIST_META_CONTEXT, pack([4, 4], "disk", [4, 1], [4, 100], "base:")),
    expected: [refused, closes],
  },
  {
    id: "LIST_META_CONTEXT with bytes left over",
    bytes: option(OPT.LIST_META_CONTEXT, pack(metaData("disk", ["base:"]), "x")),
    expected: [refused, closes],
  },
  {
    id: "LIST_META_CONTEXT with a thousand queries",
    bytes: option(
      OPT.LIST_META_CONTEXT,
      pack(
        [4, 4],
        "disk",
        [4, 1000],
        ...Array.from({ length: 1000 }, () => query("base:allocation")),
      ),
    ),
    expected: [{ reply: [REP.ACK, REP.ERR_INVALID, REP.ERR_TOO_BIG, REP.ERR_POLICY] }, closes],
  },
  {
    id: "LIST_META_CONTEXT with empty, long and strange queries",
    bytes: option(
      OPT.LIST_META_CONTEXT,
      metaData("disk", [
        "",
        ":",
        "base:",
        "base:x",
        "qemu:",
        "qemu:dirty-bitmap:",
        "é:ü",
        "x".repeat(4096),
      ]),
    ),
    expected: [{ reply: [REP.ACK, REP.ERR_INVALID, REP.ERR_TOO_BIG] }, closes],
  },
  ...[0, 4, 12, 77, 0x7fffffff, 0x80000000, 0xffffffff].map((code): HostileOption => ({
    id: `unknown option ${code}`,
    bytes: option(code, pack("some data")),
    expected: [{ reply: [REP.ERR_UNSUP, REP.ERR_INVALID] }],
  })),
  {
    id: "unknown option with 64 KiB of data",
    bytes: option(99, new Uint8Array(65536)),
    expected: [{ reply: [REP.ERR_UNSUP] }],
  },
  { id: "CVE-2017-15119: an option of 4 GiB", bytes: raw(99, 0xffffffff), expected: [closes] },
  { id: "CVE-2017-15119: GO of 4 GiB", bytes: raw(OPT.GO, 0xffffffff, "x"), expected: [closes] },
  {
    id: "an option of 32 MiB and a byte",
    bytes: raw(OPT.LIST, 32 * 1048576 + 1),
    expected: [closes],
  },
  {
    id: "an option with another magic",
    bytes: pack([8, 0x4141414141414141n], [4, OPT.LIST], [4, 0]),
    expected: [closes],
  },
];
