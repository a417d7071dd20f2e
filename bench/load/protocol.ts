/**
 * Names and numbers of the NBD protocol (doc/proto.md of the NBD project) that the load generator uses.
 * Deliberately not lib/nbd's: a generator that shared the server's codec would share its mistakes.
 */

export const NBDMAGIC = 0x4e42444d41474943n;
export const IHAVEOPT = 0x49484156454f5054n;
export const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
/** Client flags: NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES. */
export const CLIENT_FLAGS = 3;

export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const REP_ACK = 1;
export const REP_INFO = 3;
export const INFO_EXPORT = 0;
/** Option replies with this bit are errors. */
export const REP_ERROR = 0x8000_0000;

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
/** Bytes of a request header, a simple reply header and a structured reply header. */
export const REQUEST_BYTES = 28;
export const SIMPLE_BYTES = 16;
export const STRUCTURED_BYTES = 20;
export const REPLY_FLAG_DONE = 1;
export const REPLY_OFFSET_DATA = 1;
export const REPLY_OFFSET_HOLE = 2;
/** Structured reply types with this bit are errors. */
export const REPLY_ERROR_BIT = 0x8000;
