#!/usr/bin/env bash
# docs/openapi.json against a running `thousandx dev`: schemathesis makes requests from it, good and bad, and compares
# what comes back: no status, content type, header or body that is not declared, and no 5xx.
#
#   scripts/openapi-check.sh                   build for release, then check: about 20 s
#   scripts/openapi-check.sh --binary PATH     with a binary that is built already
#
# The requests are the same in every run. Needs Python; schemathesis is kept in ${THOUSANDX_CACHE:-~/.cache/thousandx}.
# Exit code 1 when an answer was not as declared.
set -euo pipefail

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/bench.sh"
# shellcheck source=scripts/lib/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/python.sh"

readonly REQUIREMENTS="$REPO/scripts/lib/schemathesis-requirements.txt"
readonly SECONDS_MAX=120
readonly EXAMPLES_MAX=30
readonly SEED=1
# Not asked for: whether what the document does not allow is refused. It allows every body and every header there is.
readonly CHECKS=not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
response_schema_conformance,unsupported_method

main() {
  bench_require curl
  python_beside_dev "$REQUIREMENTS" "$@"
  # It leaves a folder behind where it runs.
  (cd "$BENCH_TMP" && timeout --kill-after=5 "$SECONDS_MAX" "$PYTHON_PROGRAMS/schemathesis" --no-color run \
    "$REPO/docs/openapi.json" --url "${BENCH_URL%/queue}" --checks "$CHECKS" --phases examples,coverage,fuzzing \
    --max-examples "$EXAMPLES_MAX" --seed "$SEED" --generation-database none --continue-on-failure) ||
    die "the document and the server differ (see above)"
  [[ -n $(process_stamp "$BENCH_PID") ]] || die "the server has ended"
}

main "$@"
