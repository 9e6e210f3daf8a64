#!/usr/bin/env bash
# Overload: ten times the clients that there are permits for, and ten times the rate that is sustainable, for a minute
# each, on a real Kafka and Redis.
#
#   scripts/overload.sh                  with 100 permits and tasks of 200 ms: the permits are the limit
#   scripts/overload.sh --capacity N     with so many permits
#   scripts/overload.sh --task-ms N      tasks of so long; 0 is the sample worker, and then the cores are the limit
#   scripts/overload.sh --connections N  those of the open loop, at least (default 1000): each can have one request under
#                                        way, and what is due while none is free waits, or is never sent
#   scripts/overload.sh --seconds N      each overload so long (default 60)
#   scripts/overload.sh … --out FILE     where the JSON goes (default: overload.json in a temporary directory)
#
# Sustainable is what as many clients as permits get, measured before and after each overload. Promised, and the exit code
# is 1 if not: right answers at 90 % of that or more, no wrong, lost or late answer, bounded memory, latency back within 1 s
# after the end, and a load generator that is not the limit itself. Printed too: the server's CPU time per request, and
# how evenly the answers are spread over the connections. The figures are in scripts/lib/overload.py. Settings of the
# server can be given in the environment, e.g. REFUSALS_PER_SECOND=0, with which no refusal waits.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

CAPACITY=100 TASK_MS=200 SECONDS_EACH=60 CONNECTIONS=1000 OUT=''

main() {
  parse "$@"
  bench_inside_stack "$@"
  bench_require jq curl python3
  bench_init
  [[ -n $OUT ]] || OUT=$(mktemp -d "${TMPDIR:-/tmp}/thousandx-overload.XXXXXX")/overload.json
  bench_build load slow-worker thousandx
  local worker=()
  ((TASK_MS == 0)) || worker=("$(bench_executable bench slow-worker)" --task-ms "$TASK_MS")
  bench_start_backend "${worker[@]}"
  RATE_LIMIT_CAPACITY=$CAPACITY bench_start_server
  bench_first_answer
  local code=0
  python3 "$REPO/scripts/lib/overload.py" --load "$EXE_LOAD" --url "$BENCH_URL" --pid "${BENCH_CPU[0]##*=}" \
    --capacity "$CAPACITY" --task-ms "$TASK_MS" --seconds "$SECONDS_EACH" --connections "$CONNECTIONS" --out "$OUT" || code=$?
  [[ -n $(process_stamp "${BENCH_BACKEND[0]##*=}") ]] || bench_show_log worker "the worker ended"
  [[ -s $OUT ]] || die "no result"
  local facts
  facts=$(RATE_LIMIT_CAPACITY=$CAPACITY bench_facts "scripts/overload.sh" kafka)
  jq --argjson facts "$facts" '$facts + .' "$OUT" >"$OUT.part"
  mv "$OUT.part" "$OUT"
  echo "result: $OUT"
  return "$code"
}

parse() {
  while (($# > 0)); do
    case $1 in
      --capacity) CAPACITY=${2?"--capacity needs a number"} && shift ;;
      --task-ms) TASK_MS=${2?"--task-ms needs a number"} && shift ;;
      --connections) CONNECTIONS=${2?"--connections needs a number"} && shift ;;
      --seconds) SECONDS_EACH=${2?"--seconds needs a number"} && shift ;;
      --out) OUT=${2?"--out needs a file"} && shift ;;
      *) usage ;;
    esac
    shift
  done
  in_range --capacity "$CAPACITY" 1 2000
  in_range --connections "$CONNECTIONS" 1 20000
  in_range --seconds "$SECONDS_EACH" 1 3600
  in_range --task-ms "$TASK_MS" 0 9999
}

# in_range OPTION VALUE LEAST MOST
in_range() {
  if ! [[ $2 =~ ^[0-9]{1,5}$ ]] || ((10#$2 < $3 || 10#$2 > $4)); then
    die "$1 takes $3 to $4"
  fi
}

main "$@"
