#!/usr/bin/env bash
# A soak: mixed load for a long time, and a verdict by slope whether anything grows.
#
#   scripts/soak.sh                      half an hour, on a real Kafka and Redis
#   scripts/soak.sh --minutes N          so many, 3 at least, which is a quick look
#   scripts/soak.sh … --out DIR          where samples.jsonl and verdict.json go (default: a temporary directory)
#
# Two servers share one limiter of 64 permits: one with the sample worker, one whose tasks nobody takes. The whole time
# there are steady requests, checked answer by answer (benches/load), connections that come and go, clients that leave
# while they wait, timeouts, late answers (the worker is stopped for longer than the deadline every 30 s), crowds above
# the capacity, nonsense, and slow clients: scripts/lib/soak_clients.py.
#
# Every 5 s: resident memory, descriptors, threads, requests in flight, connections, permits in Redis. The line of least
# squares over the second half, through the medians of its minutes, must not rise by more than the bounds of
# scripts/lib/soak_judge.py say; after the load everything must have been given back. Exit code 1 when not, or when an
# answer was wrong.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"

# In less there are too few samples for a line.
readonly MINUTES_MIN=3 MINUTES_MAX=1440
readonly SET=soak
# Permits of both servers together; the deadline is short, so that a soak meets it all the
# time. Others are as long as a busy machine needs, on which a client is late with its request.
readonly SETTINGS=(
  HOST=127.0.0.1 PORT=0 'LOG_LEVEL=warn,thousandx=info' RATE_LIMIT_CAPACITY=64 "RATE_LIMIT_CAPACITY_SET=$SET"
  KAFKA_GIFT_CODE_TIMEOUT=2 KAFKA_DELIVERY_TIMEOUT_MS=1500 LEASE_MARGIN_MS=3000
  REDIS_TIMEOUT_MS=1000 WRITE_TIMEOUT_MS=2000
)
readonly SILENT_TOPIC=soak-unanswered

MINUTES=30 OUT=''

main() {
  parse "$@"
  bench_inside_stack "$@"
  bench_require jq curl python3
  bench_init
  [[ -n $OUT ]] || OUT=$(mktemp -d "${TMPDIR:-/tmp}/thousandx-soak.XXXXXX")
  bench_build load thousandx
  TASKS_TOPIC=$SILENT_TOPIC "$EXE_THOUSANDX" topics >"$BENCH_TMP/silent-topics.log" 2>&1 ||
    bench_show_log silent-topics "the topic could not be made"
  bench_start_backend
  soak
}

parse() {
  while (($# > 0)); do
    case $1 in
      --minutes) MINUTES=${2?"--minutes needs a number"} && shift ;;
      --out) OUT=${2?"--out needs a directory"} && shift ;;
      *) usage ;;
    esac
    shift
  done
  if ! [[ $MINUTES =~ ^[1-9][0-9]*$ ]] || ((MINUTES < MINUTES_MIN || MINUTES > MINUTES_MAX)); then
    die "--minutes takes a number from $MINUTES_MIN to $MINUTES_MAX"
  fi
}

soak() {
  local silent server facts code=0
  # Before the load, so that they are of what was built.
  facts=$(export "${SETTINGS[@]}" && bench_facts "scripts/soak.sh --minutes $MINUTES" kafka)
  start silent env TASKS_TOPIC=$SILENT_TOPIC
  silent="${BENCH_URL%/queue}=$BENCH_PID"
  start server env
  server="${BENCH_URL%/queue}=$BENCH_PID"
  bench_first_answer
  python3 "$REPO/scripts/lib/soak.py" --seconds $((MINUTES * 60)) --load "$EXE_LOAD" --server "$server" \
    --silent "$silent" --worker "${BENCH_BACKEND[0]##*=}" --redis "$REDIS_URL" --key $SET --out "$OUT" || code=$?
  if [[ -s $OUT/verdict.json ]]; then
    jq --argjson facts "$facts" '$facts + .' "$OUT/verdict.json" >"$OUT/verdict.part"
    mv "$OUT/verdict.part" "$OUT/verdict.json"
  fi
  warnings silent server worker
  echo "samples and verdict: $OUT"
  return "$code"
}

# start NAME env…: one server with the settings above.
start() {
  local name=$1
  shift
  bench_spawn "$name" "$@" "${SETTINGS[@]}" "$EXE_THOUSANDX" serve
  bench_wait_ready "$name" "$BENCH_PID"
}

# warnings NAME…: what each of them complained about, each line once; a panic would be here.
warnings() {
  local name
  for name in "$@"; do
    grep -E '"level":"(WARN|ERROR)"|panicked' "$BENCH_TMP/$name.log" | sed 's/"timestamp":"[^"]*",*//' | sort | uniq -c |
      sort -rn | head -n 10 | sed "s/^/$name: /" || true
    ! grep -q panicked "$BENCH_TMP/$name.log" || die "$name panicked (see above)"
  done
}

main "$@"
