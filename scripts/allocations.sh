#!/usr/bin/env bash
# Where a whole request allocates: `thousandx serve` under callgrind on a real Kafka and Redis, and every call of an
# allocating function counted by whose code made it.
#
#   scripts/allocations.sh               table; also into profiles/allocations.txt
#
# The server is some fifty times slower under callgrind, so its batches are not those of full load: what is allocated
# once per batch weighs more here than there. Needs valgrind and jq (installed if missing); about a minute after the
# build. Every answer is checked. What parts cost, and the check against a baseline: scripts/instructions.sh.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"
# shellcheck source=scripts/lib/bench-run.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench-run.sh"

readonly CONNECTIONS=100
readonly SECONDS_WARM=5 SECONDS_COUNTED=10
readonly TABLE="$REPO/profiles/allocations.txt"

main() {
  (($# == 0)) || usage
  bench_inside_stack "$@"
  bench_require valgrind jq curl
  bench_init
  bench_build load thousandx
  bench_start_backend
  start_counted_server
  bench_first_answer
  load "$SECONDS_WARM"
  local before after
  callgrind_control --zero "$(pid_of server)" >/dev/null
  before=$(metric "$BENCH_URL" thousandx_replies_total 'result="delivered"')
  load "$SECONDS_COUNTED"
  after=$(metric "$BENCH_URL" thousandx_replies_total 'result="delivered"')
  callgrind_control --dump=counted "$(pid_of server)" >/dev/null
  cat "$BENCH_TMP"/profile.* >"$BENCH_TMP/all"
  {
    echo "scripts/allocations.sh, $CONNECTIONS connections, commit $(git -C "$REPO" rev-parse --short=12 HEAD), $((after - before)) right answers"
    echo
    table $((after - before))
  } | tee "$TABLE"
}

# One shard, so that there is one thread of each kind.
start_counted_server() {
  # Flags: valgrind would take an environment variable HOST for this machine's name.
  bench_spawn server valgrind --tool=callgrind --compress-strings=no --compress-pos=no \
    --callgrind-out-file="$BENCH_TMP/profile" "$EXE_THOUSANDX" serve --host 127.0.0.1 --port 0 --workers 1 \
    --rate-limit-capacity "$BENCH_CAPACITY" --redis-timeout-ms 5000
  BENCH_CPU=("server=$BENCH_PID")
  bench_wait_ready server "$BENCH_PID"
}

load() {
  "$EXE_LOAD" --url "$BENCH_URL" --connections "$CONNECTIONS" --seconds "$1" --warmup 0 >"$BENCH_TMP/load.log" 2>&1 ||
    bench_show_log load "the load failed"
}

# table REQUESTS: calls of allocating functions, per request. The C names call mimalloc's, and are not counted twice.
table() {
  awk -v requests="$1" '
    function whose(name) {
      if (name ~ /^rd_|^rd[a-z]*_|^rk[a-z]*_/) return "librdkafka"
      if (name ~ /hyper::|http::|httparse|http_body/) return "hyper and http"
      if (name ~ /^redis::|redis::/) return "the Redis client"
      if (name ~ /tokio/) return "tokio"
      if (name ~ /thousandx/) return "ours"
      return "other: C library, Rust library"
    }
    /^fn=/ { caller = substr($0, 4) }
    /^cfn=/ { callee = substr($0, 5) }
    /^calls=/ && caller !~ /^(_?mi_|malloc$|calloc$|realloc$)/ && callee ~ /^(_?mi_.*alloc|malloc|calloc|realloc)/ {
      split(substr($1, 7), calls, " ")
      party[whose(caller)] += calls[1]; all += calls[1]; by[caller] += calls[1]
    }
    END {
      print "allocations per request, by whose code"
      for (name in party) printf "%7.2f  %s\n", party[name] / requests, name | "sort -rn"
      close("sort -rn")
      printf "%7.2f  all\n\nby function, from 0.05 on\n", all / requests
      for (name in by) if (by[name] / requests >= 0.05) printf "%7.2f  %s\n", by[name] / requests, substr(name, 1, 110) | "sort -rn"
      close("sort -rn")
    }
  ' "$BENCH_TMP/all"
}

main "$@"
