#!/usr/bin/env bash
# Three servers on one real Kafka and Redis, under load, and faults at random; then the judgement of what clients and
# workers saw.
#
#   scripts/chaos.sh [--minutes N] [--seed S] [--out DIR]    a run, 3 minutes and a random seed unless given
#   scripts/chaos.sh --plan-only [--minutes N] [--seed S]    what would be broken, when, and for how long
#
# The plan is made from the seed alone: the same seed, the same faults at the same times. The history stays in DIR, by
# default ${THOUSANDX_CACHE:-~/.cache/thousandx}/chaos/DATE-SEED, with the logs of servers and workers; the last lines
# name it, and the verdict. Exit code 0: every promise was kept (tests/history has which, and how that is proven).
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
cd "$REPO"

main() {
  local minutes=3 seed=$((RANDOM * 32768 + RANDOM)) out='' plan=() failed=false
  while (($# > 0)); do
    case $1 in
      --minutes) minutes=$(number "$@") && shift ;;
      --seed) seed=$(number "$@") && shift ;;
      --out) out=$(realpath -m "${2?"--out needs a directory"}") && shift ;;
      --plan-only) plan=(--plan-only) ;;
      *) usage ;;
    esac
    shift
  done
  if ((${#plan[@]} > 0)); then
    drive --seed "$seed" --minutes "$minutes" --plan-only
    return
  fi
  out=${out:-$THOUSANDX_CACHE/chaos/$(date -u +%Y-%m-%dT%H-%M-%S)-seed-$seed}
  mkdir -p "$out"
  [[ -z $(ls -A "$out") ]] || die "$out is not empty"
  drive --seed "$seed" --minutes "$minutes" --out "$out" || failed=true
  judge "$out"/*.jsonl || failed=true
  echo "history: $out (seed $seed)"
  if $failed; then die "the run is not clean"; fi
}

drive() {
  # The test profile, as tests/real*.rs: with the assertions of a debug build in servers and driver.
  cargo test --locked --quiet --bench chaos -- "$@"
}

judge() {
  cargo run --locked --quiet --manifest-path tests/history/Cargo.toml --bin check-history -- "$@"
}

number() {
  [[ ${2-} =~ ^[0-9]{1,15}(\.[0-9]{1,3})?$ ]] || die "$1 needs a number"
  echo "$2"
}

main "$@"
