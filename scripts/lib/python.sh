#!/usr/bin/env bash
# Virtual environments in the cache, one per requirements file, made once.
#
#   scripts/lib/python.sh venv FILE [PIP_OPTION…]    make it if need be, print the path of its python
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# python_venv FILE [PIP_OPTION…]: a change of the file, or of Python itself, makes a new one.
python_venv() {
  local requirements=$1 key venv
  shift
  have python3 || die "python3 is missing (Debian: python3 and python3-venv)"
  [[ -f $requirements ]] || die "no such file: $requirements"
  key=$({ python3 --version && cat "$requirements"; } | sha256sum | cut -c 1-16)
  venv="$THOUSANDX_CACHE/venv-$key"
  with_lock venv python_fill "$venv" "$requirements" "$@" || return
  echo "$venv/bin/python"
}

# The marker is written last: without it, what is there is a half and is made again. A venv cannot be renamed.
python_fill() {
  local venv=$1 requirements=$2
  shift 2
  [[ -f $venv/complete ]] && return 0
  rm -rf "$venv"
  echo "making a Python environment for $requirements" >&2
  python3 -m venv "$venv" >&2 || die "python3 cannot make virtual environments (Debian: python3-venv)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$@" \
    --requirement "$requirements" >&2 || die "pip could not install $requirements (see above)"
  touch "$venv/complete"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  [[ $# -ge 2 && $1 == venv ]] || die "usage: scripts/lib/python.sh venv FILE [PIP_OPTION…]"
  python_venv "${@:2}"
fi

# python_beside_dev REQUIREMENTS [ARGUMENT…]: `thousandx dev`, built, or from the script's arguments `--binary PATH`, for a
# program in Python that asks it. Sets PYTHON_PROGRAMS, where that program is. Needs lib/bench.sh.
python_beside_dev() {
  local requirements=$1 python binary=''
  shift
  case ${1:-} in
    '') [[ $# -eq 0 ]] || usage ;;
    --binary) [[ $# -eq 2 ]] || usage; binary=$(realpath "$2") ;;
    *) usage ;;
  esac
  python=$(python_venv "$requirements" --no-deps)
  # shellcheck disable=SC2034 # for the script that sources this
  PYTHON_PROGRAMS=$(dirname "$python")
  bench_init
  bench_thousandx "$binary"
  bench_start_embedded
  bench_first_answer
}
