#!/usr/bin/env bash
# Throughput with wrk, a load generator that others know and trust: a closed loop of -c connections.
#
#   scripts/wrk.sh                  on the embedded stack (`thousandx dev`)
#   scripts/wrk.sh --kafka          on a real Kafka and Redis, `thousandx serve` and `thousandx work`
#   scripts/wrk.sh --url URL        on a server that runs already; --cpu NAME=PID accounts for its processes
#
#   -c N      connections (1000)
#   -t N      threads of wrk (one per core)
#   -d N      measured seconds (10)
#   -w N      seconds of warm-up before, which are dropped (2; with --kafka 20, as a Kafka that has just started is slow)
#   --plain   one fixed body, answers not checked: wrk then costs less, and nothing is proved about the answers
#
# By default each request has a nonce and each answer is checked to carry the nonce of a request that waits for it
# (scripts/wrk/checked.lua says exactly what that proves). The check runs in Lua and costs wrk several µs an answer, on
# the cores that the server uses too. Results go to benchmark_stats.json (STATS_FILE) under "wrk".
# Exit code 1 when an answer was wrong or a connection failed.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

readonly COMMAND="scripts/wrk.sh $*"
# What a run may take beyond its own length.
readonly OVERTIME_SECONDS=30
# Above the server's own deadline of 10 s: an answer later than this is counted as a timeout by wrk.
readonly TIMEOUT_SECONDS=15

STACK=embedded URL='' MODE=checked CONNECTIONS=1000 WRK_THREADS=$(nproc) DURATION=10 WARMUP=''

main() {
  parse "$@"
  [[ $STACK != kafka ]] || bench_inside_stack "$@"
  bench_require wrk jq curl
  bench_init
  local facts
  [[ $STACK == url ]] || bench_build thousandx
  facts=$(bench_facts "$COMMAND" "$STACK")
  case $STACK in
    embedded) bench_start_embedded ;;
    kafka) bench_start_backend && bench_start_server ;;
    url) BENCH_URL=$URL ;;
  esac
  bench_first_answer
  measure
  report "$facts"
}

parse() {
  while (($# > 0)); do
    case $1 in
      --kafka) STACK=kafka ;;
      --url) STACK=url URL=${2?"--url needs a value"} && shift ;;
      --cpu) BENCH_CPU+=("${2?"--cpu needs NAME=PID"}") && shift ;;
      --plain) MODE=plain ;;
      -c) CONNECTIONS=${2?"-c needs a number"} && shift ;;
      -t) WRK_THREADS=${2?"-t needs a number"} && shift ;;
      -d) DURATION=${2?"-d needs a number"} && shift ;;
      -w) WARMUP=${2?"-w needs a number"} && shift ;;
      *) usage ;;
    esac
    shift
  done
  if [[ -z $WARMUP ]]; then [[ $STACK == kafka ]] && WARMUP=20 || WARMUP=2; fi
  local number
  for number in "$CONNECTIONS" "$WRK_THREADS" "$DURATION" "$WARMUP"; do
    [[ $number =~ ^[1-9][0-9]{0,5}$ ]] || die "-c, -t, -d and -w take whole numbers from 1"
  done
}

measure() {
  run_wrk "$WARMUP" >/dev/null
  bench_cpu_now >"$BENCH_TMP/cpu.before"
  run_wrk "$DURATION"
  bench_cpu_now >"$BENCH_TMP/cpu.after"
}

# run_wrk SECONDS: the results as JSON in $BENCH_TMP/wrk.json, the CPU seconds of wrk itself in $BENCH_TMP/wrk.time.
run_wrk() {
  local TIMEFORMAT='%U %S'
  { time timeout --foreground "$(($1 + OVERTIME_SECONDS))" \
    env WRK_JSON="$BENCH_TMP/wrk.json" wrk -c "$CONNECTIONS" -t "$WRK_THREADS" -d "$1" --timeout "$TIMEOUT_SECONDS" \
    --latency -s "$REPO/scripts/wrk/$MODE.lua" "$BENCH_URL" 2>&3; } 3>&2 2>"$BENCH_TMP/wrk.time" ||
    die "wrk failed"
}

report() {
  local result="$BENCH_TMP/result.json"
  jq -n --argjson facts "$1" --slurpfile wrk "$BENCH_TMP/wrk.json" --argjson tick_us "$((1000000 / $(getconf CLK_TCK)))" \
    --arg connections "$CONNECTIONS" --arg threads "$WRK_THREADS" --arg mode "$MODE" \
    --rawfile before "$BENCH_TMP/cpu.before" --rawfile after "$BENCH_TMP/cpu.after" --rawfile own "$BENCH_TMP/wrk.time" \
    -f "$REPO/scripts/lib/wrk.jq" | tee "$result" | bench_record wrk "$STACK" "$MODE"
  jq -r -f "$REPO/scripts/lib/wrk-text.jq" "$result"
  echo "recorded in $STATS_FILE"
  jq -e '(.wrong // 0) + .connect_errors + .read_errors + .write_errors + .timeouts == 0' "$result" >/dev/null ||
    die "answers were wrong, or connections failed (see above)"
}

main "$@"
