#!/usr/bin/env bash
# A real Kafka and a real Redis on loopback, for trying `thousandx serve` by hand and for benchmarks.
#
#   scripts/stack.sh up [--kafka-heap 1g]                start both, print the settings to export
#   scripts/stack.sh up [--kafka-heap 1g] --exec CMD…    start both, run CMD with those settings, end both
#   scripts/stack.sh env                                 print the settings of the running stack again
#   scripts/stack.sh status                              say what runs; exit 1 unless both do
#   scripts/stack.sh down                                end what `up` started, and nothing else; remove its data
#
#   eval "$(scripts/stack.sh up)"                        both at once, in the shell you are in
#
# Ports are chosen by the kernel. State, data and logs are in ${THOUSANDX_CACHE:-~/.cache/thousandx}/stack, one stack
# per cache. The topics are made by `thousandx topics`.
set -euo pipefail

# shellcheck source=scripts/lib/kafka.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/kafka.sh"

readonly STACK="$THOUSANDX_CACHE/stack"
# One line per process: name, pid, process_stamp.
readonly PROCESSES="$STACK/processes"
readonly SETTINGS="$STACK/env"
readonly REDIS_START_SECONDS_MAX=10

main() {
  local command=${1:-}
  shift || true
  case $command in
    up) up "$@" ;;
    down) [[ $# -eq 0 ]] || usage; with_lock stack down ;;
    env) [[ $# -eq 0 ]] || usage; status >/dev/null || die "the stack is not running"; cat "$SETTINGS" ;;
    status) [[ $# -eq 0 ]] || usage; status ;;
    *) usage ;;
  esac
}

up() {
  local heap=1g
  while [[ $# -gt 0 && $1 != --exec ]]; do
    [[ $1 == --kafka-heap && $# -ge 2 ]] || usage
    heap=$2
    shift 2
  done
  if [[ $# -eq 0 ]]; then
    with_lock stack start "$heap"
    cat "$SETTINGS"
    return
  fi
  shift
  [[ $# -gt 0 ]] || usage
  with_lock stack start "$heap"
  # Also on Ctrl-C and when CMD fails; the exit code is CMD's.
  trap 'with_lock stack down' EXIT
  # shellcheck source=/dev/null
  source "$SETTINGS"
  "$@"
}

start() {
  local heap=$1
  if status >/dev/null; then
    die "the stack is already running; scripts/stack.sh env prints its settings, down ends it"
  fi
  down
  have redis-server || die "redis-server is missing (Debian: redis-server)"
  kafka_fetch >/dev/null
  mkdir -p "$STACK"
  # What was started before a later step fails must not stay.
  trap down EXIT
  start_redis
  kafka_start "$STACK/kafka" "$KAFKA_FILES/jvm-stack.options" "$heap" record
  trap - EXIT
  cat >"$SETTINGS" <<-END
	export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:$KAFKA_PORT
	export REDIS_URL=redis://127.0.0.1:$REDIS_PORT/0
	END
}

start_redis() {
  local pid deadline=$((SECONDS + REDIS_START_SECONDS_MAX))
  REDIS_PORT=$(free_port)
  # A session of its own: Ctrl-C on the terminal is not for it.
  setsid redis-server --port "$REDIS_PORT" --bind 127.0.0.1 --save '' --appendonly no --dir "$STACK" \
    >"$STACK/redis.log" 2>&1 </dev/null &
  pid=$!
  record redis "$pid"
  until [[ $(redis-cli -p "$REDIS_PORT" ping 2>/dev/null) == PONG ]]; do
    if [[ -z $(process_stamp "$pid") ]] || ((SECONDS >= deadline)); then
      die "Redis did not start; its log is $STACK/redis.log"
    fi
    sleep 0.02
  done
}

record() {
  echo "$1 $2 $(process_stamp "$2")" >>"$PROCESSES"
}

down() {
  local name pid stamp
  if [[ -f $PROCESSES ]]; then
    while read -r name pid stamp; do
      stop_process "$pid" "$stamp"
    done <"$PROCESSES"
  fi
  rm -rf "$STACK"
}

status() {
  local name pid stamp running=0
  if [[ -f $PROCESSES ]]; then
    while read -r name pid stamp; do
      if [[ $(process_stamp "$pid") == "$stamp" ]]; then
        echo "$name: running, pid $pid"
        running=$((running + 1))
      else
        echo "$name: ended"
      fi
    done <"$PROCESSES"
  fi
  [[ $running -eq 2 ]] || { echo "the stack is not complete" && return 1; }
}

main "$@"
