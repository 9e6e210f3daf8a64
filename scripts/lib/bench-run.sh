# shellcheck shell=bash
# What the sections of scripts/bench.sh are made of: one run of the load generator, facts about a process, a section's
# results. Sourced by scripts/bench.sh after scripts/lib/bench.sh, never run.

# What a run may take beyond its own length: connecting, the last answers' timeout, a slow start.
readonly OVERTIME_SECONDS=40
# Until a command of bench-hold.py is done: 18,000 connections take about 2 s.
readonly HOLD_SECONDS_MAX=60
# Time in which a process shows what it costs to do nothing.
readonly IDLE_SECONDS=4

# A command before the load generator, to pin it.
GENERATOR=()
# Whether Kafka, its JVM above all, has had load in this section.
WARM=false

# run_load STEP ARGUMENT…: one run; its report is appended to the step's runs. May run beside another one.
run_load() {
  local step=$1 entry cpu=() report="$BENCH_TMP/$1.report"
  shift
  for entry in "${BENCH_CPU[@]}"; do
    cpu+=(--cpu "$entry")
  done
  rm -f "$report"
  echo "   $step" >&2
  "${GENERATOR[@]}" timeout --foreground "$((MEASURED + WARMUP + OVERTIME_SECONDS))" \
    "$EXE_LOAD" --url "$BENCH_URL" --seconds "$MEASURED" --warmup "$WARMUP" "${cpu[@]}" --json "$report" "$@" \
    >"$BENCH_TMP/$step.log" || note_fault "$step"
  [[ -s $report ]] || bench_show_log "$step" "the load generator gave no report"
  jq -c 'del(.url)' "$report" >>"$BENCH_TMP/$step.runs"
}

# note_fault STEP: an answer was wrong, malformed, lost or too late, or there was none. The section goes on.
note_fault() {
  [[ ! -s $BENCH_TMP/$1.log ]] || cat "$BENCH_TMP/$1.log" >&2
  echo "$1" >>"$BENCH_TMP/faults"
}

# first_answer: as bench_first_answer; the first time in a section also some load that nobody measures.
first_answer() {
  bench_first_answer
  ! $WARM || return 0
  WARM=true
  timeout --foreground "$((WARM_SECONDS + OVERTIME_SECONDS))" "$EXE_LOAD" --url "$BENCH_URL" --connections 1000 \
    --seconds "$WARM_SECONDS" --warmup 0 >"$BENCH_TMP/warm.log" || bench_show_log warm "the load before measuring failed"
}

# step_median STEP FIELD: the median of a number over the runs so far, e.g. rps.
step_median() {
  jq -s --arg name "$1" -f "$REPO/scripts/lib/summary.jq" "$BENCH_TMP/$1.runs" | jq ".median.$2"
}

# step_note STEP JSON: an object that goes into the step's result beside the load generator's numbers.
step_note() {
  [[ -n $2 ]] || die "$1: what was to be noted could not be found out"
  echo "$2" >>"$BENCH_TMP/$1.notes"
}

# write_section STEP…: the section's results, from its runs and notes, into the results directory; steps that were not
# run are left out. What the runs left behind is removed, for the next section.
write_section() {
  local step
  for step in "$@"; do
    [[ -s $BENCH_TMP/$step.runs || -s $BENCH_TMP/$step.notes ]] || continue
    touch "$BENCH_TMP/$step.runs" "$BENCH_TMP/$step.notes"
    if [[ -s $BENCH_TMP/$step.runs ]]; then
      jq -s --arg name "$step" -f "$REPO/scripts/lib/summary.jq" "$BENCH_TMP/$step.runs"
    else
      jq -n --arg name "$step" '{name: $name}'
    fi | jq --slurpfile notes "$BENCH_TMP/$step.notes" '. + ($notes | add // {})'
  done | jq -s . >"$BENCH_TMP/steps.json"
  rm -f "$BENCH_TMP"/*.runs "$BENCH_TMP"/*.notes
  jq -c --argjson facts "$(bench_facts "scripts/bench.sh --section $SECTION" "$STACK")" --argjson quick "$QUICK" \
    --arg section "$SECTION" '$facts + {section: $section, quick: $quick, steps: .}' "$BENCH_TMP/steps.json" |
    one_run_a_line >"$RESULTS/$SECTION.json"
}

# JSON on one line to lines that a diff can show: a step and a run each begin one.
one_run_a_line() {
  sed -e 's/{"name":/\n{"name":/g' -e 's/{"mode":/\n {"mode":/g'
}

# start_server ARGUMENT…: as bench_start_server, with flags of `thousandx serve`.
# SERVER_NAME tells two of them apart.
start_server() {
  local name=${SERVER_NAME:-server}
  bench_spawn "$name" env HOST=127.0.0.1 PORT=0 RATE_LIMIT_CAPACITY="${RATE_LIMIT_CAPACITY:-$BENCH_CAPACITY}" \
    "$EXE_THOUSANDX" serve "$@"
  BENCH_CPU=("server=$BENCH_PID" "${BENCH_BACKEND[@]}")
  bench_wait_ready "$name" "$BENCH_PID"
}

# start_echo: bare hyper alone, under the policy that the server asks for itself.
start_echo() {
  bench_spawn echo chrt --batch 0 "$EXE_BARE_HYPER" --listen 127.0.0.1:0
  BENCH_CPU=("server=$BENCH_PID")
  bench_wait_ready echo "$BENCH_PID"
}

# pid_of NAME: of an accounted process.
pid_of() {
  local entry
  for entry in "${BENCH_CPU[@]}"; do
    [[ ${entry%=*} != "$1" ]] || echo "${entry##*=}"
  done
}

# rss_kib PID: resident memory.
rss_kib() {
  sed -n 's/^VmRSS:[[:space:]]*\([0-9]*\).*/\1/p' "/proc/$1/status"
}

# cpu_ticks PID: user and system time so far, in clock ticks.
cpu_ticks() {
  local stat fields
  stat=$(cat "/proc/$1/stat")
  # Fields 14 and 15 of proc(5); the name in parentheses may hold spaces.
  read -r -a fields <<<"${stat##*) }"
  echo $((fields[11] + fields[12]))
}

# idle_cpu_us PID: CPU time per second, in µs, over IDLE_SECONDS.
idle_cpu_us() {
  local before
  before=$(cpu_ticks "$1")
  sleep "$IDLE_SECONDS"
  echo $((($(cpu_ticks "$1") - before) * (1000000 / $(getconf CLK_TCK)) / IDLE_SECONDS))
}

# metric URL NAME [LABELS]: a number from /metrics of the server whose queue is at URL; 0 when it is not there.
metric() {
  local series=$2
  [[ $# -eq 2 ]] || series="$2{$3}"
  curl -fs --max-time 5 "${1%/queue}/metrics" |
    awk -v name="$series " 'index($0, name) == 1 { value = $2 } END { printf "%d\n", value }'
}

# broker_sockets PID PORT: bytes that the process has received from this port, and its connections to it.
broker_sockets() {
  ss -tinp "dport = :$2" 2>/dev/null | awk -v pid="pid=$1," '
    /^ESTAB/ { mine = index($0, pid) > 0; count += mine }
    mine && match($0, /bytes_received:[0-9]+/) { sum += substr($0, RSTART + 15, RLENGTH - 15) }
    END { printf "%d %d\n", sum, count }'
}

# === requests that wait (bench-hold.py)

# hold_start COUNT: a process that opens connections and sends requests on demand.
hold_start() {
  local host=${BENCH_URL#http://}
  host=${host%/queue}
  coproc HOLD { exec python3 "$REPO/scripts/lib/bench-hold.py" "${host%:*}" "${host##*:}" "$1" 2>"$BENCH_TMP/hold.log"; }
  # shellcheck disable=SC2153 # set by coproc
  BENCH_STARTED+=("$HOLD_PID $(process_stamp "$HOLD_PID")")
}

# hold COMMAND: `connect` or `send`, until it is done.
hold() {
  local answer=''
  echo "$1" >&"${HOLD[1]}"
  read -r -t "$HOLD_SECONDS_MAX" answer <&"${HOLD[0]}" || true
  [[ $answer == "done" ]] || bench_show_log hold "connections could not be held ($1)"
}
