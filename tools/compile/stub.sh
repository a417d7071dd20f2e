#!/bin/sh
# qsd, the QEMU Storage Daemon, as one file: this script, then the deno runtime and the program, which
# it unpacks once into a private cache directory and runs from there. It needs a POSIX sh, dd, mkdir, chmod, mv
# and rm. The process keeps its id, and the name it was called by.
set -u
key=@KEY@
# Messages of getopt show the name as it was typed: a script that was found on PATH sees a path all the same.
QSD_NAME=${0##*/}
[ "$(command -v -- "$QSD_NAME")" = "$0" ] || QSD_NAME=$0
export QSD_NAME

case $0 in */*) self=$0 ;; *) self=./$0 ;; esac

# Runs a command without its messages. A bare root has no null device, which is why they are not sent there.
quietly() {
  said=$("$@" 2>&1)
}

# unpack NAME FIRST COUNT: blocks of this file become the file NAME, or nothing does.
unpack() {
  part=$dir/$1.$$
  quietly dd if="$self" of="$part" bs=4096 skip="$2" count="$3" || return
  if [ "$1" = deno ]; then
    # Fails where programs may not be run (a file system mounted noexec).
    chmod 700 "$part" && quietly "$part" --version || return
  fi
  mv -f "$part" "$dir/$1"
}

# The runtime comes last: where it is, all is there. Concurrent first starts each put the same files in place.
unpack_all() {
  quietly mkdir -p "$dir/lib" || return
@UNPACK@
}

# Sets dir to where the program is, unpacked if need be, in cache directory "$1"; false if that cannot be.
prepare() {
  umask_was=$(umask)
  umask 077
  dir=$1/$key
  [ -d "$1" ] || quietly mkdir -p "$1"
  # In a shared directory somebody else could have been first.
  if [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; then
    [ -x "$dir/deno" ] || unpack_all
    ready=$?
    [ "$ready" = 0 ] || rm -f "$dir"/*."$$" "$dir"/lib/*."$$"
  else
    ready=1
  fi
  umask "$umask_was"
  return "$ready"
}

find_cache() {
  dir=
  trap 'rm -f "$dir"/*."$$" "$dir"/lib/*."$$"; exit 1' HUP INT TERM
  home=${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}
  if [ -n "$home" ] && prepare "$home/qsd"; then return; fi
  user=$(id -u 2>&1) || user=${USER:-user}
  for place in "${TMPDIR:-/tmp}" /var/tmp /dev/shm; do
    if prepare "$place/qsd-$user"; then return; fi
  done
  printf '%s: cannot unpack into %s, %s, /var/tmp or /dev/shm: a directory where programs may be run, with %s MB free, is needed (set XDG_CACHE_HOME)\n' \
    "${0##*/}" "${home:-\$XDG_CACHE_HOME}" "${TMPDIR:-/tmp}" @MEGABYTES@ >&2
  exit 1
}

if [ ! -e /proc/self/exe ]; then
  printf '%s: the runtime needs /proc: mount it\n' "${0##*/}" >&2
  exit 1
fi
find_cache
trap - HUP INT TERM
# In a list of deno's a comma cannot be part of a path: the folder above the name with the comma has to do.
lib=$dir/lib
case $lib in *,*) lib=${lib%%,*}; lib=${lib%/*}/ ;; esac
DENO_DIR=$dir/cache
DENO_NO_UPDATE_CHECK=1
export DENO_DIR DENO_NO_UPDATE_CHECK
word=${1-}
set -- "$dir/deno" run @FLAGS@ "$dir/lib/main.js" "$@"
# A signal that would end the daemon waits until there is a handler, where env can see to that (GNU coreutils 8.31).
# Clients and commands for images are words; they just end.
block='--block-signal=HUP,INT,TERM,USR1,ALRM,IO'
case $word in
  '' | -*) quietly env "$block" && exec env "$block" "$@" ;;
esac
exec "$@"
exit 1
