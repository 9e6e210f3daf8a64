#!/usr/bin/env bash
# A build of `thousandx` guided by a profile: builds one that counts, puts load on it, and builds again with what was
# counted. The result is target/pgo/thousandx. Takes about five minutes.
#
#   scripts/pgo.sh              profile on a real Kafka and Redis
#   scripts/pgo.sh --embedded   profile on the embedded stack
#
# Needs rustup's llvm-tools (installed if missing): the profile's format is that of the compiler's own LLVM.
# `scripts/compare.sh plain=- pgo=target/pgo/thousandx` says what it is worth.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

readonly PGO_DIR="$REPO/target/pgo"
# Loads that the profile is made from: connections, each for so many seconds.
readonly LOADS=(1 100 1000) SECONDS_EACH=8

main() {
  STACK=kafka
  case ${1-} in
    '') ;;
    --embedded) STACK=embedded ;;
    *) usage ;;
  esac
  [[ $STACK != kafka ]] || bench_inside_stack "$@"
  bench_require jq curl
  bench_init
  local merge connections
  merge=$(llvm_profdata)
  rm -rf "$PGO_DIR/raw" && mkdir -p "$PGO_DIR/raw"
  bench_build load
  local load=$EXE_LOAD
  # In a folder of their own, so that nothing else is built anew.
  CARGO_TARGET_DIR="$PGO_DIR" RUSTFLAGS="-C profile-generate=$PGO_DIR/raw" bench_build thousandx
  # Build scripts and macros count too; theirs are not wanted.
  rm -f "$PGO_DIR"/raw/*.profraw
  if [[ $STACK == kafka ]]; then bench_start_backend && bench_start_server; else bench_start_embedded; fi
  bench_first_answer
  for connections in "${LOADS[@]}"; do
    "$load" --url "$BENCH_URL" --connections "$connections" --seconds "$SECONDS_EACH" --warmup 0 >&2
  done
  # A process writes its counts when it ends in order.
  bench_stop_all
  compgen -G "$PGO_DIR/raw/*.profraw" >/dev/null || die "the server left no counts: it did not end in order"
  "$merge" merge --output "$PGO_DIR/merged.profdata" "$PGO_DIR"/raw/*.profraw
  CARGO_TARGET_DIR="$PGO_DIR" RUSTFLAGS="-C profile-use=$PGO_DIR/merged.profdata" bench_build thousandx
  cp "$EXE_THOUSANDX" "$PGO_DIR/thousandx"
  echo "target/pgo/thousandx"
}

# The compiler's own llvm-profdata.
llvm_profdata() {
  local tool
  tool="$(rustc --print target-libdir)/../bin/llvm-profdata"
  [[ -x $tool ]] || rustup component add llvm-tools >&2 || die "rustup's llvm-tools could not be installed"
  [[ -x $tool ]] || die "there is no llvm-profdata for this compiler"
  echo "$tool"
}

main "$@"
