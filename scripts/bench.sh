#!/usr/bin/env bash
# Every published figure in one go: measures, and leaves JSON, tables and charts.
#
#   scripts/bench.sh                     all sections, at most 30 minutes after the build; writes BENCHMARKS.md's figures
#   scripts/bench.sh --quick             all sections, at most 4 minutes: whether everything works, not figures to quote
#   scripts/bench.sh --section NAME …    these sections only; may be repeated
#   scripts/bench.sh --publish DIR       no measurement: charts and BENCHMARKS.md from the JSON in DIR
#   scripts/bench.sh --help              this text and the sections
#
# Results go to benches/results/DATE-COMMIT/ (RESULTS): one JSON file per section, table.md and *.svg. A full run on a
# clean work tree is published by itself. Each section has a Kafka and a Redis of its own, and ends what it started.
# Exit code 1 when a section failed, or an answer was wrong, malformed, lost or too late.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"
# shellcheck source=scripts/lib/bench-run.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench-run.sh"
# shellcheck source=scripts/lib/bench-sections.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench-sections.sh"

# name | what runs it (embedded, kafka: on a stack of its own, own: brings its stack) | what it does
readonly SECTIONS=(
  'embedded | embedded | throughput against connections and latency against load, embedded stack (T1)'
  'kafka    | kafka    | the same on a real Kafka and Redis (T1)'
  'wrk      | own      | closed loop with wrk, every answer checked'
  'peers    | own      | server and peers in turns: CPU per request (T2)'
  'latency  | kafka    | one connection, and half load, beside a bare Kafka ping-pong (T3)'
  'refusals | kafka    | 429 against bare hyper, in turns (T4)'
  'waiting  | kafka    | memory and CPU against requests in flight (T5)'
  'shards   | kafka    | one and two shards in turns (T6)'
  'routing  | kafka    | two instances: replies read and owned (T7)'
  'profiles | kafka    | the settings files of profiles/ in turns'
)
# A section that takes longer is ended.
readonly SECTION_SECONDS_MAX=900

QUICK=${QUICK:-false}
RESULTS=${RESULTS:-}

main() {
  local chosen=() publish='' inside='' name failed=() count=0
  while (($# > 0)); do
    case $1 in
      --quick) QUICK=true ;;
      --section) chosen+=("${2?"--section needs a name"}") && shift ;;
      --publish) publish=${2?"--publish needs a directory"} && shift ;;
      --inside) inside=${2?} && shift ;;
      --help) usage && return ;;
      *) usage >&2 && exit 64 ;;
    esac
    shift
  done
  if [[ -n $publish ]]; then
    draw "$publish" --publish
    return
  fi
  lengths
  if [[ -n $inside ]]; then
    inside "$inside"
    return
  fi
  ((${#chosen[@]} > 0)) || mapfile -t chosen < <(names)
  check "${chosen[@]}"
  prepare
  for name in "${chosen[@]}"; do
    count=$((count + 1))
    printf '== %s (%d of %d, %d min %02d s): %s\n' "$name" "$count" "${#chosen[@]}" $((SECONDS / 60)) $((SECONDS % 60)) \
      "$(field 3 "$(row "$name")")" >&2
    run_section "$name" || failed+=("$name")
  done
  draw "$RESULTS" "$(is_publishable "${#chosen[@]}" "${#failed[@]}" && echo --publish)"
  cat "$RESULTS/table.md"
  echo "results: $RESULTS"
  ((${#failed[@]} == 0)) || die "these sections failed or had bad answers: ${failed[*]}"
}

usage() {
  print_help
  printf '\nsections:\n'
  local section
  for section in "${SECTIONS[@]}"; do
    printf '  %-9s %s\n' "$(field 1 "$section")" "$(field 3 "$section")"
  done
}

# Rounds and seconds; what they add up to is what the first lines promise.
lengths() {
  if $QUICK; then
    MEASURED=2 WARMUP=1 WARM_SECONDS=1 ROUNDS=1 PEER_ROUNDS=1
  else
    MEASURED=5 WARMUP=2 WARM_SECONDS=20 ROUNDS=3 PEER_ROUNDS=5
  fi
}

# The build, and the place of the results.
prepare() {
  local commit
  bench_require jq curl python3 ss
  bench_init
  bench_build load bare-hyper kafka-ping thousandx
  EXE_BARE_HYPER=$(bench_executable bench bare-hyper)
  EXE_KAFKA_PING=$(bench_executable bench kafka-ping)
  commit=$(git -C "$REPO" rev-parse --short=12 HEAD 2>/dev/null) || commit=unknown
  RESULTS=${RESULTS:-$REPO/benches/results/$(date -u +%Y-%m-%d)-$commit}
  mkdir -p "$RESULTS"
  rm -f "$BENCH_TMP/cargo.json"
  export QUICK RESULTS EXE_THOUSANDX EXE_LOAD EXE_BARE_HYPER EXE_KAFKA_PING
}

# run_section NAME: in a process of its own, so that a section that fails leaves the others alone.
run_section() {
  local code=0 command=("$REPO/scripts/bench.sh" --inside "$1")
  [[ $(field 2 "$(row "$1")") != kafka ]] || command=("$REPO/scripts/stack.sh" up --exec "${command[@]}")
  # In a process group of its own, which `timeout` ends as a whole.
  timeout --kill-after=30 "$SECTION_SECONDS_MAX" "${command[@]}" </dev/null &
  SECTION_PID=$!
  trap 'stop_section 130' INT
  trap 'stop_section 143' TERM
  wait "$SECTION_PID" || code=$?
  trap 'exit 130' INT
  trap 'exit 143' TERM
  return "$code"
}

# stop_section CODE: the end, in the middle of a section. Its stack may have been ending already, by a process that the
# signal ended as well.
stop_section() {
  kill -TERM "$SECTION_PID" 2>/dev/null || true
  wait "$SECTION_PID" || true
  [[ -z $(ls "$THOUSANDX_CACHE/stack" 2>/dev/null) ]] || "$REPO/scripts/stack.sh" down
  exit "$1"
}

inside() {
  SECTION=$1
  # shellcheck disable=SC2034 # read by scripts/lib/bench-run.sh
  STACK=$(field 2 "$(row "$1")")
  # As many connections as may be.
  ulimit -n "$(ulimit -Hn)"
  bench_init
  "section_$SECTION"
  [[ ! -s $BENCH_TMP/faults ]] || die "bad answers in: $(sort -u "$BENCH_TMP/faults" | tr '\n' ' ')"
}

# draw DIR [--publish]: table.md and charts in DIR; with --publish the block in BENCHMARKS.md too.
draw() {
  python3 "$REPO/scripts/charts.py" "$1"
  python3 "$REPO/scripts/figures.py" "$1" ${2:+"$2"}
}

# is_publishable CHOSEN FAILED: everything was measured, at full length, at a commit that others can get.
is_publishable() {
  ! $QUICK && (($1 == ${#SECTIONS[@]} && $2 == 0)) && [[ -z $(git -C "$REPO" status --porcelain -- . ':!benches/results') ]]
}

names() {
  local section
  for section in "${SECTIONS[@]}"; do
    field 1 "$section"
  done
}

check() {
  local name
  for name in "$@"; do
    [[ -n $(row "$name") ]] || { usage >&2 && exit 64; }
  done
}

# row NAME: of SECTIONS.
row() {
  local section
  for section in "${SECTIONS[@]}"; do
    [[ $(field 1 "$section") != "$1" ]] || echo "$section"
  done
}

# field NUMBER ROW: one column of a row, without the spaces around it.
field() {
  cut -d '|' -f "$1" <<<"$2" | sed -e 's/^ *//' -e 's/ *$//'
}

main "$@"
