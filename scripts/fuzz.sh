#!/usr/bin/env bash
# Fuzzing of everything that reads bytes of others: replies, tasks, ids, bodies, heads, settings. The targets are in
# fuzz/, what they promise in fuzz/src/targets/.
#
#   scripts/fuzz.sh                          every target for 10 s, on the stable toolchain (fuzz/src/bin/drive.rs)
#   scripts/fuzz.sh --seconds N [TARGET…]    these targets (default: all) for N s each
#   scripts/fuzz.sh --seed N …               the same inputs again, as long as corpus and code are the same
#   scripts/fuzz.sh --coverage …             then also by cargo-fuzz, which follows coverage: if it and nightly are there
#   scripts/fuzz.sh FILE                     one input, e.g. of fuzz/artifacts/TARGET/
#
# An input that fails is kept in fuzz/artifacts/TARGET/; what is worth keeping goes to fuzz/corpus/TARGET/, small. Exit
# code 1 when a target failed.
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
cd "$REPO"

# Beyond the time of the targets: the corpus, and one slow input.
readonly OVERTIME_SECONDS=60
readonly TARGETS=(reply task id body head settings)

main() {
  local seconds=10 seed=() coverage=false targets=()
  while (($# > 0)); do
    case $1 in
      --seconds) seconds=${2?"--seconds needs a number"} && shift ;;
      --seed) seed=(--seed "${2?"--seed needs a number"}") && shift ;;
      --coverage) coverage=true ;;
      -*) usage ;;
      *) targets+=("$1") ;;
    esac
    shift
  done
  [[ $seconds =~ ^[1-9][0-9]{0,4}$ ]] || die "--seconds takes a number from 1 to 99999"
  drive "$seconds" --seconds "$seconds" "${seed[@]}" "${targets[@]}"
  if $coverage; then
    ((${#targets[@]} > 0)) || targets=("${TARGETS[@]}")
    follow_coverage "$seconds" "${targets[@]}"
  fi
}

# drive SECONDS ARGUMENT…: built in the main crate's target directory, so that the dependencies are built once. A death
# without a panic, e.g. of a stack that overflows, is a failure like any other.
drive() {
  local seconds=$1 dir="${CARGO_TARGET_DIR:-$REPO/target}"
  shift
  cargo build --quiet --locked --manifest-path fuzz/Cargo.toml --bin drive --target-dir "$dir"
  timeout --foreground $((${#TARGETS[@]} * seconds + OVERTIME_SECONDS)) "$dir/debug/drive" "$@"
}

# follow_coverage SECONDS TARGET…: says so when it cannot.
follow_coverage() {
  local seconds=$1 target
  shift
  if ! have cargo-fuzz || ! cargo +nightly --version >/dev/null 2>&1; then
    echo "skipped: cargo-fuzz or the nightly toolchain is missing; only the driver has run"
    return 0
  fi
  for target in "$@"; do
    # No sanitizer: the code has no unsafe but for librdkafka's interface, which no target calls, and the allocator that
    # the library brings takes the place that the address sanitizer wants. What is found goes to a copy of the corpus.
    mkdir -p "fuzz/artifacts/corpus/$target"
    cargo +nightly fuzz run --sanitizer none --features libfuzzer "$target" "fuzz/artifacts/corpus/$target" \
      "fuzz/corpus/$target" -- -max_total_time="$seconds" -max_len=4096 -timeout=5
  done
}

if [[ $# -eq 1 && -f $1 ]]; then
  drive 1 "$(realpath "$1")"
else
  main "$@"
fi
