# shellcheck shell=bash
# Helpers of every script here. Sourced, never run; the caller has set `-euo pipefail`.

# A script may source two libraries that both source this one.
! declare -F with_lock >/dev/null || return 0

# shellcheck disable=SC2034 # read by the scripts that source this one
REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
THOUSANDX_CACHE="${THOUSANDX_CACHE:-$HOME/.cache/thousandx}"

# Seconds that a process has to end after SIGTERM, before it is killed.
readonly STOP_SECONDS_MAX=10
# Seconds to wait for another script that fills the same cache.
readonly LOCK_SECONDS_MAX=600

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# print_help: the head comment of the script that was started.
print_help() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0"
}

# What the script was started with, which a sourced file sees too.
readonly SCRIPT_ARGUMENTS=" $* "

# usage: the same for whoever asked for it, and as an answer to wrong arguments. A script that has more to say has a
# `usage` of its own.
usage() {
  case $SCRIPT_ARGUMENTS in *' --help '* | *' -h '*) print_help && exit ;; esac
  print_help >&2
  exit 64
}

have() {
  command -v "$1" >/dev/null 2>&1
}

# as_root CMD…: as it is for root, else through sudo.
as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif have sudo; then
    sudo "$@"
  else
    die "needs root or sudo: $*"
  fi
}

# with_lock NAME CMD…: one at a time per NAME, over all processes of this user.
with_lock() {
  local name=$1
  shift
  mkdir -p "$THOUSANDX_CACHE"
  (
    flock --wait "$LOCK_SECONDS_MAX" 9 || die "another script has held the lock '$name' for $LOCK_SECONDS_MAX s"
    # Closed for the command: a process that outlives it must not keep the lock.
    "$@" 9>&-
  ) 9>"$THOUSANDX_CACHE/$name.lock"
}

# A free TCP port on loopback, chosen by the kernel. It may be taken before it is used: the caller tries again.
free_port() {
  perl -MIO::Socket::INET -e \
    'print IO::Socket::INET->new(LocalAddr => "127.0.0.1", Listen => 1)->sockport, "\n"'
}

# process_stamp PID: the start time of a process, in clock ticks since boot; empty when there is none. With the pid it
# names one process for good, where the pid alone may be given to another one later.
process_stamp() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 0
  # The name in parentheses may hold spaces: count the fields after it. starttime is field 22 of proc(5).
  stat=${stat##*) }
  # shellcheck disable=SC2086
  set -- $stat
  [[ $1 == Z ]] || echo "${20}"
}

# stop_process PID STAMP: ends that very process, gently, then by force. No error when it is gone.
stop_process() {
  local pid=$1 stamp=$2 deadline=$((SECONDS + STOP_SECONDS_MAX))
  [[ -n $stamp && $(process_stamp "$pid") == "$stamp" ]] || return 0
  kill -CONT "$pid" 2>/dev/null || true
  kill -TERM "$pid" 2>/dev/null || true
  while [[ $(process_stamp "$pid") == "$stamp" ]]; do
    if ((SECONDS >= deadline)); then
      kill -KILL "$pid" 2>/dev/null || true
    fi
    sleep 0.05
  done
}
