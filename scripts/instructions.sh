#!/usr/bin/env bash
# What the parts of a request cost, in instructions and allocations: benches/micro under callgrind. Unlike times, these
# hardly depend on the machine and what else it does.
#
#   scripts/instructions.sh            table; fails when one of our own operations costs more than the baseline says
#   scripts/instructions.sh --update   table; writes the baseline, benches/baseline/instructions.json
#
# Fails above 3 % and 4 instructions more, or one allocation more in a hundred rounds. A baseline of another compiler or
# architecture is not compared with. Needs valgrind and jq (installed if missing). Takes about half a minute, and a few
# minutes for the release build.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

readonly BASELINE="$REPO/benches/baseline/instructions.json"
readonly SECONDS_MAX=300

main() {
  local update=false
  case ${1-} in
    '') ;;
    --update) update=true ;;
    *) usage ;;
  esac
  bench_require valgrind jq
  bench_init
  build
  count
  if $update; then
    jq . "$BENCH_TMP/now.json" >"$BASELINE"
    echo '{}' >"$BENCH_TMP/before.json"
  else
    cp "$BASELINE" "$BENCH_TMP/before.json"
  fi
  jq -nr --slurpfile now "$BENCH_TMP/now.json" --slurpfile before "$BENCH_TMP/before.json" \
    -f "$REPO/scripts/lib/instructions.jq" >"$BENCH_TMP/report"
  grep -v '^!' "$BENCH_TMP/report" | column -t -s $'\t'
  ! grep '^!' "$BENCH_TMP/report" >&2 || exit 1
}

build() {
  : >"$BENCH_TMP/cargo.json"
  bench_cargo --bench micro
  EXE=$(bench_executable bench micro)
}

# Runs every operation and leaves $BENCH_TMP/now.json.
count() {
  # A profile is written where the function `counted` begins and where it ends: every second one is of an operation.
  timeout --foreground "$SECONDS_MAX" valgrind --tool=callgrind --dump-before=micro::counted \
    --dump-after=micro::counted --compress-strings=no --compress-pos=no \
    --callgrind-out-file="$BENCH_TMP/profile" "$EXE" --instructions \
    >"$BENCH_TMP/operations" 2>"$BENCH_TMP/valgrind.log" || bench_show_log valgrind "valgrind failed"
  local operations number
  operations=$(wc -l <"$BENCH_TMP/operations")
  [[ -e $BENCH_TMP/profile.$((2 * operations)) && ! -e $BENCH_TMP/profile.$((2 * operations + 1)) ]] ||
    die "not two profiles for each of $operations operations: has the function 'counted' been inlined?"
  for ((number = 2; number <= 2 * operations; number += 2)); do
    summary "$BENCH_TMP/profile.$number"
  done | paste "$BENCH_TMP/operations" - | jq -Rn --arg rustc "$(rustc --version)" --arg arch "$(uname -m)" '
    [inputs / "\t" | {key: "\(.[1]) · \(.[2])", value: {
      instructions: ((.[3] | tonumber) / (.[0] | tonumber) | round),
      allocations: ((.[4] | tonumber) / (.[0] | tonumber) * 100 | round / 100)
    }}] | {rustc: $rustc, arch: $arch, operations: from_entries}' >"$BENCH_TMP/now.json"
}

# summary PROFILE: instructions and allocations. An allocation is a call to one of mimalloc's allocating functions, or of
# their C names, which call them, from outside of both.
summary() {
  awk '
    /^(summary|totals): / { instructions = $2 }
    /^fn=/ { caller = substr($0, 4) }
    /^cfn=/ { callee = substr($0, 5) }
    /^calls=/ && caller !~ /^(_?mi_|(m|c|re)alloc(\x27|$))/ && callee ~ /^(_?mi_.*alloc|malloc|calloc|realloc)/ {
      split(substr($1, 7), calls, " "); allocations += calls[1]
    }
    END { printf "%d\t%d\n", instructions, allocations }
  ' "$1"
}

main "$@"
