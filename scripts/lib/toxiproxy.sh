#!/usr/bin/env bash
# toxiproxy, for links that are slow, narrow, silent or cut: built once from the Go module, kept in the cache.
#
#   scripts/lib/toxiproxy.sh fetch     build it if need be, print the path of its binary
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# The last one that Debian 12's Go can build.
readonly TOXIPROXY_VERSION=v2.5.0
readonly TOXIPROXY="$THOUSANDX_CACHE/toxiproxy-$TOXIPROXY_VERSION"

toxiproxy_fetch() {
  with_lock toxiproxy toxiproxy_fill
  echo "$TOXIPROXY"
}

# Made beside its place and renamed: a binary that is there is complete.
toxiproxy_fill() {
  [[ -x $TOXIPROXY ]] && return 0
  have go || die "Go is missing; it builds toxiproxy, once (Debian: golang-go)"
  local part="$TOXIPROXY.part"
  rm -rf "$part"
  mkdir -p "$part"
  echo "building toxiproxy $TOXIPROXY_VERSION" >&2
  GOBIN="$part" go install "github.com/Shopify/toxiproxy/v2/cmd/server@$TOXIPROXY_VERSION" >&2 ||
    die "toxiproxy could not be built (see above)"
  mv "$part/server" "$TOXIPROXY"
  rm -rf "$part"
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  [[ $# -eq 1 && $1 == fetch ]] || die "usage: scripts/lib/toxiproxy.sh fetch"
  toxiproxy_fetch
fi
