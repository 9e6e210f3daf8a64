#!/usr/bin/env bash
# Every check of the project, on real parts: real Kafka, real Redis, the real binary.
#
#   scripts/test.sh                  all steps
#   scripts/test.sh unit real        these steps only
#   scripts/test.sh --without chaos  all steps but these
#   scripts/test.sh --help           this text and the steps
#
# Works from a bare clone on Debian 12 with Rust (rustup), as root or with sudo: the first step installs what is missing.
# Jars, Python packages, cargo-deny and the last chaos run are kept in ${THOUSANDX_CACHE:-~/.cache/thousandx}. About 20
# minutes on two cores, most of it compiling. The last line counts the steps; the exit code is 0 only when none failed.
#
# A real Kafka or Redis that cannot be had is a failure. THOUSANDX_REQUIRE_REAL=0 makes it a skipped step, but never
# where CI=true.
set -euo pipefail

# shellcheck source=scripts/lib/kafka.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/kafka.sh"
# shellcheck source=scripts/lib/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/python.sh"
# shellcheck source=scripts/lib/smoke.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/smoke.sh"
cd "$REPO"

# name | seconds it may take at most | what it does. The function of a step is step_NAME.
readonly STEPS=(
  'tools  | 600  | install what is missing, fetch Kafka and Python packages'
  'format | 60   | cargo fmt --check'
  'scripts| 120  | syntax of shell and Python scripts, shellcheck'
  'lint   | 900  | cargo clippy, warnings are errors'
  'deny   | 900  | licences, sources and versions of what the build depends on; advisories if their database can be had'
  'unit   | 1200 | unit, property and documentation tests'
  'system | 900  | tests of the binary that need no real Kafka or Redis'
  'real   | 1200 | tests on real Kafka and Redis: whole path, limiter, life cycle'
  'faults | 1200 | the fault matrix (its quick half), as a table'
  'loom   | 900  | interleavings of what crosses threads, all up to three preemptions; the judge of histories'
  'cost   | 900  | instructions and allocations of the parts of a request, against the baseline'
  'fuzz   | 600  | a few seconds of fuzzing for everything that reads bytes of others'
  'compose| 300  | docker-compose.yml against the schema and our settings'
  'image  | 1500 | replay of the image'"'"'s build stage: the release build'
  'smoke  | 900  | the release binary does what the README shows'
  'openapi| 900  | the release binary answers as docs/openapi.json says (schemathesis)'
  'chaos  | 900  | three minutes of random faults on three servers, judged from the history'
)

# Test files that need real parts: patterns of the names of cargo's test targets.
readonly REAL_TESTS='^(real.*|harness|limiter)$'
# And the one that the step `faults` runs.
readonly FAULT_TESTS='^real_faults$'

# What has to be there, and the Debian package that has it.
readonly PACKAGES=(
  'cc|build-essential'
  'make|build-essential'
  'pkg-config|pkg-config'
  'redis-server|redis-server'
  'redis-cli|redis-tools'
  'java|openjdk-17-jre-headless'
  'mvn|maven'
  'python3|python3'
  'setpriv|util-linux'
  'flock|util-linux'
  'perl|perl'
  'curl|curl'
  'git|git'
  'shellcheck|shellcheck'
  'strace|strace'
  'valgrind|valgrind'
  'jq|jq'
)

# Exit code of a step that could not run, and may be missed.
readonly SKIPPED=77
readonly CARGO_DENY_VERSION=0.20.2

# === the steps

step_tools() {
  have cargo || die "Rust is missing: install rustup; rust-toolchain.toml then picks the version"
  install_packages
  cargo --version
  if require_real || have_real; then
    kafka_fetch
  fi
  python_venv tests/template_worker/requirements.txt
  python_venv scripts/lib/compose-requirements.txt --no-deps
  python_venv scripts/lib/schemathesis-requirements.txt --no-deps
}

step_format() {
  local manifest
  for manifest in Cargo.toml tests/loom/Cargo.toml tests/history/Cargo.toml fuzz/Cargo.toml; do
    cargo fmt --all --check --manifest-path "$manifest"
  done
}

step_scripts() {
  local file
  while IFS= read -r file; do
    bash -n "$file"
  done < <(git ls-files '*.sh' .ci/run)
  git ls-files -z '*.py' | xargs -0 -r python3 -c \
    'import ast, sys; [ast.parse(open(name, encoding="utf-8").read(), name) for name in sys.argv[1:]]'
  if have shellcheck; then
    git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck --external-sources
  else
    note "shellcheck is not installed: only the syntax of the scripts was checked"
  fi
}

step_lint() {
  cargo clippy --locked --all-targets -- -D warnings
  local manifest
  for manifest in tests/history fuzz; do
    cargo clippy --locked --manifest-path "$manifest/Cargo.toml" --all-targets -- -D warnings
  done
  # Its tests are those of the modules that it includes, with another `cfg`.
  cargo clippy --locked --manifest-path tests/loom/Cargo.toml -- -D warnings
}

step_unit() {
  cargo test --locked --lib --bins 2>&1 | tee -a "$RUN/tests"
  cargo test --locked --doc
}

step_system() {
  run_tests -Ev
  # The load generator checks every published figure; its own tests are beside it.
  cargo test --locked --test load
}

step_real() {
  require_real || have_real || skip "no Java, Maven or redis-server on this machine"
  run_tests -E
}

step_faults() {
  require_real || have_real || skip "no Java, Maven or redis-server on this machine"
  # The rows that other test files cover have run in the steps before.
  scripts/faults.sh --quick --after "$RUN/tests"
  note "$(scripts/faults.sh --list | awk -F' *[|] *' '$2 == "full" { print $1 }' | paste -sd ' '): rows of the fault matrix that only scripts/faults.sh without --quick runs"
}

step_loom() {
  cargo test --locked --manifest-path tests/loom/Cargo.toml
  cargo test --locked --manifest-path tests/history/Cargo.toml
}

# The program is built once and kept.
step_deny() {
  local program="$THOUSANDX_CACHE/bin/cargo-deny"
  if have cargo-deny; then
    program=$(command -v cargo-deny)
  elif [[ ! -x $program ]]; then
    # Without optimisation: it runs for seconds.
    cargo install --locked --debug --quiet --root "$THOUSANDX_CACHE" cargo-deny --version "$CARGO_DENY_VERSION"
  fi
  local manifest
  for manifest in Cargo.toml tests/loom/Cargo.toml tests/history/Cargo.toml fuzz/Cargo.toml benches/peers/naive/Cargo.toml; do
    "$program" --locked --manifest-path "$manifest" --config "$PWD/deny.toml" check bans licenses sources
  done
  if "$program" --locked fetch db >"$RUN/advisories.log" 2>&1; then
    "$program" --locked check --disable-fetch advisories
  else
    note "no advisories were checked: their database cannot be reached"
  fi
}

step_fuzz() {
  scripts/fuzz.sh --seconds 3
}

step_cost() {
  scripts/instructions.sh
}

step_compose() {
  scripts/check-docker.sh compose
  note "no container was started: that the images can be pulled and the containers come up is not checked"
}

step_image() {
  scripts/check-docker.sh build
  touch "$RUN/released"
}

step_smoke() {
  released
  check_profiles "$RELEASED"
  smoke "$RELEASED"
}

step_openapi() {
  released
  scripts/openapi-check.sh --binary "$RELEASED"
}

step_chaos() {
  local out="$THOUSANDX_CACHE/chaos/test"
  require_real || have_real || skip "no Java, Maven or redis-server on this machine"
  rm -rf "$out"
  scripts/chaos.sh --minutes 3 --seed 1 --out "$out"
}

# === helpers of the steps

# Sets RELEASED to the release binary, built unless a step before has just built it from the same files.
released() {
  RELEASED="${CARGO_TARGET_DIR:-$REPO/target}/release/thousandx"
  [[ -f $RUN/released ]] || cargo build --release --locked --bin thousandx
  touch "$RUN/released"
}

install_packages() {
  local entry missing=()
  for entry in "${PACKAGES[@]}"; do
    have "${entry%%|*}" || missing+=("${entry##*|}")
  done
  [[ -f /usr/include/zlib.h ]] || missing+=(zlib1g-dev)
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  [[ ${#missing[@]} -gt 0 ]] || return 0
  echo "missing: ${missing[*]}"
  have apt-get || die "install these by hand: ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

require_real() {
  [[ ${CI:-} == true || ${THOUSANDX_REQUIRE_REAL:-1} != 0 ]]
}

have_real() {
  have java && have mvn && have redis-server
}

# run_tests GREP_OPTION: the test targets whose names match REAL_TESTS (-E), or the others (-Ev).
run_tests() {
  local name targets=()
  while IFS= read -r name; do
    targets+=(--test "$name")
  done < <(test_targets | grep "$1" "$REAL_TESTS" | grep -Ev "$FAULT_TESTS")
  [[ ${#targets[@]} -gt 0 ]] || die "no test matches"
  # The output, and what fault tests measured, are for the table of the step `faults`.
  cargo test --locked "${targets[@]}" 2>&1 | tee -a "$RUN/tests"
}

# As cargo finds them: tests/NAME.rs and tests/NAME/main.rs.
test_targets() {
  local path
  for path in tests/*.rs tests/*/main.rs; do
    [[ -f $path ]] || continue
    path=${path#tests/}
    path=${path%/main.rs}
    echo "${path%.rs}"
  done
}

# Every settings file that is shipped still loads.
check_profiles() {
  local binary=$1 profile
  for profile in profiles/*.env; do
    echo "$profile: $(env -i KAFKA_BOOTSTRAP_SERVERS=localhost:9092 REDIS_URL=redis://localhost \
      "$binary" config --check --for serve --env-file "$profile")"
  done
}

# note TEXT: something was not checked, though the step goes on.
note() {
  echo "$STEP: $1" >>"$RUN/notes"
}

# skip TEXT: the step cannot run, and that is allowed.
skip() {
  note "$1"
  exit "$SKIPPED"
}

# === running the steps

usage() {
  print_help
  printf '\nsteps:\n'
  local step
  for step in "${STEPS[@]}"; do
    printf '  %-8s %s\n' "$(field 1 "$step")" "$(field 3 "$step")"
  done
}

# field NUMBER ROW: one column of a row of STEPS, without the spaces around it.
field() {
  cut -d '|' -f "$1" <<<"$2" | sed -e 's/^ *//' -e 's/ *$//'
}

main() {
  local step name passed=0 failed=0 skipped=0 summary='' result seconds
  RUN=$(mktemp -d)
  export RUN THOUSANDX_ROWS="$RUN/rows"
  trap 'rm -rf "$RUN"' EXIT
  for step in "${STEPS[@]}"; do
    name=$(field 1 "$step")
    [[ $# -eq 0 || " $* " == *" $name "* ]] || continue
    printf '\n=== %s: %s\n' "$name" "$(field 3 "$step")"
    seconds=$SECONDS
    result=$(run_step "$name" "$(field 2 "$step")")
    seconds=$((SECONDS - seconds))
    case $result in
      passed) passed=$((passed + 1)) ;;
      skipped) skipped=$((skipped + 1)) ;;
      *) failed=$((failed + 1)) ;;
    esac
    printf '=== %s: %s after %d s\n' "$name" "$result" "$seconds"
    summary+=$(printf '%-8s %-24s %4d s' "$name" "$result" "$seconds")$'\n'
    # Without its tools every other step would fail with a message that misleads.
    [[ $name != tools || $result == passed ]] || break
  done
  printf '\n%s' "$summary"
  if [[ -s $RUN/notes ]]; then
    printf '\nnot checked:\n'
    cat "$RUN/notes"
  fi
  printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [[ $failed -eq 0 ]]
}

# Runs one step in a process of its own, with its time limit; its output goes to the terminal, its result is printed.
run_step() {
  local name=$1 limit=$2 code=0 pid
  timeout --kill-after=15 "$limit" bash "${BASH_SOURCE[0]}" --step "$name" </dev/null >&3 2>&4 &
  pid=$!
  # `timeout` has made a process group of its own: what ends this script has to be passed on.
  # shellcheck disable=SC2064 # the pid of now
  trap "kill -TERM $pid; exit 130" INT TERM
  wait "$pid" || code=$?
  case $code in
    0) echo passed ;;
    "$SKIPPED") echo skipped ;;
    124 | 137) echo "FAILED (over $limit s)" ;;
    *) echo "FAILED (exit $code)" ;;
  esac
}

# names_without NAME…: all steps but these.
names_without() {
  local step name
  for step in "${STEPS[@]}"; do
    name=$(field 1 "$step")
    [[ " $* " == *" $name "* ]] || echo "$name"
  done
}

check_names() {
  local name
  for name in "$@"; do
    declare -F "step_$name" >/dev/null || { echo "error: there is no step '$name'" >&2 && usage >&2 && exit 64; }
  done
}

case ${1:-all} in
  --help | -h) usage ;;
  --step) STEP=$2 && "step_$STEP" ;;
  all) main 3>&1 4>&2 ;;
  --without)
    shift
    [[ $# -gt 0 ]] || { usage >&2 && exit 64; }
    check_names "$@"
    mapfile -t chosen < <(names_without "$@")
    main "${chosen[@]}" 3>&1 4>&2
    ;;
  *) check_names "$@" && main "$@" 3>&1 4>&2 ;;
esac
