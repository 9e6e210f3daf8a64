#!/usr/bin/env bash
# Slow attacks with slowhttptest, a tool that others know and trust, on `thousandx dev`, over loopback.
#
#   scripts/slowhttp.sh                   build for release, then all three attacks: about 90 s
#   scripts/slowhttp.sh -B -X             these only: -H slow headers, -B slow bodies, -X slow reading
#   scripts/slowhttp.sh --binary PATH     with a binary that is built already
#
#   -c N      connections of each attack (1000)
#
# Meanwhile an ordinary client asks five times a second, and the kernel is asked which connections the server holds.
# Exit code 1 when an ordinary request failed or took more than a second, when a slow connection lived longer than the
# limit that it broke (HEADER_TIMEOUT_MS, BODY_TIMEOUT_MS, WRITE_TIMEOUT_MS) by more than 2.5 s, or when the server's memory
# rose by more than 64 KiB for each connection.
#
# What -X asks for fits the kernel's buffers, so that it ends as an idle connection does, by IDLE_TIMEOUT_MS; an answer
# that does not fit is in tests/http/slow.rs.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

readonly ATTACK_SECONDS=25
readonly CONNECTIONS_PER_SECOND=200
# The server's limits, in seconds: the defaults, but for the idle one, which is longer than an attack.
readonly HEADER_SECONDS=5 BODY_SECONDS=5 WRITE_SECONDS=10 IDLE_SECONDS=8

ATTACKS=() CONNECTIONS=1000 BINARY=''

main() {
  parse "$@"
  bench_require slowhttptest python3 curl
  bench_init
  bench_thousandx "$BINARY"
  export HEADER_TIMEOUT_MS=${HEADER_SECONDS}000 BODY_TIMEOUT_MS=${BODY_SECONDS}000
  export WRITE_TIMEOUT_MS=${WRITE_SECONDS}000 IDLE_TIMEOUT_MS=${IDLE_SECONDS}000
  bench_start_embedded
  bench_first_answer
  local attack failed=0
  for attack in "${ATTACKS[@]}"; do
    attack "$attack" || failed=1
  done
  column -t -s '|' "$BENCH_TMP/table"
  [[ -n $(process_stamp "$BENCH_PID") ]] || die "the server has ended"
  ((failed == 0)) || die "not every attack was borne (see above)"
}

parse() {
  while (($# > 0)); do
    case $1 in
      -H | -B | -X) ATTACKS+=("${1#-}") ;;
      -c) CONNECTIONS=${2?"-c needs a number"} && shift ;;
      --binary) BINARY=$(realpath "${2?"--binary needs a path"}") && shift ;;
      *) usage ;;
    esac
    shift
  done
  ((${#ATTACKS[@]} > 0)) || ATTACKS=(H B X)
  [[ $CONNECTIONS =~ ^[1-9][0-9]{0,4}$ ]] || die "-c takes a whole number from 1 to 99999"
  [[ -z $BINARY || -x $BINARY ]] || die "$BINARY cannot be run"
}

# attack H|B|X: one attack, watched; a row of the table.
attack() {
  local kind=$1 limit options base=${BENCH_URL%/queue}
  case $kind in
    H) limit=$HEADER_SECONDS options=(-H -i 2 -x 24 -u "$base/") ;;
    B) limit=$BODY_SECONDS options=(-B -i 2 -s 8192 -x 10 -u "$base/queue") ;;
    X) limit=$WRITE_SECONDS options=(-X -w 512 -y 1024 -n 5 -z 32 -k 3 -u "$base/metrics") ;;
  esac
  echo "slowhttptest -$kind, $CONNECTIONS connections, at most $ATTACK_SECONDS s" >&2
  python3 "$REPO/scripts/lib/slow_watch.py" --url "$BENCH_URL" --pid "$BENCH_PID" --limit "$limit" \
    --seconds "$ATTACK_SECONDS" --connections "$CONNECTIONS" --log "$BENCH_TMP/slowhttptest-$kind.log" --table "$BENCH_TMP/table" -- \
    slowhttptest "${options[@]}" -c "$CONNECTIONS" -r "$CONNECTIONS_PER_SECOND" -l "$ATTACK_SECONDS" -p 3
}

main "$@"
