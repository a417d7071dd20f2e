/**
 * Memory that somebody else can take away. Whoever shares a file with us can shorten it; a load or store of what is
 * gone makes the kernel send SIGBUS, which ends the process (a system call just gets EFAULT). A guarded mapping is
 * replaced by empty memory instead, all of it, and the guard says that it is lost.
 *
 * The signal's handler has to be machine code: JavaScript cannot run where the fault happened. It looks the address
 * up in a table of guarded mappings, marks the entry, makes one system call (mmap, MAP_FIXED) and returns, and the
 * faulting instruction runs again. It takes no lock, calls nothing, and needs no stack. Faults elsewhere go on to
 * whoever handled the signal before, or end the process as ever.
 *
 * Table and code belong to the process and stay as long as it: there is one handler, however many contexts there
 * are. Entries are claimed and given back by atomic stores, since contexts run in threads of their own.
 */
import { type Arch, MAP, PROT } from "./constants.ts";
import { type Libc, nativeBuffer } from "./ffi.ts";
import type { Memory, MemoryGuard } from "./types.ts";

/** Entries of the table: two exports with as much as the protocol allows, or a thousand ordinary ones. */
const SLOTS = 2048;
/** The table: where faults elsewhere go (u64), how many entries were ever used (u32), a zeroed sigaction; entries. */
const COUNT_AT = 8;
const ENTRIES_AT = 64;
/** An entry: first byte, end (0: free), whether it was lost (u32), whether it is taken (u32). */
const ENTRY = 32;
const END_AT = 8;
const LOST_AT = 16;
const TAKEN_AT = 20;

const SIGBUS = 7;
/** glibc's struct sigaction: handler, 128 bytes of mask, flags. */
const SIGACTION_SIZE = 152;
const FLAGS_AT = 136;
const SA_SIGINFO = 4;
const SA_ONSTACK = 0x0800_0000;

/** Code with a hole of 8 bytes for the table's address, at each of `holes`. */
interface Code {
  readonly bytes: readonly number[];
  readonly holes: readonly number[];
  /** Where the part begins that gives up: it restores the default action, so that the fault, repeated, is fatal. */
  readonly giveUp: number;
}

// Arguments: signal, siginfo (si_addr at 16), context. All registers are the interrupted code's again afterwards.
const CODE: Readonly<Record<Arch, Code>> = {
  x86_64: {
    holes: [2, 117],
    giveUp: 115,
    // deno-fmt-ignore
    bytes: [
      0x48, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0,                   //     movabs rbx, TABLE
      0x49, 0x89, 0xfc, 0x49, 0x89, 0xf5, 0x49, 0x89, 0xd6, //     mov r12,rdi; mov r13,rsi; mov r14,rdx
      0x48, 0x8b, 0x46, 0x10,                               //     mov rax,[rsi+16]      the address
      0x8b, 0x4b, 0x08, 0x4c, 0x8d, 0x7b, 0x40,             //     mov ecx,[rbx+8]; lea r15,[rbx+64]
      0x85, 0xc9, 0x74, 0x19,                               // 1:  test ecx,ecx; jz 3f
      0x49, 0x8b, 0x3f, 0x49, 0x8b, 0x77, 0x08,             //     mov rdi,[r15]; mov rsi,[r15+8]
      0x48, 0x39, 0xf8, 0x72, 0x05,                         //     cmp rax,rdi; jb 2f
      0x48, 0x39, 0xf0, 0x72, 0x13,                         //     cmp rax,rsi; jb 4f
      0x49, 0x83, 0xc7, 0x20, 0xff, 0xc9, 0xeb, 0xe3,       // 2:  add r15,32; dec ecx; jmp 1b
      0x4c, 0x89, 0xe7, 0x4c, 0x89, 0xee, 0x4c, 0x89, 0xf2, // 3:  mov rdi,r12; mov rsi,r13; mov rdx,r14
      0xff, 0x23,                                           //     jmp [rbx]             not ours
      0x41, 0xc7, 0x47, 0x10, 1, 0, 0, 0,                   // 4:  mov dword [r15+16],1  lost
      0x48, 0x29, 0xfe, 0xba, 3, 0, 0, 0,                   //     sub rsi,rdi; mov edx,READ|WRITE
      0x41, 0xba, 0x32, 0x40, 0, 0,                         //     mov r10d,PRIVATE|ANONYMOUS|FIXED|NORESERVE
      0x49, 0xc7, 0xc0, 0xff, 0xff, 0xff, 0xff,             //     mov r8,-1
      0x45, 0x31, 0xc9, 0xb8, 9, 0, 0, 0, 0x0f, 0x05,       //     xor r9d,r9d; mov eax,mmap; syscall
      0x48, 0x85, 0xc0, 0x78, 0xc9, 0xc3,                   //     test rax,rax; js 3b; ret
      0x48, 0xbe, 0, 0, 0, 0, 0, 0, 0, 0,                   // give up: movabs rsi, TABLE
      0x48, 0x83, 0xc6, 0x10, 0xbf, 7, 0, 0, 0, 0x31, 0xd2, //     add rsi,16; mov edi,SIGBUS; xor edx,edx
      0x41, 0xba, 8, 0, 0, 0, 0xb8, 13, 0, 0, 0,            //     mov r10d,8; mov eax,rt_sigaction
      0x0f, 0x05, 0xc3,                                     //     syscall; ret
    ],
  },
  aarch64: {
    holes: [176],
    giveUp: 140,
    // deno-fmt-ignore
    bytes: [
      0x89, 0x05, 0x00, 0x58, 0x23, 0x08, 0x40, 0xf9, //     ldr x9,TABLE; ldr x3,[x1,#16]  the address
      0x24, 0x09, 0x40, 0xb9, 0x25, 0x01, 0x01, 0x91, //     ldr w4,[x9,#8]; add x5,x9,#64
      0x44, 0x01, 0x00, 0x34,                         // 1:  cbz w4,3f
      0xa6, 0x00, 0x40, 0xf9, 0xa7, 0x04, 0x40, 0xf9, //     ldr x6,[x5]; ldr x7,[x5,#8]
      0x7f, 0x00, 0x06, 0xeb, 0x63, 0x00, 0x00, 0x54, //     cmp x3,x6; b.lo 2f
      0x7f, 0x00, 0x07, 0xeb, 0xc3, 0x00, 0x00, 0x54, //     cmp x3,x7; b.lo 4f
      0xa5, 0x80, 0x00, 0x91, 0x84, 0x04, 0x00, 0x51, // 2:  add x5,x5,#32; sub w4,w4,#1
      0xf7, 0xff, 0xff, 0x17,                         //     b 1b
      0x2a, 0x01, 0x40, 0xf9, 0x40, 0x01, 0x1f, 0xd6, // 3:  ldr x10,[x9]; br x10           not ours
      0x2a, 0x00, 0x80, 0x52, 0xaa, 0x10, 0x00, 0xb9, // 4:  mov w10,#1; str w10,[x5,#16]   lost
      0xeb, 0x03, 0x00, 0xaa, 0xec, 0x03, 0x01, 0xaa, //     mov x11,x0; mov x12,x1
      0xed, 0x03, 0x02, 0xaa, 0xe0, 0x03, 0x06, 0xaa, //     mov x13,x2; mov x0,x6
      0xe1, 0x00, 0x06, 0xcb, 0x62, 0x00, 0x80, 0xd2, //     sub x1,x7,x6; mov x2,#READ|WRITE
      0x43, 0x06, 0x88, 0xd2,                         //     mov x3,#PRIVATE|ANONYMOUS|FIXED|NORESERVE
      0x04, 0x00, 0x80, 0x92, 0x05, 0x00, 0x80, 0xd2, //     mov x4,#-1; mov x5,#0
      0xc8, 0x1b, 0x80, 0xd2, 0x01, 0x00, 0x00, 0xd4, //     mov x8,#mmap; svc #0
      0xa0, 0x00, 0xf8, 0xb6,                         //     tbz x0,#63,5f
      0xe0, 0x03, 0x0b, 0xaa, 0xe1, 0x03, 0x0c, 0xaa, //     mov x0,x11; mov x1,x12
      0xe2, 0x03, 0x0d, 0xaa, 0xed, 0xff, 0xff, 0x17, //     mov x2,x13; b 3b
      0xc0, 0x03, 0x5f, 0xd6,                         // 5:  ret
      0x21, 0x01, 0x00, 0x58, 0x21, 0x40, 0x00, 0x91, // give up: ldr x1,TABLE; add x1,x1,#16
      0xe0, 0x00, 0x80, 0xd2, 0x02, 0x00, 0x80, 0xd2, //     mov x0,#SIGBUS; mov x2,#0
      0x03, 0x01, 0x80, 0xd2, 0xc8, 0x10, 0x80, 0xd2, //     mov x3,#8; mov x8,#rt_sigaction
      0x01, 0x00, 0x00, 0xd4, 0xc0, 0x03, 0x5f, 0xd6, //     svc #0; ret
      0x1f, 0x20, 0x03, 0xd5, 0, 0, 0, 0, 0, 0, 0, 0, //     nop; TABLE
    ],
  },
};

/** The bytes of the handler for a table. */
function handlerFor(code: Code, table: number): Uint8Array {
  const bytes = Uint8Array.from(code.bytes);
  const view = new DataView(bytes.buffer);
  for (const hole of code.holes) view.setBigUint64(hole, BigInt(table), true);
  return bytes;
}

const FAILED = 0xffff_ffff_ffff_ffffn;

/** Anonymous memory that is never given back; undefined if there is none. */
function forever(libc: Libc, length: number): number | undefined {
  const flags = MAP.PRIVATE | MAP.ANONYMOUS;
  const mapped = libc.symbols.mmap(
    0n,
    BigInt(length),
    PROT.READ | PROT.WRITE,
    flags,
    -1,
    0n,
  );
  return mapped === FAILED ? undefined : Number(mapped);
}

/** Calls sigaction(SIGBUS): `handler`, if given, is set. The handler that was there before; undefined on failure. */
function swapHandler(libc: Libc, room: Memory, handler?: number): number | undefined {
  const { view, address } = room;
  room.bytes.fill(0, 0, 2 * SIGACTION_SIZE);
  if (handler !== undefined) {
    view.setBigUint64(0, BigInt(handler), true);
    view.setInt32(FLAGS_AT, SA_SIGINFO | SA_ONSTACK, true);
  }
  const action = handler === undefined ? 0n : BigInt(address);
  if (libc.rare.sigaction(SIGBUS, action, BigInt(address + SIGACTION_SIZE)) < 0) return undefined;
  return Number(view.getBigUint64(SIGACTION_SIZE, true));
}

/** The table of the handler at `address`, if it is one of this module (a context of this process set it up). */
function tableOf(code: Code, address: number): number | undefined {
  if (address <= 1) return undefined; // the default, or ignored
  const there = new Uint8Array(nativeBuffer(address, code.bytes.length)).slice();
  const table = Number(new DataView(there.buffer).getBigUint64(code.holes[0]!, true));
  const ours = handlerFor(code, table);
  return there.every((byte, i) => byte === ours[i]) ? table : undefined;
}

/** Makes table and handler. Undefined where executable memory is refused. `room`: for arguments. */
function install(libc: Libc, code: Code, room: Memory): number | undefined {
  const before = swapHandler(libc, room);
  if (before === undefined) return undefined;
  const known = tableOf(code, before);
  if (known !== undefined) return known;
  const table = forever(libc, ENTRIES_AT + ENTRY * SLOTS);
  const page = table === undefined ? undefined : forever(libc, 4096);
  if (table === undefined || page === undefined) return undefined;
  new Uint8Array(nativeBuffer(page, code.bytes.length)).set(handlerFor(code, table));
  // Written first, executable afterwards: never both.
  if (libc.symbols.mprotect(BigInt(page), 4096n, PROT.READ | PROT.EXEC) < 0) return undefined;
  const next = new BigUint64Array(nativeBuffer(table, 8));
  const target = (old: number) => BigInt(old <= 1 ? page + code.giveUp : old);
  next[0] = target(before);
  const replaced = swapHandler(libc, room, page);
  if (replaced === undefined) return undefined;
  // Another thread may have been faster: faults that are not ours are its.
  if (replaced !== before) Atomics.store(next, 0, target(replaced));
  return table;
}

/** What a mapping gets that cannot be guarded: it is as it was. */
export const UNGUARDED: MemoryGuard = { lost: false, release: () => {} };

/** A context's way to the process's table. */
export class Guards {
  readonly #longs: BigUint64Array;
  readonly #words: Int32Array;

  private constructor(table: number) {
    const buffer = nativeBuffer(table, ENTRIES_AT + ENTRY * SLOTS);
    this.#longs = new BigUint64Array(buffer);
    this.#words = new Int32Array(buffer);
  }

  /** Sets the handler up, unless the process has it. Undefined where executable memory is refused. */
  static open(libc: Libc, arch: Arch, room: Memory): Guards | undefined {
    const table = install(libc, CODE[arch], room);
    return table === undefined ? undefined : new Guards(table);
  }

  /** Guards a whole mapping; when the table is full it stays as it is. */
  add(memory: Memory): MemoryGuard {
    const words = this.#words;
    for (let slot = 0; slot < SLOTS; slot++) {
      const word = (ENTRIES_AT + ENTRY * slot) / 4;
      if (Atomics.compareExchange(words, word + TAKEN_AT / 4, 0, 1) !== 0) continue;
      return this.#take(slot, memory);
    }
    return UNGUARDED;
  }

  /** What another context knows of the mapping at `address`, which it guards and keeps: to be asked, no more. */
  at(address: number): MemoryGuard {
    const words = this.#words;
    const count = Atomics.load(words, COUNT_AT / 4);
    for (let slot = 0; slot < count; slot++) {
      const at = ENTRIES_AT + ENTRY * slot;
      const end = Atomics.load(this.#longs, (at + END_AT) / 8);
      if (address < Atomics.load(this.#longs, at / 8) || address >= end) continue;
      return {
        get lost() {
          return Atomics.load(words, (at + LOST_AT) / 4) !== 0;
        },
        release() {},
      };
    }
    return UNGUARDED;
  }

  #take(slot: number, memory: Memory): MemoryGuard {
    const words = this.#words;
    const longs = this.#longs;
    const at = ENTRIES_AT + ENTRY * slot;
    for (let count = 0; (count = Atomics.load(words, COUNT_AT / 4)) <= slot;) {
      Atomics.compareExchange(words, COUNT_AT / 4, count, slot + 1);
    }
    Atomics.store(words, (at + LOST_AT) / 4, 0);
    Atomics.store(longs, at / 8, BigInt(memory.address));
    // From now on the handler knows it.
    Atomics.store(longs, (at + END_AT) / 8, BigInt(memory.address + memory.length));
    return {
      get lost() {
        return Atomics.load(words, (at + LOST_AT) / 4) !== 0;
      },
      release() {
        Atomics.store(longs, (at + END_AT) / 8, 0n);
        Atomics.store(words, (at + TAKEN_AT) / 4, 0);
      },
    };
  }
}
