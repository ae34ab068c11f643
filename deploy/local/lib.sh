# Shared by the scripts of this folder: paths, bounded waits, ports, and processes that are ours.
# Sourced, never run. Knows nothing of Shunt's configuration and nothing of what a script is for.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
# What belongs to this checkout and may be deleted at any time: caches, tools, state of `make up`.
STATE="$ROOT/.shunt"
CHECKOUT=$(printf '%s' "$ROOT" | sha256sum | cut -c1-8)
# The user mysql cannot enter a private home, so a server's data lies here and not under STATE.
VAR="/var/tmp/shunt-$CHECKOUT"
# Where Debian keeps what a user's PATH may lack.
PATH="$PATH:/usr/sbin:/sbin"

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*"; exit 1; }

need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || die "$command is missing: run deploy/local/install.sh"
  done
}

# wait_until SECONDS COMMAND…: polls every 50 ms; false when the time is over.
wait_until() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

# --- ports ------------------------------------------------------------------

# Whether something listens on a TCP port of this machine. Read from the kernel, not tried: a
# connection that is closed inside a MySQL handshake counts against the host that made it.
port_used() {
  local hex; printf -v hex '%04X' "$1"
  cat /proc/net/tcp /proc/net/tcp6 2>/dev/null |
    awk -v port=":$hex" '$4 == "0A" && substr($2, length($2) - 4) == port { found = 1 } END { exit !found }'
}

# free_block COUNT OFFSET…: a port P such that P+OFFSET .. P+OFFSET+COUNT-1 are free for each OFFSET.
# Below the range that the kernel hands out itself, so that it stays free until it is used.
free_block() {
  local count=$1 base offset i try; shift
  for ((try = 0; try < 200; try++)); do
    base=$((15000 + (RANDOM * 32768 + RANDOM) % 1600 * 10))
    for offset in "$@"; do
      for ((i = 0; i < count; i++)); do
        port_used $((base + offset + i)) && continue 3
      done
    done
    echo "$base"
    return
  done
  die "no free ports found"
}

# --- processes --------------------------------------------------------------

# Whether PID runs and its command line names TEXT: a pid file may outlive its process, and its
# number may be somebody else's by now. A dead process that was not reaped yet does not count.
runs() {
  local pid=$1 text=$2 line
  [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
  line=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
  [[ $line == *"$text"* ]]
}

pid_of() { [[ -s $1 ]] && cat "$1" 2>/dev/null || true; }

gone() { ! runs "$@"; }

# The processes of a group whose command line names TEXT.
group_members() {
  local group=$1 text=$2 stat line
  for stat in /proc/[0-9]*/stat; do
    line=$(cat "$stat" 2>/dev/null) || continue
    # Fields after the command's name, which may hold spaces: state, parent, group.
    # shellcheck disable=SC2086
    set -- ${line##*) }
    [[ ${3:-} == "$group" ]] || continue
    line=${stat#/proc/}
    runs "${line%/stat}" "$text" && echo "${line%/stat}"
  done
  return 0
}

# stop_group PIDFILE TEXT SECONDS: SIGTERM to the process, SIGKILL to its whole group when the time
# is over, and to what it left behind (a state transfer's rsync outlives its server).
stop_group() {
  local file=$1 text=$2 seconds=$3 pid member
  pid=$(pid_of "$file")
  [[ -n $pid ]] || return 0
  if runs "$pid" "$text"; then
    kill -TERM "$pid" 2>/dev/null || true
    if ! wait_until "$seconds" gone "$pid" "$text"; then
      say "pid $pid did not end in $seconds s: killed"
      kill -KILL "$pid" 2>/dev/null || true
      wait_until 10 gone "$pid" "$text" || die "pid $pid cannot be killed"
    fi
  fi
  for member in $(group_members "$pid" "$text"); do
    kill -KILL "$member" 2>/dev/null || true
  done
  rm -f "$file"
}

# A file that only its owner reads, holding a fresh random word; kept when it exists.
secret() {
  [[ -s $1 ]] && return
  (umask 077 && head -c 18 /dev/urandom | base64 | tr '+/' 'xy' >"$1")
}

# --- folders ----------------------------------------------------------------

# A folder is deleted only when we made it: it holds this marker.
MARKER=.made-by-shunt

make_folder() {
  local dir=$1
  if [[ -d $dir && ! -e $dir/$MARKER && -n $(ls -A "$dir") ]]; then
    die "$dir holds files that are not ours"
  fi
  mkdir -p "$dir"
  touch "$dir/$MARKER"
}

remove_folder() {
  [[ -e $1 ]] || return 0
  [[ -e $1/$MARKER ]] || die "$1 was not made by this script: left alone"
  rm -rf -- "$1"
}

# One script at a time in a folder. The servers that we start must not inherit the descriptor: 8>&-.
lock() {
  mkdir -p "$(dirname "$1")"
  exec 8>"$1"
  flock -w 300 8 || die "$1 is held by another run"
}
