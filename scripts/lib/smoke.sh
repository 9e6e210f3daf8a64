# shellcheck shell=bash
# A smoke test of a binary, for scripts/test.sh, which has sourced the library for it. Sourced, never run.

readonly READY_SECONDS_MAX=30
readonly CURL=(curl --silent --show-error --max-time 5)

# The commands of the README's "Start", on a port of one's own and without this machine's settings.
smoke() {
  local binary=$1 port url pid dir code=0 deadline=$((SECONDS + READY_SECONDS_MAX))
  port=$(free_port)
  url="http://127.0.0.1:$port"
  dir=$(mktemp -d)
  (cd "$dir" && exec env -i PORT="$port" "$binary" >"$dir/log" 2>&1 </dev/null) &
  pid=$!
  # shellcheck disable=SC2064 # the values of now
  trap "kill -KILL $pid 2>/dev/null && wait $pid 2>/dev/null || true; rm -rf '$dir'" EXIT
  until "${CURL[@]}" --fail "$url/readyz" >/dev/null 2>&1; do
    if [[ -z $(process_stamp "$pid") ]] || ((SECONDS >= deadline)); then
      cat "$dir/log"
      die "the server is not ready"
    fi
    sleep 0.1
  done
  expect '200 .*"gift_code" *: *"GIFT-' -X POST "$url/queue"
  expect '200 .*"gift_code" *: *"GIFT-' -X POST "$url/queue" -d '{"action":"get_gift_code","n":1}'
  expect '400 .*"malformed_json"' -X POST "$url/queue" -d '{'
  expect '200 \{"Hello":"World"\}' "$url/"
  expect '200 ' "$url/livez"
  expect '200 .*ready' "$url/readyz?verbose"
  expect '200 .*thousandx_' "$url/metrics"
  expect '404 .*"not_found"' "$url/nothing"
  kill -TERM "$pid"
  wait "$pid" || code=$?
  [[ $code -eq 0 ]] || { cat "$dir/log" && die "after SIGTERM it ended with $code"; }
  echo "SIGTERM: clean end"
}

# expect PATTERN CURL_ARGUMENT…: status and body of one request match.
expect() {
  local pattern=$1 answer
  shift
  answer=$("${CURL[@]}" --write-out '\n%{http_code}' "$@") || die "curl $*: no answer"
  answer="${answer##*$'\n'} ${answer%$'\n'*}"
  [[ ${answer//$'\n'/ } =~ ^$pattern ]] || die "curl $*: expected $pattern, got: $answer"
  echo "curl $*: ${answer:0:100}"
}
