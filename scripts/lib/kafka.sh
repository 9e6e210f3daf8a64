#!/usr/bin/env bash
# A real Apache Kafka broker from its jars: no container, no system package but Java (and Maven, once).
#
#   scripts/lib/kafka.sh fetch     fill the cache if need be, print its directory
#   source scripts/lib/kafka.sh    kafka_fetch, kafka_start, used by scripts/stack.sh
#
# The directory holds libs/ (the jars) and formatted/ (an empty, formatted log directory, so that a start needs one
# Java process and not two). tests/support/kafka.rs starts brokers from the same directory.
set -euo pipefail

# shellcheck source=scripts/lib/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

KAFKA_FILES="$REPO/scripts/kafka"
KAFKA_VERSION=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$KAFKA_FILES/pom.xml")
KAFKA_HOME="$THOUSANDX_CACHE/kafka-$KAFKA_VERSION"

# 16 bytes in URL-safe base64, as Kafka wants it.
readonly KAFKA_CLUSTER_ID=thousandx-test-brokerA
# Kafka 4 needs this Java or a later one.
readonly JAVA_VERSION_MIN=17
# A start takes about 2 s on an idle core.
readonly KAFKA_START_SECONDS_MAX=60
readonly KAFKA_START_TRIES_MAX=3
# Seconds for the answer to one request while it starts.
readonly KAFKA_ANSWER_SECONDS_MAX=2

# Fills the cache unless it is full, and prints KAFKA_HOME.
kafka_fetch() {
  kafka_require_java
  with_lock kafka kafka_fill
  echo "$KAFKA_HOME"
}

# kafka_start DIR OPTIONS HEAP RECORD: starts a broker with its data in DIR, the Java options of the file OPTIONS and a
# heap such as 512m; returns when it serves requests. Sets KAFKA_PORT. `RECORD kafka PID` is called as soon as there is
# a process, so that the caller can end it even when the start is interrupted.
kafka_start() {
  local dir=$1 options=$2 heap=$3 record=$4 try
  for ((try = 1; try <= KAFKA_START_TRIES_MAX; try++)); do
    kafka_spawn "$dir" "$options" "$heap"
    "$record" kafka "$KAFKA_PID"
    if kafka_wait "$KAFKA_PID" "$KAFKA_PORT"; then
      return 0
    fi
    stop_process "$KAFKA_PID" "$(process_stamp "$KAFKA_PID")"
    grep -qs 'Address already in use' "$dir/kafka.log" "$dir/kafka.out" || break
  done
  tail -n 20 "$dir/kafka.out" "$dir/kafka.log" >&2 || true
  die "Kafka did not start; its logs are $dir/kafka.log and $dir/kafka.out"
}

# === helpers

kafka_require_java() {
  local version
  have java || die "Java is missing: install a JRE of version $JAVA_VERSION_MIN or later (Debian: openjdk-17-jre-headless)"
  version=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  ((${version:-0} >= JAVA_VERSION_MIN)) ||
    die "Java ${version:-of an unknown version} is too old for Kafka $KAFKA_VERSION: it needs $JAVA_VERSION_MIN or later"
}

# Made beside its place and renamed: a directory that is there is complete.
kafka_fill() {
  [[ -d $KAFKA_HOME ]] && return 0
  have mvn || die "Maven is missing; it fetches Kafka's jars, once (Debian: maven)"
  local part="$KAFKA_HOME.part"
  rm -rf "$part"
  mkdir -p "$part/libs"
  echo "fetching the jars of Kafka $KAFKA_VERSION into $KAFKA_HOME" >&2
  mvn -q -B -f "$KAFKA_FILES/pom.xml" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$part/libs" >&2 ||
    die "Maven could not fetch Kafka's jars (see above)"
  # The ports are not written into what is formatted.
  kafka_properties 1 2 "$part/formatted" >"$part/format.properties"
  java -XX:TieredStopAtLevel=1 -cp "$part/libs/*" kafka.tools.StorageTool format \
    --cluster-id "$KAFKA_CLUSTER_ID" --config "$part/format.properties" >&2 ||
    die "the log directory could not be formatted (see above)"
  mv "$part" "$KAFKA_HOME"
}

kafka_properties() {
  sed -e "s|@PORT@|$1|g" -e "s|@CONTROLLER_PORT@|$2|g" -e "s|@DATA@|$3|g" "$KAFKA_FILES/server.properties"
}

kafka_spawn() {
  local dir=$1 options=$2 heap=$3
  KAFKA_PORT=$(free_port)
  mkdir -p "$dir"
  rm -rf "$dir/data"
  cp -r "$KAFKA_HOME/formatted" "$dir/data"
  kafka_properties "$KAFKA_PORT" "$(free_port)" "$dir/data" >"$dir/server.properties"
  setsid java "@$options" "-Xmx$heap" "-Dkafka.log.file=$dir/kafka.log" \
    "-Dlog4j2.configurationFile=$KAFKA_FILES/log4j2.properties" \
    -cp "$KAFKA_HOME/libs/*" kafka.Kafka "$dir/server.properties" >"$dir/kafka.out" 2>&1 </dev/null &
  KAFKA_PID=$!
}

# Until the broker lists itself as alive; false when it ends or takes too long.
kafka_wait() {
  local pid=$1 port=$2 deadline=$((SECONDS + KAFKA_START_SECONDS_MAX))
  until kafka_serves "$port"; do
    [[ -n $(process_stamp "$pid") ]] || return 1
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# Asks for metadata (Kafka protocol: key 3, version 0, all topics). True when the answer counts one live broker, which
# it does once the broker is registered and unfenced.
kafka_serves() {
  local answer
  { exec 8<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
  # length 14 | key 3 | version 0 | correlation id 7 | no client id | no topic named
  printf '\0\0\0\x0e\0\x03\0\0\0\0\0\x07\xff\xff\0\0\0\0' >&8
  # length | correlation id | number of brokers
  answer=$(timeout "$KAFKA_ANSWER_SECONDS_MAX" head -c 12 <&8 | od -An -v -tx1 | tr -d ' \n') || true
  exec 8>&-
  [[ ${answer:8} == 0000000700000001 ]]
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  [[ $# -eq 1 && $1 == fetch ]] || die "usage: scripts/lib/kafka.sh fetch"
  kafka_fetch
fi
