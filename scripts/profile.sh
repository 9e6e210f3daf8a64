#!/usr/bin/env bash
# Flamegraphs of the server's hot path, into profiles/: perf samples the server while every answer is checked.
#
#   scripts/profile.sh                   the embedded stack at 1, 100 and 1,000 connections
#   scripts/profile.sh --kafka           `thousandx serve` on a real Kafka and Redis
#   scripts/profile.sh --kafka 1000      these connection counts only
#   scripts/profile.sh --refusals 1000   the same, where nearly every request is refused with 429
#   scripts/profile.sh --bare-hyper 1000 benches/peers/bare-hyper, for comparison; no system calls
#
# Beside each picture a NAME.txt: the CPU by thread and by whose code it is, and system calls per request (strace).
#
# Each picture says in its subtitle how it was made, and at which commit. Needs perf (installed if missing) and inferno
# (`cargo install inferno`, done if missing). Takes about 20 s of load per picture.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"
# shellcheck source=scripts/lib/bench-run.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench-run.sh"

readonly SAMPLES_PER_SECOND=499
readonly SECONDS_SAMPLED=6
readonly SECONDS_WARMUP=2
readonly SECONDS_TRACED=3
readonly INFERNO_VERSION=0.12.8

main() {
  STACK=embedded
  case ${1-} in
    --kafka | --refusals)
      STACK=${1#--}
      bench_inside_stack "$@"
      shift
      ;;
    --bare-hyper) STACK=bare-hyper && shift ;;
    -*) usage ;;
  esac
  local counts=("$@") connections
  ((${#counts[@]} > 0)) || counts=(1 100 1000)
  have perf || { as_root apt-get install -y -q linux-perf >&2 || die "perf could not be installed"; }
  have strace || as_root apt-get install -y -q strace >&2 || die "strace could not be installed"
  have inferno-flamegraph || cargo install --locked --quiet inferno --version "$INFERNO_VERSION"
  bench_require jq curl
  bench_init
  # Frame pointers, so that perf can walk the stacks; in a folder of its own, so that nothing else is built anew.
  CARGO_TARGET_DIR="$REPO/target/profiling" RUSTFLAGS='-C force-frame-pointers=yes' \
    CFLAGS='-fno-omit-frame-pointer' bench_build load bare-hyper thousandx
  # shellcheck disable=SC2034 # read by start_echo
  EXE_BARE_HYPER=$(bench_executable bench bare-hyper)
  case $STACK in kafka | refusals) bench_start_backend ;; esac
  for connections in "${counts[@]}"; do
    [[ $connections =~ ^[1-9][0-9]{0,4}$ ]] || die "connections: a number from 1 to 99999, not $connections"
    picture "$connections"
  done
}

# picture CONNECTIONS: one server, one load, one SVG.
picture() {
  local connections=$1 name server load seconds=$((SECONDS_WARMUP + SECONDS_SAMPLED + 1)) rate
  name="$STACK-$connections"
  case $STACK in
    kafka) bench_start_server ;;
    # As refusals at the capacity, but without a client that keeps the permit.
    refusals) RATE_LIMIT_RPS=1 REFUSALS_PER_SECOND=0 bench_start_server ;;
    embedded) bench_start_embedded ;;
    bare-hyper) start_echo ;;
  esac
  bench_first_answer
  server=${BENCH_CPU[0]##*=}
  "$EXE_LOAD" --url "$BENCH_URL" --connections "$connections" --seconds "$seconds" --warmup 0 \
    >"$BENCH_TMP/load.log" 2>&1 &
  load=$!
  sleep "$SECONDS_WARMUP"
  perf record --freq "$SAMPLES_PER_SECOND" --call-graph fp --pid "$server" --output "$BENCH_TMP/perf.data" \
    -- sleep "$SECONDS_SAMPLED" >"$BENCH_TMP/perf.log" 2>&1 || bench_show_log perf "perf could not record"
  wait "$load" || bench_show_log load "the load failed"
  rate=$(awk -v seconds="$seconds" '$1 == "requests" { printf "%d requests/s", $2 / seconds }' "$BENCH_TMP/load.log")
  {
    echo "scripts/profile.sh, $STACK stack, $connections connections, commit $(git -C "$REPO" rev-parse --short=12 HEAD), $rate"
    shares
    [[ $STACK == bare-hyper ]] || system_calls "$server" "$connections"
  } >"$BENCH_TMP/$name.txt"
  mv "$BENCH_TMP/$name.txt" "$REPO/profiles/$name.txt"
  perf script --input "$BENCH_TMP/perf.data" 2>/dev/null | inferno-collapse-perf 2>/dev/null >"$BENCH_TMP/stacks"
  inferno-flamegraph --title "thousandx, $STACK stack, $connections connections" \
    --subtitle "scripts/profile.sh, commit $(git -C "$REPO" rev-parse --short=12 HEAD), $rate" \
    --minwidth 0.2 <"$BENCH_TMP/stacks" >"$REPO/profiles/$name.svg"
  echo "profiles/$name.svg: $rate"
  bench_stop_last
}

# shares: per cent of the samples by thread, and by whose code it is. With one link-time unit the compiler puts functions
# into each other, so that "hyper, tokio, ours" cannot be told apart by the name of the outermost.
shares() {
  echo
  echo "% of the server's CPU, by thread"
  perf report --input "$BENCH_TMP/perf.data" --no-children --call-graph none --sort comm --stdio 2>/dev/null |
    awk '$1 ~ /%$/ && $1 + 0 >= 0.1 { printf "%7.1f  %s\n", $1, $2 }'
  echo
  echo "% of the server's CPU, by whose code it is"
  perf report --input "$BENCH_TMP/perf.data" --no-children --call-graph none --sort dso,sym --stdio 2>/dev/null |
    awk '
      $1 !~ /%$/ { next }
      /\[k\]/ { whose["kernel"] += $1; next }
      $4 ~ /^(rd_|rdk|crc32|mtx_|cnd_)/ { whose["librdkafka"] += $1; next }
      $4 ~ /^_?mi_|^operator/ { whose["allocator"] += $1; next }
      $2 ~ /^libc|^\[vdso/ { whose["libc: copies, locks, clock"] += $1; next }
      /redis/ { whose["redis and the limiter"] += $1; next }
      { whose["hyper, http, tokio, ours"] += $1 }
      END { for (name in whose) printf "%7.1f  %s\n", whose[name], name }' | sort -rn
}

# system_calls PID CONNECTIONS: calls per request while strace counts, which slows the server down and so makes batches
# larger than they are without it.
system_calls() {
  local strace load before after
  "$EXE_LOAD" --url "$BENCH_URL" --connections "$2" --seconds $((SECONDS_TRACED + 4)) --warmup 0 >"$BENCH_TMP/load2.log" 2>&1 &
  load=$!
  sleep 2
  before=$(answered)
  strace --follow-forks --summary-only --attach "$1" --output "$BENCH_TMP/strace" 2>/dev/null &
  strace=$!
  sleep "$SECONDS_TRACED"
  kill -INT "$strace"
  wait "$strace" || true
  after=$(answered)
  wait "$load" || bench_show_log load2 "the load failed"
  ((after > before)) || die "no request was answered while strace counted"
  echo
  echo "system calls per request, of all threads"
  awk -v requests=$((after - before)) '$4 ~ /^[0-9]+$/ && $NF != "total" && $4 / requests >= 0.001 {
    printf "%7.3f  %s\n", $4 / requests, $NF }' "$BENCH_TMP/strace" | sort -rn
}

# Answers and refusals so far, by the server's own count.
answered() {
  curl -fs "${BENCH_URL%/queue}/metrics" | awk '/^thousandx_(answers|rejected)_total/ { sum += $2 } END { printf "%d", sum }'
}

main "$@"
