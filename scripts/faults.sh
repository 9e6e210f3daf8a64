#!/usr/bin/env bash
# The fault matrix, row by row, on real Kafka and real Redis: what was broken, what the client saw, how long until 503
# and until it was served again, within which bound.
#
#   scripts/faults.sh                every row
#   scripts/faults.sh --quick        the half that scripts/test.sh runs
#   scripts/faults.sh --row R2       one row, also several times
#   scripts/faults.sh --list         the rows and the tests that are behind them
#
#   --out FILE      the same as JSON; by default target/faults.json
#   --after LOG     output of `cargo test` from before, with THOUSANDX_ROWS set as now: what ran there is not run again
#
# Each row is one test or several, under tests/. After each the tests judge the history of every request (exactly one
# answer, its own), that the set of permits is empty, and that service is back within the row's bound; a machine that is
# busy with other tests may add 2 s. librdkafka's mock cluster stands in only where a real broker cannot be made to do it.
# Every Redis requires a password and KAFKA_CONFIG has one, and neither may be seen in logs, answers or metrics.
# Needs what scripts/test.sh installs; some rows beyond the quick half also Go, which builds toxiproxy (Debian:
# golang-go). What cannot be had is printed as skipped; with CI=true it is a failure.
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/common.sh"
cd "$REPO"

# row | half | test target | part of the tests' names | fault | what the client sees
# The last two are for tests that only pass or fail; the others print a row themselves, measured.
readonly ROWS=(
  'R1 | quick | real_faults    | r1_'
  'R1 | quick | limiter        | r1_ | the limiter alone: Redis is down at the start | refused at once'
  'R2 | quick | real_faults    | r2_killed'
  'R2 | full  | real_faults    | r2_r3_link'
  'R2 | quick | limiter        | r2_ | the limiter alone: Redis is killed and restarted | refused within the budget'
  'R3 | quick | real_faults    | r3_hung'
  'R3 | full  | real_faults    | r2_r3_link'
  'R3 | quick | limiter        | r3_ | the limiter alone: Redis is frozen, replies are lost | refused, no ghost stays'
  'R4 | quick | real_faults    | r4_slow'
  'R4 | full  | real_faults    | r4_link'
  'R5 | quick | real_faults    | r5_'
  'R6 | quick | real_faults    | r6_'
  'R7 | quick | real_faults    | r7_'
  'R8 | quick | real_faults    | r8_'
  'R8 | quick | limiter        | r8_ | the limiter alone: no password, a wrong one | refused'
  'R9 | quick | real_faults    | r9_'
  'K1 | quick | real_faults    | k1_'
  'K2 | quick | real_faults    | k1_k2_k3_k5_s11'
  'K2 | full  | real_faults    | k2_k3_link'
  'K3 | quick | real_faults    | k1_k2_k3_k5_s11'
  'K3 | full  | real_faults    | k2_k3_link'
  'K4 | quick | real_faults    | k4_'
  'K5 | quick | real_faults    | k1_k2_k3_k5_s11'
  'K5 | full  | real_faults    | k5_leaders'
  'K5 | quick | kafka_mock     | k5_'
  'K6 | quick | real_faults    | k6_'
  'K7 | quick | real_faults    | k7_'
  'K8 | quick | real_faults    | k8_'
  'W1 | quick | real_faults    | w1_'
  'W1 | quick | real_lifecycle | tasks_of_a_killed_worker'
  'W2 | quick | real_path      | strays_are_counted | two equal results | 200, the first'
  'W3 | quick | real_path      | strays_are_counted | a result after the deadline | 504 before it'
  'W4 | quick | real_path      | what_the_worker_cannot_do | results that cannot be read | 502'
  'W4 | quick | real_path      | a_huge_reply | a result of 900 kB | 200, and the reader goes on'
  'W4 | quick | real_path      | a_reply_of_50_mb | a result of 50 MB, on a topic that takes it | 200, and the reader goes on'
  'W5 | quick | real_path      | strays_are_counted | results under unknown ids | 504 at the deadline'
  'W6 | quick | real_path      | what_the_worker_cannot_do | the worker reports an error | 502 with its code'
  'W7 | quick | real_path      | strays_are_counted | a forged id, one digit off | 504 at the deadline'
  'C1 | quick | real_path      | a_client_that_leaves | clients leave in 14 ways | permits back within 1 s'
  'C1 | quick | real_path      | extra_bytes_seen | a client sends more, and leaves | its permit back within 1 s'
  'C1 | quick | real_faults    | c_storm'
  'C2 | quick | http           | slow_clients_are | slow heads, slow bodies, idleness | 408, or the end at the limit'
  'C3 | quick | real_path      | a_slow_reader | answers are not read | no permit is held meanwhile'
  'C3 | quick | http           | a_client_that_does_not | answers are never read | the end at the write limit'
  'C4 | quick | http           | a_body_over_the_limit | bodies over the limit | 413'
  'C5 | quick | http           | every_bad_request | malformed JSON, other types | 400, 415'
  'C6 | quick | http           | every_bad_request | broken framing, missing and doubled Host | 400 and the end'
  'C7 | quick | http           | every_bad_request | header bombs, long targets | 431, 414 and the end'
  'C8 | none  | -              | - | HTTP/2 floods | HTTP/2 is not spoken'
  'C9 | quick | http           | pipelined_requests | twenty requests in one write | answers in order'
  'S1 | quick | real_lifecycle | a_drain_under_load'
  'S1 | quick | real_lifecycle | a_drain_takes_nothing | SIGTERM with requests in flight | 200, and the end of it'
  'S2 | quick | real_lifecycle | when_the_grace_is_over'
  'S3 | quick | real_lifecycle | permits_of_a_killed_instance'
  'S4 | full  | real_faults    | s4_'
  'S5 | full  | real_faults    | s5_'
  'S6 | quick | real_faults    | s6_'
  'S7 | quick | real_faults    | s7_'
  'S8 | quick | http           | bodies_that_arrive_have | bodies over the common bound | 503 overloaded'
  'S8 | quick | http           | connections_above_the_cap | more connections than may be | 503 overloaded'
  'S9 | quick | lib            | a_panic_ends_its_own | a handler panics (unit test) | 500 to that client'
  'S10 | quick | real_faults   | s10_'
  'S11 | quick | real_faults   | s11_'
)

# One test target; the longest takes about two minutes.
readonly TARGET_SECONDS_MAX=900

main() {
  local half=full out=target/faults.json after='' wanted=()
  while [[ $# -gt 0 ]]; do
    case $1 in
      --quick) half=quick ;;
      --row) wanted+=("${2:?--row needs a name}") && shift ;;
      --out) out=${2:?--out needs a file} && shift ;;
      --after) after=${2:?--after needs a file} && shift ;;
      --list) printf '%s\n' "${ROWS[@]}" && exit ;;
      *) usage ;;
    esac
    shift
  done
  local row
  for row in "${wanted[@]}"; do
    printf '%s\n' "${ROWS[@]}" | grep -q "^$row " || die "no such row: $row"
  done
  run "$half" "$out" "$after" "${wanted[@]}"
}

run() {
  local half=$1 out=$2 after=$3 target code=0
  shift 3
  DIR=$(mktemp -d)
  trap 'rm -rf "$DIR"' EXIT
  select_rows "$half" "$@" >"$DIR/selected"
  [[ -s $DIR/selected ]] || die "no such row: $*"
  export THOUSANDX_ROWS="${THOUSANDX_ROWS:-$DIR/rows}"
  if [[ -f $after ]]; then
    cp "$after" "$DIR/tests"
  else
    rm -f "$THOUSANDX_ROWS"
  fi
  touch "$THOUSANDX_ROWS" "$DIR/tests"
  while IFS= read -r target; do
    run_target "$target" || code=$?
  done < <(column 3 "$DIR/selected" | grep -v '^-$' | awk '!seen[$0]++')
  mkdir -p "$(dirname "$out")"
  python3 scripts/lib/faults.py "$DIR/selected" "$THOUSANDX_ROWS" "$DIR/tests" "$out" || code=$?
  return "$code"
}

# select_rows HALF NAME…: rows of that half, or those with these names.
select_rows() {
  local half=$1 row name
  shift
  for row in "${ROWS[@]}"; do
    if [[ $# -gt 0 ]]; then
      for name in "$@"; do
        [[ ${row%% *} != "$name" ]] || echo "$row"
      done
    elif [[ $half == full || $row != *'| full '* ]]; then
      echo "$row"
    fi
  done
}

# column NUMBER FILE: of a file of rows, without the spaces around it.
column() {
  cut -d '|' -f "$1" "$2" | sed -e 's/^ *//' -e 's/ *$//'
}

# Runs the selected tests of one target that have not run yet.
run_target() {
  local target=$1 name names=() choice=(--test "$1")
  [[ $target != lib ]] || choice=(--lib)
  while IFS= read -r name; do
    has_run "$target" "$name" || names+=("$name")
  done < <(awk -F ' *[|] *' -v target="$target" '$3 == target { print $4 }' "$DIR/selected" | sort -u)
  [[ ${#names[@]} -gt 0 ]] || return 0
  timeout --kill-after=15 "$TARGET_SECONDS_MAX" cargo test --locked "${choice[@]}" -- "${names[@]}" </dev/null 2>&1 |
    tee -a "$DIR/tests"
}

# has_run TARGET NAME: whether the output of before has such a test of this target.
has_run() {
  awk -v target="$1" -v name="$2" '
    /^ *Running unittests src\/lib.rs/ { current = "lib" }
    /^ *Running tests\// { current = $2; sub("^tests/", "", current); sub("(/main)?[.]rs$", "", current) }
    /^test .* [.][.][.] / && current == target && index($2, name) { found = 1 }
    END { exit !found }' "$DIR/tests"
}

main "$@"
