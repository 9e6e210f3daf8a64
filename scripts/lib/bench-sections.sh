# shellcheck shell=bash
# The sections of scripts/bench.sh: section_NAME measures, and leaves $RESULTS/NAME.json. Each starts what it needs and
# ends it. What differs within a section is measured in turns (A B A B …). Sourced by scripts/bench.sh, never run.

readonly CONNECTIONS=(1 10 100 1000 10000)
readonly PERCENTS=(50 70 90)
readonly PEAK_CONNECTIONS=1000
# Descriptors of a process beside its connections, with room for the load generator's own.
readonly OTHER_DESCRIPTORS=1500
# Requests that wait while others are measured (T5).
readonly WAITING=(100 10000 18000 50000 100000)
# The load beside them, well below the peak: requests per second, on so many connections.
readonly BESIDE_RATE=10000
readonly BESIDE_CONNECTIONS=200
# Two instances share this, so that neither is the limit (T7).
readonly ROUTING_RATE=10000
readonly RESULT_PARTITIONS=8
# For so long a request keeps the only permit while the others are refused (T4).
readonly HOLD_SECONDS=60
# As scripts/load.sh --peer knows them.
readonly PEER_NAMES=(bare-hyper naive python spring)

# === throughput and latency against load (T1, T3)

section_embedded() {
  bench_start_embedded
  first_answer
  load_curve
  bench_stop_all
}

section_kafka() {
  bench_start_backend
  bench_start_server
  first_answer
  load_curve
  bench_stop_all
}

load_curve() {
  local round count percent peak steps=()
  for ((round = 1; round <= ROUNDS; round++)); do
    for count in "${CONNECTIONS[@]}"; do
      if ((count + OTHER_DESCRIPTORS > $(ulimit -Hn))); then continue; fi
      run_load "closed-$count" --connections "$count"
    done
    peak=$(step_median "closed-$PEAK_CONNECTIONS" 'rps | floor')
    for percent in "${PERCENTS[@]}"; do
      if ((peak < 100)) || { $QUICK && ((percent != 50)); }; then continue; fi
      run_load "open-$percent%" --rate $((peak * percent / 100)) --connections "$PEAK_CONNECTIONS"
    done
  done
  for count in "${CONNECTIONS[@]}"; do steps+=("closed-$count"); done
  for percent in "${PERCENTS[@]}"; do steps+=("open-$percent%"); done
  write_section "${steps[@]}"
}

# === what the server adds to Kafka (T3)

section_latency() {
  local round rate load
  bench_start_backend
  bench_start_server
  first_answer
  run_load peak --connections "$PEAK_CONNECTIONS"
  rate=$(step_median peak 'rps / 2 | floor')
  for ((round = 1; round <= ROUNDS; round++)); do
    run_load one-connection --connections 1
    ping ping-alone
    # The ping-pong's own tasks take part in the load: what it finds is Kafka and the worker at that load.
    run_load open-50% --rate "$rate" --connections "$PEAK_CONNECTIONS" &
    load=$!
    sleep "$WARMUP"
    ping ping-at-50%
    wait "$load" || note_fault open-50%
  done
  write_section peak one-connection ping-alone open-50% ping-at-50%
  bench_stop_all
}

# ping STEP: one run of the bare ping-pong, added to the step's list.
ping() {
  local report
  echo "   $1" >&2
  report=$(timeout --foreground "$((MEASURED + OVERTIME_SECONDS))" "$EXE_KAFKA_PING" --seconds "$((MEASURED > 2 ? MEASURED - 2 : 1))") ||
    die "the bare ping-pong failed"
  echo "$report" >>"$BENCH_TMP/$1.pings"
  step_note "$1" "$(jq -s -c 'def mid: sort | .[(length - 1) / 2 | floor];
    {pings: ., median: {latency_us: {p50: (map(.latency_us.p50) | mid), p99: (map(.latency_us.p99) | mid)}}}' \
    "$BENCH_TMP/$1.pings")"
}

# === peers (T2)

section_peers() {
  local peer turns options
  for peer in "${PEER_NAMES[@]}"; do
    if $QUICK && [[ $peer != bare-hyper && $peer != naive ]]; then continue; fi
    # The ratio to bare hyper is a target; the others differ by more than any noise.
    turns=$ROUNDS
    [[ $peer != bare-hyper ]] || turns=$PEER_ROUNDS
    options=(--kafka --peer "$peer" --runs "$turns" --seconds "$MEASURED")
    if $QUICK; then options+=(--quick); fi
    # It has a Kafka and a Redis of its own, and ends them.
    STATS_FILE="$BENCH_TMP/peers.json" "$REPO/scripts/load.sh" "${options[@]}" >"$BENCH_TMP/$peer.log" 2>&1 ||
      note_fault "$peer"
    echo "   $peer: $(tail -n 1 "$BENCH_TMP/$peer.log")" >&2
  done
  [[ -s $BENCH_TMP/peers.json ]] || die "the comparison with peers left no results"
  jq -c --argjson quick "$QUICK" '.peer.kafka | [to_entries[] | .value.peer = .key | .value] as $peers |
    ($peers[0] | del(.steps, .ratios, .peer)) + {section: "peers", quick: $quick,
      peers: ($peers | map({name: .peer, date, command, settings, ratios, steps}) | del(.[].steps[].runs[].url))}' \
    "$BENCH_TMP/peers.json" | one_run_a_line >"$RESULTS/peers.json"
}

# === a closed loop with a tool that others know

section_wrk() {
  STATS_FILE="$BENCH_TMP/wrk.json" "$REPO/scripts/wrk.sh" --kafka -w "$WARM_SECONDS" -d $((MEASURED * 4)) >"$BENCH_TMP/wrk.log" 2>&1 ||
    note_fault wrk
  [[ -s $BENCH_TMP/wrk.json ]] || bench_show_log wrk "wrk left no result"
  jq --argjson quick "$QUICK" '.wrk.kafka.checked + {section: "wrk", quick: $quick}' "$BENCH_TMP/wrk.json" \
    >"$RESULTS/wrk.json"
}

# === refusals (T4)

section_refusals() {
  local round
  bench_find_backend
  for ((round = 1; round <= PEER_ROUNDS; round++)); do
    # Nothing goes through Kafka here, so it need not be warm. There is no worker: the first request keeps the only permit until its deadline, and the others are refused.
    RATE_LIMIT_CAPACITY=1 KAFKA_GIFT_CODE_TIMEOUT=$HOLD_SECONDS start_server
    take_the_permit
    run_load refusing --connections "$PEAK_CONNECTIONS"
    kill "$HOLDER"
    bench_stop_last
    start_echo
    run_load bare-hyper --connections "$PEAK_CONNECTIONS"
    bench_stop_last
  done
  step_note refusing '{"settings":{"RATE_LIMIT_CAPACITY":"1"}}'
  write_section refusing bare-hyper
  bench_stop_all
}

# take_the_permit: a request, HOLDER, that has the only permit, as the refusal of another one shows.
take_the_permit() {
  local deadline=$((SECONDS + 10))
  HOLDER=
  until [[ -n $HOLDER && $(curl -s -o /dev/null --max-time 1 -w '%{http_code}' -d '{}' "$BENCH_URL") == 429 ]]; do
    ((SECONDS < deadline)) || die "the permit was not taken within 10 s"
    # It may itself have been refused, as the last look had the permit.
    if [[ -z $HOLDER ]] || ! kill -0 "$HOLDER" 2>/dev/null; then
      curl -s -o /dev/null --max-time "$HOLD_SECONDS" -d '{}' "$BENCH_URL" &
      HOLDER=$!
    fi
  done
}

# === cost against requests in flight (T5)

section_waiting() {
  local round waiting steps=()
  bench_start_backend
  bench_start_server
  first_answer
  bench_stop_last && bench_stop_last
  bench_find_backend
  for ((round = 1; round <= ROUNDS; round++)); do
    for waiting in "${WAITING[@]}"; do
      if $QUICK && ((waiting != 100 && waiting != 10000)); then continue; fi
      if ((waiting + OTHER_DESCRIPTORS > $(ulimit -Hn))); then
        echo "   $waiting waiting: not with $(ulimit -Hn) file descriptors" >&2
        continue
      fi
      waiting_step "$waiting"
    done
  done
  for waiting in "${WAITING[@]}"; do steps+=("waiting-$waiting"); done
  write_section "${steps[@]}"
  bench_stop_all
}

# waiting_step COUNT: COUNT requests wait for an answer that never comes; what that costs at rest, and what it adds to
# the cost of requests that are answered meanwhile. What is noted of memory and rest is the last round's. The worker joins
# late, as a group of its own and at the end of the topic ("latest"), so that it never sees the tasks of those who wait.
waiting_step() {
  local waiting=$1 server rss_idle rss_connected rss_waiting cpu
  RATE_LIMIT_CAPACITY=200000 MAX_QUEUE_SIZE=200000 MAX_CONNECTIONS=200000 KAFKA_GIFT_CODE_TIMEOUT=300 \
    HEADER_TIMEOUT_MS=60000 REDIS_TIMEOUT_MS=2000 start_server
  server=$(pid_of server)
  rss_idle=$(rss_kib "$server")
  hold_start "$waiting"
  hold connect
  # A first request each, so that what HTTP keeps per connection is there before the waiting begins.
  hold greet
  rss_connected=$(rss_kib "$server")
  hold send
  wait_in_flight "$waiting"
  rss_waiting=$(rss_kib "$server")
  cpu=$(idle_cpu_us "$server")
  bench_spawn worker env KAFKA_CONFIG=auto.offset.reset=latest WORKER_GROUP="bench-$server" "$EXE_THOUSANDX" work
  BENCH_CPU+=("worker=$BENCH_PID")
  await_worker
  run_load "waiting-$waiting" --rate "$BESIDE_RATE" --connections "$BESIDE_CONNECTIONS"
  step_note "waiting-$waiting" "$(jq -n -c --argjson waiting "$waiting" --argjson idle "$rss_idle" \
    --argjson connected "$rss_connected" --argjson rss "$rss_waiting" --argjson cpu "$cpu" \
    --argjson still "$(metric "$BENCH_URL" thousandx_in_flight)" \
    '{settings: {REDIS_TIMEOUT_MS: "2000", KAFKA_GIFT_CODE_TIMEOUT: "300"}, waiting: $waiting, waiting_at_the_end: $still, rss_kib: {idle: $idle, connected: $connected, waiting: $rss},
      bytes_per_connection: (($connected - $idle) * 1024 / $waiting | round),
      bytes_per_waiting_request: (($rss - $connected) * 1024 / $waiting | round), cpu_us_per_s_at_rest: $cpu}')"
  # Worker, those who wait (their connections end), server.
  bench_stop_last && bench_stop_last && bench_stop_last
}

# wait_in_flight COUNT: until the server says that so many requests wait.
wait_in_flight() {
  local deadline=$((SECONDS + HOLD_SECONDS_MAX))
  until (($(metric "$BENCH_URL" thousandx_in_flight) >= $1)); do
    ((SECONDS < deadline)) || die "only $(metric "$BENCH_URL" thousandx_in_flight) of $1 requests wait"
    sleep 0.1
  done
}

# Until the worker answers. Unlike bench_first_answer it does not wait long for a task that the worker never sees.
await_worker() {
  local deadline=$((SECONDS + READY_SECONDS_MAX))
  until curl -fs -o /dev/null --max-time 1 -d '{"action":"get_gift_code"}' "$BENCH_URL"; do
    ((SECONDS < deadline)) || bench_show_log worker "no answer from the worker within $READY_SECONDS_MAX s"
  done
}

# === from one shard to two (T6)

section_shards() {
  local round rate last=$(($(nproc) - 1)) own=false
  # With four cores or more the server has two of its own. With fewer nothing is pinned, all share the cores, and only
  # the server's CPU time per request says how well two shards do.
  if (($(nproc) >= 4)); then own=true; fi
  bench_start_backend
  if $own; then
    pin_backend "2-$last"
    GENERATOR=(taskset -c "2-$last")
  fi
  start_shards 2 "$own"
  run_load peak-2 --connections "$PEAK_CONNECTIONS"
  bench_stop_last
  # Two shards at the load of one: each has smaller batches, so what it shows of the gain is a lower bound. At twice the
  # load, i.e. equal load per shard, the threads that shards share have larger batches: an upper bound.
  rate=$(step_median peak-2 'rps * 0.7 | floor')
  for ((round = 1; round <= ROUNDS; round++)); do
    start_shards 1 "$own"
    run_load shards-1 --rate $((rate / 2)) --connections $((PEAK_CONNECTIONS / 2))
    ! $own || run_load closed-1 --connections "$PEAK_CONNECTIONS"
    bench_stop_last
    start_shards 2 "$own"
    run_load shards-2-equal-load --rate $((rate / 2)) --connections $((PEAK_CONNECTIONS / 2))
    run_load shards-2 --rate "$rate" --connections "$PEAK_CONNECTIONS"
    ! $own || run_load closed-2 --connections "$PEAK_CONNECTIONS"
    bench_stop_last
  done
  # shellcheck disable=SC2034 # read by run_load
  GENERATOR=()
  step_note shards-2 "$(jq -n -c --argjson own "$own" '{server_cores_of_its_own: $own}')"
  write_section shards-1 shards-2-equal-load shards-2 closed-1 closed-2
  rm -f "$BENCH_TMP/peak-2.runs"
  bench_stop_all
}

# start_shards SHARDS PIN: with PIN true, on as many cores from the first on.
start_shards() {
  WORKERS=$1 start_server
  ! $2 || taskset -a -c -p "0-$(($1 - 1))" "$(pid_of server)" >/dev/null
  first_answer
}

# pin_backend CORES
pin_backend() {
  local entry
  for entry in "${BENCH_BACKEND[@]}"; do
    taskset -a -c -p "$1" "${entry##*=}" >/dev/null || true
  done
}

# === two instances (T7)

section_routing() {
  local half=$((RESULT_PARTITIONS / 2)) routing steps=()
  RESULTS_PARTITIONS=$RESULT_PARTITIONS bench_start_backend
  routing_step shared '' ''
  routing_step partition "0-$((half - 1))" "$half-$((RESULT_PARTITIONS - 1))"
  for routing in shared partition; do
    steps+=("$routing-both-1" "$routing-both-2" "$routing-one")
  done
  write_section "${steps[@]}"
  bench_stop_all
}

# routing_step ROUTING PARTITIONS PARTITIONS: load on both instances, then on the first one only: what the second one
# does then, it does for replies that are not its own.
routing_step() {
  local routing=$1 url pid before load index
  url=() pid=()
  SERVER_NAME=first REPLY_ROUTING=$routing REPLY_PARTITIONS=$2 start_server
  url[1]=$BENCH_URL pid[1]=$BENCH_PID
  first_answer
  SERVER_NAME=second REPLY_ROUTING=$routing REPLY_PARTITIONS=$3 start_server
  url[2]=$BENCH_URL pid[2]=$BENCH_PID
  first_answer

  before=()
  for index in 1 2; do before[index]=$(instance_counts "${url[index]}" "${pid[index]}"); done
  BENCH_CPU=("server=${pid[1]}") BENCH_URL=${url[1]}
  run_load "$routing-both-1" --rate $((ROUTING_RATE / 2)) --connections "$BESIDE_CONNECTIONS" &
  load=$!
  BENCH_CPU=("server=${pid[2]}") BENCH_URL=${url[2]}
  run_load "$routing-both-2" --rate $((ROUTING_RATE / 2)) --connections "$BESIDE_CONNECTIONS"
  wait "$load" || note_fault "$routing-both-1"
  for index in 1 2; do
    step_note "$routing-both-$index" "$(counts_since "${before[index]}" "${url[index]}" "${pid[index]}")"
  done

  before[2]=$(instance_counts "${url[2]}" "${pid[2]}")
  BENCH_CPU=("server=${pid[1]}") BENCH_URL=${url[1]}
  run_load "$routing-one" --rate "$ROUTING_RATE" --connections "$BESIDE_CONNECTIONS"
  step_note "$routing-one" "$(counts_since "${before[2]}" "${url[2]}" "${pid[2]}")"
  bench_stop_last && bench_stop_last
}

# instance_counts URL PID: what an instance has read, and what that cost, as JSON. `delivered` are the replies that its
# own requests got.
instance_counts() {
  local bytes connections
  read -r bytes connections <<<"$(broker_sockets "$2" "${KAFKA_BOOTSTRAP_SERVERS##*:}")"
  jq -n -c --argjson records "$(metric "$1" thousandx_reply_records_total)" \
    --argjson delivered "$(metric "$1" thousandx_replies_total 'result="delivered"')" \
    --argjson foreign "$(metric "$1" thousandx_replies_total 'result="foreign"')" \
    --argjson ticks "$(cpu_ticks "$2")" --argjson tick_us "$((1000000 / $(getconf CLK_TCK)))" \
    --argjson bytes "$bytes" --argjson connections "$connections" \
    '{records: $records, delivered: $delivered, foreign: $foreign, cpu_us: ($ticks * $tick_us),
      bytes_from_brokers: $bytes, broker_connections: $connections}'
}

# counts_since COUNTS URL PID: the difference until now; of the number of connections, the number.
counts_since() {
  jq -n -c --argjson before "$1" --argjson after "$(instance_counts "$2" "$3")" \
    '{counts: ($after | with_entries(if .key != "broker_connections" then .value -= $before[.key] else . end))}'
}

# === tuning profiles

section_profiles() {
  local round profile options steps=()
  bench_find_backend
  for ((round = 1; round <= ROUNDS; round++)); do
    for profile in defaults "$REPO"/profiles/*.env; do
      options=()
      [[ $profile == defaults ]] || options=(--env-file "$profile")
      profile_step "$(basename "$profile" .env)" "${options[@]}"
    done
  done
  for profile in defaults "$REPO"/profiles/*.env; do
    profile=$(basename "$profile" .env)
    steps+=("$profile-one-connection" "$profile-open-$BESIDE_RATE" "$profile-peak")
  done
  write_section "${steps[@]}"
  bench_stop_all
}

# profile_step NAME FLAG…: worker and server with these flags.
profile_step() {
  local name=$1
  shift
  bench_spawn worker "$EXE_THOUSANDX" work "$@"
  BENCH_BACKEND+=("worker=$BENCH_PID")
  start_server "$@"
  first_answer
  run_load "$name-one-connection" --connections 1
  $QUICK || run_load "$name-open-$BESIDE_RATE" --rate "$BESIDE_RATE" --connections "$BESIDE_CONNECTIONS"
  run_load "$name-peak" --connections "$PEAK_CONNECTIONS"
  bench_stop_last && bench_stop_last
  unset 'BENCH_BACKEND[-1]'
}
