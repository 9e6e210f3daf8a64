#!/usr/bin/env bash
# The performance test: known loads against the whole stack, every answer checked to belong to its request.
#
#   scripts/load.sh                 the steps on the embedded stack (`thousandx dev`)
#   scripts/load.sh --kafka         the steps on a real Kafka and Redis, `thousandx serve` and `thousandx work`
#   scripts/load.sh --url URL       the steps on a server that runs already; --cpu NAME=PID accounts for its processes
#   scripts/load.sh … --peer [NAME] instead of the steps: server and peer in turns, A B A B, at full load. NAME is
#                                   bare-hyper (the default), or with --kafka naive, python, spring: see scripts/lib/peers.sh
#
#   --quick         at most 30 s of load
#   --seconds N     measured per run (default 10)
#   --runs N        each step N times (with --peer: N rounds); the table has the medians
#   --threads N     threads of the load generator (default: one per core)
#
# Steps: one connection; 100, 1,000 and 10,000 requests/s in an open loop, which is 1, 10 and 100 times the template's
# 100; then as fast as 1,000 connections can; then 50, 70 and 90 % of that in an open loop (not with --quick).
# Results go to benchmark_stats.json (STATS_FILE); BENCHMARKS.md says what each field means.
# Exit code 1 when an answer was wrong, malformed, lost or too late.
set -euo pipefail

# shellcheck source=scripts/lib/peers.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/peers.sh"

readonly COMMAND="scripts/load.sh $*"
readonly PEAK_CONNECTIONS=1000
readonly RUNS_MAX=100
# What a run may take beyond its own length: connecting, the last answers' timeout, a slow start.
readonly OVERTIME_SECONDS=40
# Load that is not measured, before server and peer take turns.
readonly SECONDS_WARM=20

STACK=embedded URL='' PEER='' QUICK=false RUNS='' THREADS=() SECONDS_EACH=''
FAULTY=false

main() {
  parse "$@"
  [[ $STACK != kafka ]] || bench_inside_stack "$@"
  bench_require jq curl
  bench_init
  build
  FACTS=$(bench_facts "$COMMAND" "$STACK")
  [[ $STACK != kafka ]] || bench_start_backend
  if [[ -n $PEER ]]; then compare; else steps; fi
  if $FAULTY; then die "answers were wrong, malformed, lost or too late (see above)"; fi
}

parse() {
  while (($# > 0)); do
    case $1 in
      --kafka) STACK=kafka ;;
      --url) STACK=url URL=${2?"--url needs a value"} && shift ;;
      --cpu) BENCH_CPU+=("${2?"--cpu needs NAME=PID"}") && shift ;;
      --peer)
        PEER=bare-hyper
        if [[ $# -ge 2 && $2 != -* ]]; then PEER=$2 && shift; fi
        ;;
      --quick) QUICK=true ;;
      --seconds) SECONDS_EACH=${2?"--seconds needs a number"} && shift ;;
      --runs) RUNS=${2?"--runs needs a number"} && shift ;;
      --threads) THREADS=(--threads "${2?"--threads needs a number"}") && shift ;;
      *) usage ;;
    esac
    shift
  done
  if $QUICK; then SECONDS_EACH=2 WARMUP=1; else : "${SECONDS_EACH:=10}" && WARMUP=2; fi
  [[ $SECONDS_EACH =~ ^[1-9][0-9]{0,3}$ ]] || die "--seconds takes a number from 1 to 9999"
  if [[ -z $RUNS ]]; then
    RUNS=1
    if [[ -n $PEER ]]; then RUNS=5; fi
  fi
  [[ -z $PEER ]] || peer_check "$PEER" "$STACK"
  if ! [[ $RUNS =~ ^[1-9][0-9]*$ ]] || ((RUNS > RUNS_MAX)); then die "--runs takes a number from 1 to $RUNS_MAX"; fi
}

build() {
  local targets=(load)
  [[ $STACK == url ]] || targets+=(thousandx)
  [[ -z $PEER ]] || peer_build "$PEER"
  bench_build "${targets[@]}"
}

# Starts what is measured, for the caller to end with stop_subject.
start_subject() {
  case $STACK in
    embedded) bench_start_embedded ;;
    kafka) bench_start_server ;;
    url) BENCH_URL=$URL ;;
  esac
  bench_first_answer
}

stop_subject() {
  [[ $STACK == url ]] || bench_stop_last
}

# measure NAME ARGUMENT…: one run of the load generator; its report is appended to $BENCH_TMP/NAME.runs.
measure() {
  local name=$1 entry cpu=() report="$BENCH_TMP/report.json"
  shift
  for entry in "${BENCH_CPU[@]}"; do
    cpu+=(--cpu "$entry")
  done
  rm -f "$report"
  echo "== $name" >&2
  timeout --foreground "$((SECONDS_EACH + WARMUP + OVERTIME_SECONDS))" \
    "$EXE_LOAD" --url "$BENCH_URL" --seconds "$SECONDS_EACH" --warmup "$WARMUP" "${THREADS[@]}" "${cpu[@]}" \
    --json "$report" "$@" >&2 || FAULTY=true
  [[ -s $report ]] || die "the load generator gave no report"
  cat "$report" >>"$BENCH_TMP/$name.runs"
}

steps() {
  local run peak percent
  start_subject
  for ((run = 1; run <= RUNS; run++)); do
    measure one-connection --connections 1
    measure open-100 --rate 100 --connections 100
    measure open-1000 --rate 1000 --connections 100
    measure open-10000 --rate 10000 --connections "$PEAK_CONNECTIONS"
    measure peak --connections "$PEAK_CONNECTIONS"
    peak=$(jq -s 'last.rps | floor' "$BENCH_TMP/peak.runs")
    for percent in 50 70 90; do
      if $QUICK || ((peak < 100)); then break; fi
      measure "open-peak-$percent%" --rate $((peak * percent / 100)) --connections "$PEAK_CONNECTIONS"
    done
  done
  stop_subject
  summary one-connection open-100 open-1000 open-10000 peak open-peak-{50,70,90}% |
    jq --argjson facts "$FACTS" '$facts + {steps: .}' | tee "$BENCH_TMP/result.json" | bench_record load "$STACK"
  table
}

# compare: server and peer in turns; ratios are made per round, so that a slow minute of the machine hits both.
compare() {
  local round
  # A Kafka that has just started is slow, and the first one to meet it would pay for it.
  if [[ $STACK == kafka ]] && ! $QUICK; then
    start_subject
    warm_up Kafka "$SECONDS_WARM" || FAULTY=true
    stop_subject
  fi
  for ((round = 1; round <= RUNS; round++)); do
    start_subject
    measure server --connections "$PEAK_CONNECTIONS"
    stop_subject
    local kept=("${BENCH_CPU[@]}")
    peer_start "$PEER"
    measure "$PEER" --connections "$PEAK_CONNECTIONS"
    bench_stop_last
    BENCH_CPU=("${kept[@]}")
  done
  summary server "$PEER" |
    jq --argjson facts "$FACTS" -f "$REPO/scripts/lib/compare.jq" |
    tee "$BENCH_TMP/result.json" | bench_record peer "$STACK" "$PEER"
  table
  jq -r --arg peer "$PEER" '"server / \($peer), \(.ratios.rounds) rounds, median [least to most]: " +
    (.ratios | [(.rps, .cpu_us_per_request) | if . then "\(.median) [\(.min) to \(.max)]" else "unknown" end] |
     "requests/s \(.[0]), server CPU per request \(.[1])")' "$BENCH_TMP/result.json"
}

# summary NAME…: the runs of these steps, with medians, as a JSON array; steps that were not run are left out.
summary() {
  local name
  for name in "$@"; do
    [[ -s $BENCH_TMP/$name.runs ]] || continue
    jq -s --arg name "$name" -f "$REPO/scripts/lib/summary.jq" "$BENCH_TMP/$name.runs"
  done | jq -s .
}

table() {
  jq -r '"\(.stack) stack, \(.host.cores) cores of \(.host.cpu), commit \(.commit[:12])\(if .dirty then "+changes" else "" end)"' \
    "$BENCH_TMP/result.json"
  jq -r -f "$REPO/scripts/lib/table.jq" "$BENCH_TMP/result.json" | column -t -s $'\t'
  echo "recorded in $STATS_FILE"
}

main "$@"
