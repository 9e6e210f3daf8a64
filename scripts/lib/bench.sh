# shellcheck shell=bash
# What scripts/load.sh and scripts/wrk.sh share: building, starting what is measured, facts about the run, results.
# Sourced, never run.

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

STATS_FILE="${STATS_FILE:-$REPO/benchmark_stats.json}"
# Seconds until a server must be ready: the first join of a consumer group takes 3 of them.
readonly READY_SECONDS_MAX=60
# Capacity during throughput runs, unless the caller has set one: the limiter works and never refuses.
readonly BENCH_CAPACITY=100000

# What this script has started: "pid stamp" each, ended in reverse order.
BENCH_STARTED=()
# What is accounted for: "name=pid" each; BENCH_BACKEND is the part that outlives a restart of the server.
BENCH_CPU=()
BENCH_BACKEND=()
# Where the requests go, set by bench_wait_ready.
BENCH_URL=

# bench_inside_stack "$@": starts the script again with a real Kafka and Redis in its environment, which end with it.
bench_inside_stack() {
  [[ -z ${BENCH_INSIDE_STACK-} ]] || return 0
  BENCH_INSIDE_STACK=1 exec "$REPO/scripts/stack.sh" up --exec "$REPO/scripts/$(basename "$0")" "$@"
}

# bench_init: a directory for logs and parts of results, removed at the end with everything that was started.
bench_init() {
  BENCH_TMP=$(mktemp -d "${TMPDIR:-/tmp}/thousandx-bench.XXXXXX")
  trap bench_cleanup EXIT
  # The exit trap does the work, also on Ctrl-C.
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

bench_cleanup() {
  bench_stop_all
  rm -rf "$BENCH_TMP"
}

bench_stop_all() {
  while ((${#BENCH_STARTED[@]} > 0)); do
    bench_stop_last
  done
}

# bench_stop_last: ends what was started last and still runs.
bench_stop_last() {
  local pid stamp
  read -r pid stamp <<<"${BENCH_STARTED[-1]}"
  unset 'BENCH_STARTED[-1]'
  stop_process "$pid" "$stamp"
}

# bench_require PROGRAM…: installs what is missing, where that is possible.
bench_require() {
  local program
  for program in "$@"; do
    have "$program" && continue
    have apt-get || die "$program is missing: install it and try again"
    echo "installing $program" >&2
    as_root apt-get install -y -q "$program" >&2 || die "$program could not be installed"
  done
}

# bench_build KIND…: builds `thousandx` or `load` for release and sets EXE_THOUSANDX, EXE_LOAD; what was not built is
# empty.
# shellcheck disable=SC2034 # read by the scripts that source this one
bench_build() {
  local kind benches=() server=()
  for kind in "$@"; do
    case $kind in
      thousandx) server=(--bin thousandx) ;;
      *) benches+=(--bench "$kind") ;;
    esac
  done
  : >"$BENCH_TMP/cargo.json"
  # Apart, and the server last: cargo builds the binary with the benches too, and then with the features that only
  # their dependencies ask for. What is measured is what is shipped.
  ((${#benches[@]} == 0)) || bench_cargo "${benches[@]}"
  ((${#server[@]} == 0)) || bench_cargo "${server[@]}"
  EXE_THOUSANDX=$(bench_executable bin thousandx)
  EXE_LOAD=$(bench_executable bench load)
}

# bench_thousandx [PATH]: sets EXE_THOUSANDX to the binary at PATH, or to one that it builds for release.
bench_thousandx() {
  if [[ -n ${1-} ]]; then
    EXE_THOUSANDX=$1
  else
    bench_require jq
    bench_build thousandx
  fi
}

bench_cargo() {
  (cd "$REPO" && cargo build --locked --release "$@" --message-format=json-render-diagnostics) \
    >>"$BENCH_TMP/cargo.json" || die "the build failed"
}

# The path that cargo gave last.
bench_executable() {
  jq -r --arg kind "$1" --arg name "$2" 'select(.reason == "compiler-artifact" and .executable != null
    and .target.name == $name and (.target.kind | index($kind))) | .executable' "$BENCH_TMP/cargo.json" | tail -n 1
}

# bench_spawn NAME CMD…: starts a process of ours, its output in $BENCH_TMP/NAME.log; sets BENCH_PID.
bench_spawn() {
  local name=$1
  shift
  # A session of its own: Ctrl-C on the terminal is for this script, which ends what it started in order.
  setsid "$@" >"$BENCH_TMP/$name.log" 2>&1 </dev/null &
  BENCH_PID=$!
  BENCH_STARTED+=("$BENCH_PID $(process_stamp "$BENCH_PID")")
}

# bench_start_embedded: everything in one process, on the embedded broker.
bench_start_embedded() {
  bench_spawn_server dev
  BENCH_CPU=("server+worker+broker=$BENCH_PID")
  bench_wait_ready server "$BENCH_PID"
}

# bench_start_backend [WORKER…]: topics and a worker (default: the sample worker), beside the Kafka and Redis of
# scripts/stack.sh. Sets BENCH_BACKEND.
bench_start_backend() {
  (($# > 0)) || set -- "$EXE_THOUSANDX" work
  bench_find_backend
  bench_spawn worker "$@"
  BENCH_BACKEND=("worker=$BENCH_PID" "${BENCH_BACKEND[@]}")
}

# bench_find_backend: the same without a worker.
bench_find_backend() {
  local name pid _
  "$EXE_THOUSANDX" topics >"$BENCH_TMP/topics.log" 2>&1 || bench_show_log topics "the topics could not be made"
  BENCH_BACKEND=()
  while read -r name pid _; do
    BENCH_BACKEND+=("$name=$pid")
  done <"$THOUSANDX_CACHE/stack/processes"
}

# bench_start_server: `thousandx serve` on the Kafka and Redis that the environment names.
bench_start_server() {
  bench_spawn_server serve
  BENCH_CPU=("server=$BENCH_PID" "${BENCH_BACKEND[@]}")
  bench_wait_ready server "$BENCH_PID"
}

bench_spawn_server() {
  bench_spawn server env HOST=127.0.0.1 PORT=0 RATE_LIMIT_CAPACITY="${RATE_LIMIT_CAPACITY:-$BENCH_CAPACITY}" \
    "$EXE_THOUSANDX" "$1"
}

# bench_wait_ready NAME PID: until the process says where it listens and is ready; sets BENCH_URL.
bench_wait_ready() {
  local name=$1 pid=$2 address='' deadline=$((SECONDS + READY_SECONDS_MAX))
  until [[ -n $address ]] && curl -fs -o /dev/null --max-time 2 "http://$address/readyz"; do
    [[ -n $(process_stamp "$pid") ]] || bench_show_log "$name" "$name ended instead of serving"
    ((SECONDS < deadline)) || bench_show_log "$name" "$name was not ready within $READY_SECONDS_MAX s"
    sleep 0.05
    # Colours are dropped; both the text and the JSON log have the address in the line that says "listening".
    address=$(sed 's/\x1b\[[0-9;]*m//g' "$BENCH_TMP/$name.log" | grep -F listening |
      grep -oE '127\.0\.0\.1:[1-9][0-9]*' | tail -n 1) || true
  done
  BENCH_URL="http://$address/queue"
}

bench_show_log() {
  tail -n 20 "$BENCH_TMP/$1.log" >&2 || true
  die "$2 (its last lines are above)"
}

# bench_first_answer: until a whole round trip works: the worker may still be joining its group.
bench_first_answer() {
  local deadline=$((SECONDS + READY_SECONDS_MAX))
  until curl -fs -o /dev/null --max-time 15 -H 'content-type: application/json' \
    -d '{"action":"get_gift_code"}' "$BENCH_URL"; do
    ((SECONDS < deadline)) || die "no answer from $BENCH_URL within $READY_SECONDS_MAX s"
    sleep 0.1
  done
}

# bench_cpu_now: one line per accounted process: name, user and system ticks.
bench_cpu_now() {
  local entry stat fields
  for entry in "${BENCH_CPU[@]}"; do
    stat=$(cat "/proc/${entry##*=}/stat" 2>/dev/null) || continue
    # Fields 14 and 15 of proc(5); the name in parentheses may hold spaces.
    read -r -a fields <<<"${stat##*) }"
    echo "${entry%=*} ${fields[11]} ${fields[12]}"
  done
}

# bench_facts COMMAND STACK: who measured what, where and when, as JSON.
bench_facts() {
  local commit dirty=false settings=null
  # Those of a server that somebody else has started are not known.
  [[ $2 == url ]] || settings=$(bench_settings)
  commit=$(git -C "$REPO" rev-parse HEAD 2>/dev/null) || commit=unknown
  # What was measured before, this run's own files too, changes nothing of what is measured.
  [[ -z $(git -C "$REPO" status --porcelain -- . ':!benches/results' 2>/dev/null) ]] || dirty=true
  jq -n --arg command "$1" --arg stack "$2" --arg commit "$commit" --argjson dirty "$dirty" \
    --arg date "$(date -u +%Y-%m-%dT%H:%M:%SZ)" --argjson host "$(bench_host)" --argjson settings "$settings" \
    '{date: $date, command: $command, stack: $stack, commit: $commit, dirty: $dirty, settings: $settings, host: $host}'
}

bench_host() {
  local model mitigations
  model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
  mitigations=$(grep -H . /sys/devices/system/cpu/vulnerabilities/* 2>/dev/null | sed 's:.*/::' |
    jq -Rn '[inputs | capture("(?<key>[^:]*):(?<value>.*)")] | from_entries') || true
  jq -n --arg cpu "$model" --argjson cores "$(nproc)" --arg kernel "$(uname -r)" --arg load "$(cut -d' ' -f1 /proc/loadavg)" \
    --argjson memory_kib "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo)" \
    --argjson mitigations "${mitigations:-null}" \
    '{cpu: $cpu, cores: $cores, kernel: $kernel, memory_kib: $memory_kib, load_before: ($load | tonumber),
      mitigations: $mitigations}'
}

# The settings of the server that are not its defaults: ours, then those of .env.example that the environment or .env
# gives. Passwords in URLs are left out.
bench_settings() {
  local name value names
  names=$(sed -n 's/^#\{0,1\} *\([A-Z][A-Z0-9_]*\)=.*/\1/p' "$REPO/.env.example" 2>/dev/null | sort -u)
  {
    echo "RATE_LIMIT_CAPACITY=${RATE_LIMIT_CAPACITY:-$BENCH_CAPACITY}"
    [[ -f $REPO/.env ]] && grep -E '^[A-Z][A-Z0-9_]*=' "$REPO/.env"
    for name in $names KAFKA_BOOTSTRAP_SERVERS REDIS_URL; do
      value=${!name-}
      [[ -z $value ]] || echo "$name=$value"
    done
  } | sed -E 's#//[^/@]*@#//***@#; s/^(KAFKA_CONFIG=).*/\1***/' |
    jq -Rn '[inputs | capture("(?<key>[^=]*)=(?<value>.*)")] | from_entries'
}

# bench_record PATH…: puts the JSON on standard input at this path of the results file; what else it holds stays.
bench_record() {
  local path old='{}'
  path=$(printf '%s\n' "$@" | jq -Rn '[inputs]')
  [[ ! -s $STATS_FILE ]] || old=$(jq . "$STATS_FILE") || die "$STATS_FILE is not JSON"
  jq -n --argjson old "$old" --argjson path "$path" --slurpfile new /dev/stdin '$old | setpath($path; $new[0])' \
    >"$STATS_FILE.part"
  mv "$STATS_FILE.part" "$STATS_FILE"
}
