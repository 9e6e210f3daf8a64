# shellcheck shell=bash
# What `thousandx serve` is compared with, in benches/peers: building and starting each. Sourced, never run.
#
#   bare-hyper   an echo over HTTP: no Kafka, no Redis, no worker
#   naive        axum, FutureProducer, StreamConsumer, a shared map: the straightforward version in Rust
#   python       FastAPI, uvicorn, aiokafka, redis.asyncio: the template's design
#   spring       WebFlux, ReplyingKafkaTemplate, Lettuce: Spring's own request and reply over Kafka
#
# The last three need the backend that bench_start_backend starts, and get the server's settings.

# shellcheck source=scripts/lib/bench.sh
source "$(dirname "${BASH_SOURCE[0]}")/bench.sh"
# shellcheck source=scripts/lib/python.sh
source "$(dirname "${BASH_SOURCE[0]}")/python.sh"

readonly PEERS=(bare-hyper naive python spring)
# Load before the first run of a JVM, which compiles what it has run often enough.
readonly JVM_WARMUP_SECONDS=20

# peer_check NAME STACK: whether there is such a peer, and whether it can run on this stack.
peer_check() {
  [[ " ${PEERS[*]} " == *" $1 "* ]] || die "there is no peer $1, only: ${PEERS[*]}"
  [[ $1 == bare-hyper || $2 == kafka ]] || die "$1 needs a real Kafka and Redis: --kafka --peer $1"
}

# peer_build NAME: builds it for release, or installs what it needs, and sets PEER_COMMAND. To be called before
# bench_build, which builds the server last for a reason.
peer_build() {
  case $1 in
    bare-hyper)
      bench_cargo --bench bare-hyper
      PEER_COMMAND=("$(bench_executable bench bare-hyper)" --listen 127.0.0.1:0)
      ;;
    naive)
      # With its own lock file, so that the server's build knows nothing of it.
      bench_cargo --manifest-path "$REPO/benches/peers/naive/Cargo.toml"
      PEER_COMMAND=("$(bench_executable bin naive)")
      ;;
    python)
      PEER_COMMAND=("$(python_venv "$REPO/benches/peers/python/requirements.txt")" "$REPO/benches/peers/python/server.py")
      ;;
    spring)
      PEER_COMMAND=(java -jar "$(with_lock spring-peer peer_build_spring)")
      ;;
  esac
}

# Prints the path of the jar. Built anew each time, because Maven knows best what has changed.
peer_build_spring() {
  if ! have mvn || ! have javac; then die "Maven or the JDK is missing (Debian: maven and openjdk-17-jdk-headless)"; fi
  mvn -q -B -f "$REPO/benches/peers/spring/pom.xml" package -Dbuild.path="$THOUSANDX_CACHE/spring-peer" >&2 ||
    die "the build failed"
  echo "$THOUSANDX_CACHE/spring-peer/spring-peer.jar"
}

# peer_start NAME: on a free port; sets BENCH_URL and BENCH_CPU. To be ended with bench_stop_last.
peer_start() {
  # Under the policy that the server asks for itself, and with huge pages given back as it does, or the scheduler and the
  # allocator's options would be compared.
  bench_spawn peer env MIMALLOC_ALLOW_THP=2 PORT=0 RATE_LIMIT_CAPACITY="${RATE_LIMIT_CAPACITY:-$BENCH_CAPACITY}" \
    chrt --batch 0 "${PEER_COMMAND[@]}"
  local pid=$BENCH_PID children=()
  bench_wait_ready peer "$pid"
  # A peer may have one process per core: what has one name is added up. The file does not end its line.
  read -r -a children <"/proc/$pid/task/$pid/children" || true
  BENCH_CPU=("server=$pid" "${children[@]/#/server=}")
  [[ $1 == bare-hyper ]] || BENCH_CPU+=("${BENCH_BACKEND[@]}")
  bench_first_answer
  # Not checked: the warm-up of the measured run is.
  [[ $1 != spring ]] || warm_up "the JVM" "$JVM_WARMUP_SECONDS" || true
}

# warm_up WHAT SECONDS: load that is not counted.
warm_up() {
  echo "== warming up $1" >&2
  "$EXE_LOAD" --url "$BENCH_URL" --connections 1000 --warmup 0 --seconds "$2" >&2
}
