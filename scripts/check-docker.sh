#!/usr/bin/env bash
# Checks Dockerfile and docker-compose.yml on a machine without a container engine.
#
#   scripts/check-docker.sh compose    the compose file: schema of the specification, dependencies, settings, defaults
#   scripts/check-docker.sh build      replay the build stage as shell in a copy of what `COPY . .` would send, then look
#                                      at the binary as the final stage would have it
#
# `build` leaves the release build in ${CARGO_TARGET_DIR:-target}, so that it costs one build and not two, and needs root
# or sudo for the stage's apt-get.
#
# Not checked, because it takes an engine and a registry: that the images can be pulled, that the final stage's few
# instructions work, that the containers start and reach each other, that the health checks pass.
set -euo pipefail

# shellcheck source=scripts/lib/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/python.sh"

readonly DOCKERFILE="$REPO/Dockerfile"
# The shared libraries that debian:bookworm-slim has (packages libc6, libgcc-s1 and zlib1g, which dpkg needs).
readonly RUNTIME_LIBRARIES='^(linux-vdso|ld-linux-.*|libc|libm|libdl|libpthread|librt|libgcc_s|libz)\.so'

check_compose() {
  local python schema
  python=$(python_venv "$REPO/scripts/lib/compose-requirements.txt" --no-deps)
  schema=$("$python" -c 'import compose, os; print(os.path.dirname(compose.__file__))')
  "$python" "$REPO/scripts/lib/check_compose.py" \
    "$schema/config/compose_spec.json" "$REPO/docker-compose.yml" "$REPO/.env.example"
  echo "docker-compose.yml is sound"
}

check_build() {
  # The same path every time: to cargo, another path is another crate, to be kept beside the last one.
  local context="$THOUSANDX_CACHE/docker-context" target=${CARGO_TARGET_DIR:-$REPO/target}
  rm -rf "$context"
  mkdir -p "$context" "$target"
  copy_context "$context"
  # The stage's `target` is a cache of the builder; here it is the cache of this machine.
  ln -s "$(realpath "$target")" "$context/target"
  replay "$context"
  check_binary "$context/out/thousandx"
  rm -rf "$context"
  echo "the build stage works"
}

# What `COPY . .` sends: the work tree, without what git or .dockerignore leaves out.
copy_context() {
  local context=$1 path pattern
  git -C "$REPO" ls-files -z --cached --others --exclude-standard |
    while IFS= read -r -d '' path; do
      # Listed, and deleted since.
      [[ ! -e $REPO/$path ]] || printf '%s\0' "$path"
    done |
    tar -C "$REPO" --null --files-from=- -cf - | tar -C "$context" -xf -
  while read -r pattern; do
    # shellcheck disable=SC2086 # a pattern may match several
    [[ -z $pattern || $pattern == \#* ]] || rm -rf "${context:?}"/$pattern
  done <"$REPO/.dockerignore"
}

# Runs the stage's ENV and RUN lines, each RUN in a shell of its own as the builder does.
replay() {
  local context=$1 line
  while IFS= read -r line <&3; do
    case $line in
      ENV\ *) export "${line#ENV }" ;;
      RUN\ *) run_line "$context" "${line#RUN }" ;;
    esac
  done 3< <(build_stage)
}

run_line() {
  local context=$1 command
  command=$(sed -E 's/--mount=[^ ]+ +//g' <<<"$2")
  echo "+ $command"
  if [[ $command == apt-get* ]]; then
    # The image's package lists are in the image; this machine needs its own.
    as_root sh -eu -c "${command%%&& rm -rf /var/lib/apt/lists/*}"
  else
    (cd "$context" && unset CARGO_TARGET_DIR && sh -eu -c "$command")
  fi
}

# The instructions of the stage `build`, one a line.
build_stage() {
  awk '
    /^[[:space:]]*#/ { next }
    { line = line $0 }
    /\\$/ { sub(/[[:space:]]*\\$/, " ", line); next }
    { gsub(/[[:space:]]+/, " ", line)
      if (line ~ /^FROM /) inside = (line ~ / AS build$/)
      else if (inside && line != "") print line
      line = "" }
  ' "$DOCKERFILE"
}

# What the final stage relies on: the path, the libraries of its base image, the commands that it names.
check_binary() {
  local binary=$1 foreign
  [[ -x $binary ]] || die "the build stage leaves no $binary"
  grep -q '^COPY --from=build /src/out/thousandx ' "$DOCKERFILE" || die "the final stage copies another path"
  foreign=$(ldd "$binary" | awk '{ sub(/.*\//, "", $1); print $1 }' | grep -Ev "$RUNTIME_LIBRARIES" || true)
  [[ -z $foreign ]] || die "the base image lacks what the binary needs: $foreign"
  env -i "$binary" --version
  env -i "$binary" serve --help >/dev/null
  # Nothing listens on port 1: the health check has to say so, by its exit code and within its timeout.
  local code=0
  env -i HOST=127.0.0.1 PORT=1 timeout 3 "$binary" probe >/dev/null 2>&1 || code=$?
  [[ $code -eq 1 ]] || die "the health check ends with $code where it should end with 1"
}

case ${1:-} in
  compose) check_compose ;;
  build) with_lock docker check_build ;;
  *) usage ;;
esac
