#!/usr/bin/env bash
# Two or more builds, or settings, against each other: in turns, on the same Kafka and Redis, every answer checked.
#
#   scripts/compare.sh [options] VARIANT VARIANT…
#   VARIANT: NAME=BINARY or NAME=BINARY,SETTING=VALUE,…; BINARY `-` is this tree's own build
#
#   --embedded        on the embedded stack instead of a real Kafka and Redis
#   --connections N   of the load (default 1000), in a closed loop unless there is a rate
#   --rate N          an open loop: so many requests a second are due, and latency counts from when they were
#   --rounds N        turns of each (default 5); the table has medians, and the least and most
#   --seconds N       measured per turn, after 2 s of warm-up (default 5)
#   --out FILE        the result as JSON too
#   --note TEXT       goes into the result: what the binaries are made from
#
#   scripts/compare.sh before=PATH/thousandx after=-
#   scripts/compare.sh now=- linger=-,KAFKA_LINGER_MS=2
#
# Serve and work are both run from BINARY with the settings. One turn of 10 s of the first variant goes before, since a
# broker that has just started is slow. Exit code 1 when an answer was wrong, malformed, lost or too late.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

readonly COMMAND="scripts/compare.sh $*"
readonly SECONDS_WARMUP=2 SECONDS_FIRST=10
readonly ROUNDS_MAX=100
STACK=kafka CONNECTIONS=1000 RATE='' ROUNDS=5 SECONDS_EACH=5 OUT='' NOTE='' VARIANTS=()
FAULTY=false

main() {
  parse "$@"
  [[ $STACK != kafka ]] || bench_inside_stack "$@"
  bench_require jq curl
  bench_init
  bench_build load thousandx
  OWN=$EXE_THOUSANDX
  local round variant
  echo "== before measuring" >&2
  turn "${VARIANTS[0]}" "$SECONDS_FIRST"
  rm -f "$BENCH_TMP"/*.runs
  for ((round = 1; round <= ROUNDS; round++)); do
    for variant in "${VARIANTS[@]}"; do
      turn "$variant" "$SECONDS_EACH"
    done
  done
  result
  if $FAULTY; then die "answers were wrong, malformed, lost or too late (see above)"; fi
}

parse() {
  while (($# > 0)); do
    case $1 in
      --embedded) STACK=embedded ;;
      --connections | --rate | --rounds | --seconds)
        number "$@"
        case $1 in
          --connections) CONNECTIONS=$2 ;;
          --rate) RATE=$2 ;;
          --rounds) ROUNDS=$2 ;;
          *) SECONDS_EACH=$2 ;;
        esac
        shift
        ;;
      --note) NOTE=${2?"--note needs a text"} && shift ;;
      --out) OUT=${2?"--out needs a file"} && shift ;;
      *=*) VARIANTS+=("$1") ;;
      *) usage ;;
    esac
    shift
  done
  ((${#VARIANTS[@]} >= 1 && ROUNDS <= ROUNDS_MAX)) || usage
  local names
  names=$(printf '%s\n' "${VARIANTS[@]%%=*}")
  ! grep -qvE '^[A-Za-z0-9._-]+$' <<<"$names" || die "a variant's name has letters, digits, dots and dashes only"
  [[ -z $(sort <<<"$names" | uniq -d) ]] || die "two variants have the same name"
}

number() {
  [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || die "$1 needs a number from 1"
}

# turn VARIANT SECONDS: one start, one load, one end; a line on standard error, the report in $BENCH_TMP/NAME.runs.
turn() {
  local name=${1%%=*} rest=${1#*=} fields report="$BENCH_TMP/report.json" entry cpu=()
  IFS=, read -r -a fields <<<"$rest"
  EXE_THOUSANDX=${fields[0]}
  [[ $EXE_THOUSANDX != - ]] || EXE_THOUSANDX=$OWN
  [[ -x $EXE_THOUSANDX ]] || die "$EXE_THOUSANDX is no program"
  rm -f "$BENCH_TMP/faulty"
  (
    # A shell of its own: the settings end with the turn.
    for entry in "${fields[@]:1}"; do export "${entry?}"; done
    trap bench_stop_all EXIT
    if [[ $STACK == kafka ]]; then bench_start_backend && bench_start_server; else bench_start_embedded; fi
    bench_first_answer
    for entry in "${BENCH_CPU[@]}"; do cpu+=(--cpu "$entry"); done
    rm -f "$report"
    "$EXE_LOAD" --url "$BENCH_URL" --connections "$CONNECTIONS" --seconds "$2" --warmup "$SECONDS_WARMUP" \
      ${RATE:+--rate "$RATE"} "${cpu[@]}" --json "$report" >"$BENCH_TMP/load.log" 2>&1 || touch "$BENCH_TMP/faulty"
    [[ -s $report ]] || bench_show_log load "the load generator gave no report"
  )
  if [[ -e $BENCH_TMP/faulty ]]; then FAULTY=true && cat "$BENCH_TMP/load.log" >&2; fi
  cat "$report" >>"$BENCH_TMP/$name.runs"
  jq -r --arg name "$name" '"\($name): \(.rps | round)/s, p50 \(.latency_us.p50 / 1000) ms"' "$report" >&2
}

result() {
  local variant name
  for variant in "${VARIANTS[@]}"; do
    name=${variant%%=*}
    # Binaries are named by the variant only: where they lie is nobody's business.
    jq -s --arg name "$name" -f "$REPO/scripts/lib/summary.jq" "$BENCH_TMP/$name.runs" |
      jq --arg settings "$(cut -s -d, -f2- <<<"$variant" | sed -E 's#//[^/@]*@#//***@#; s/(KAFKA_CONFIG=).*/\1***/')" \
        '. + {settings: $settings}'
  done | jq -s --argjson facts "$(bench_facts "$COMMAND" "$STACK" | jq 'del(.command)')" --arg note "$NOTE" \
    --argjson connections "$CONNECTIONS" --argjson rate "${RATE:-null}" \
    '$facts + {note: $note, connections: $connections, rate: $rate, steps: .}' \
    >"$BENCH_TMP/result.json"
  jq -r -f "$REPO/scripts/lib/table.jq" "$BENCH_TMP/result.json" | column -t -s $'\t'
  [[ -z $OUT ]] || cp "$BENCH_TMP/result.json" "$OUT"
}

main "$@"
