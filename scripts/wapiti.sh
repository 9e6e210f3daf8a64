#!/usr/bin/env bash
# wapiti's scan for vulnerabilities of web applications, against a running `thousandx dev`: it takes the paths from
# docs/openapi.json and attacks every parameter and every member of a task.
#
#   scripts/wapiti.sh                   build for release, then scan: about 10 s
#   scripts/wapiti.sh --binary PATH     with a binary that is built already
#
# Exit code 1 when it finds a vulnerability or an anomaly (a 5xx, an answer that takes too long). Not asked for: modules
# that look at pages and TLS, which there are none of, and those that need a host of their own outside. Needs Python;
# wapiti is kept in ${THOUSANDX_CACHE:-~/.cache/thousandx}.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"
# shellcheck source=scripts/lib/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/python.sh"

readonly REQUIREMENTS="$REPO/scripts/lib/wapiti-requirements.txt"
readonly MODULES=backup,cookieflags,crlf,exec,file,htaccess,ldap,methods,permanentxss,redirect,shellshock,sql,timesql,upload,xss
readonly SECONDS_MAX=300
readonly MODULE_SECONDS_MAX=30
readonly ANSWER_SECONDS_MAX=5
# Attacks that have to get through to the worker, or nothing was tried.
readonly TASKS_MIN=100

main() {
  bench_require curl jq
  python_beside_dev "$REQUIREMENTS" "$@"
  scan "$PYTHON_PROGRAMS/wapiti" "${BENCH_URL%/queue}"
  judge
}

# scan WAPITI URL: writes the report. Nothing outside this machine is asked: what has to be named for that is this machine.
scan() {
  local wapiti=$1 url=$2
  # It needs the server's address, and members of a task to attack; the document says that a task is any JSON.
  jq --arg url "$url" '.servers = [{url: $url}] | .paths["/queue"].post.requestBody.content = {"application/json": {schema:
    {type: "object", properties: ({action: "get_gift_code", user: "u-1"} | map_values({type: "string", example: .}))}}}' \
    "$REPO/docs/openapi.json" >"$BENCH_TMP/openapi.json"
  timeout --kill-after=5 "$SECONDS_MAX" "$wapiti" --url "$url/" --swagger "$BENCH_TMP/openapi.json" -m "$MODULES" \
    --endpoint "$url/" --dns-endpoint localhost --flush-session --no-bugreport --timeout "$ANSWER_SECONDS_MAX" \
    --max-attack-time "$MODULE_SECONDS_MAX" --store-session "$BENCH_TMP/session" --store-config "$BENCH_TMP/config" \
    --format json --output "$BENCH_TMP/report.json" >"$BENCH_TMP/wapiti.log" 2>&1 || bench_show_log wapiti "wapiti failed"
  ! grep -qE 'Traceback|Max attack time' "$BENCH_TMP/wapiti.log" || bench_show_log wapiti "a module failed or was cut off"
}

judge() {
  local found tasks
  [[ -n $(process_stamp "$BENCH_PID") ]] || die "the server has ended"
  found=$(jq '.vulnerabilities + .anomalies | map_values(select(. != []))' "$BENCH_TMP/report.json")
  tasks=$(curl -fs "${BENCH_URL%/queue}/metrics" | awk '$1 == "thousandx_answers_total{status=\"2xx\"}" { print $2 }') ||
    die "no metrics"
  ((${tasks:-0} >= TASKS_MIN)) || die "only ${tasks:-0} attacks got through to the worker"
  [[ $found == '{}' ]] || die "wapiti found: $found"
  echo "wapiti found nothing; $tasks of its tasks were answered by the worker"
}

main "$@"
