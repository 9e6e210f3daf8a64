#!/usr/bin/env bash
# The unit tests of the pure modules under Miri, the interpreter that finds undefined behaviour, on nightly Rust.
#
#   scripts/miri.sh               all of them
#   scripts/miri.sh FILTER…       only tests whose names contain one of these
#
# Pure are those that call no C, no kernel and no network. Left out, and why:
#   kafka::native, client, lanes, submit, watch   librdkafka, which is C: the whole-path tests are for them
#   net::conn, io, socket, runtime, http::queue   sockets and epoll
#   admit::redis                                  a runtime with a clock and sockets; its batches are pure and are in
#   observe::process, log                         files of /proc, the terminal
#   config                                        pure, but text only, and hours of it here
#
# Without nightly or Miri, and when they cannot be installed, it says so and ends with 77. Takes some minutes.
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
cd "$REPO"

readonly SKIPPED=77
readonly SECONDS_MAX=1800
# Parts of the names of tests.
readonly PURE=(
  correlate::id:: correlate::mailbox:: correlate::table::
  kafka::wire::
  http::respond:: http::route:: http::body:: http::budget:: http::pacing::
  net::head::
  admit::counter:: admit::local:: admit::rate:: admit::redis::batch:: admit::redis::call::
  error::tests:: lifecycle::tests:: observe::clock:: observe::exposition:: observe::metrics::
  worker::handler:: worker::pace:: worker::track::
)
# Not in there: it would take hours.
# `queues_are_bounded` fills two queues of 65,536.
readonly LEFT_OUT=(admit::redis::batch::tests::queues_are_bounded)

main() {
  case ${1-} in -*) usage ;; esac
  local filters=("$@") skips=() name
  ((${#filters[@]} > 0)) || filters=("${PURE[@]}")
  for name in "${LEFT_OUT[@]}"; do
    skips+=(--skip "$name")
  done
  require
  # Isolation off: proptest looks for its file of past failures, and tests ask for the time. Few cases, as each takes
  # a thousand times as long. No leaks are looked for where a test lets something go on purpose.
  MIRIFLAGS="-Zmiri-disable-isolation" PROPTEST_CASES=4 PROPTEST_DISABLE_FAILURE_PERSISTENCE=1 \
    timeout --foreground "$SECONDS_MAX" cargo +nightly miri test --locked --lib \
    --target-dir "${CARGO_TARGET_DIR:-$REPO/target}/miri" -- "${filters[@]}" "${skips[@]}"
}

require() {
  have rustup || skip "rustup is missing"
  cargo +nightly --version >/dev/null 2>&1 || skip "there is no nightly toolchain (rustup toolchain install nightly)"
  if ! cargo +nightly miri --version >/dev/null 2>&1; then
    rustup +nightly component add miri rust-src >&2 || skip "Miri cannot be installed for this nightly"
  fi
  cargo +nightly miri setup >&2 || skip "Miri cannot build its standard library"
}

skip() {
  echo "skipped: $1"
  exit "$SKIPPED"
}

main "$@"
