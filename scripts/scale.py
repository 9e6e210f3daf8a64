#!/usr/bin/env python3
"""What limits many instances, from the constants that scripts/bench.sh measured: scale.py [DIR] [--rate N] [--cores N].

DIR is a results directory (default: the one that BENCHMARKS.md publishes). Prints the tables of docs/SCALE.md, and with
--write puts them there. The model is the one that the page states; what was not measured is taken from ASSUMED and marked.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from bench_results import Results  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "SCALE.md"
BEGIN, END = "<!-- scale:begin -->", "<!-- scale:end -->"
INSTANCES = (1, 10, 100, 1000)
# Used for what the results do not have: (value, where it would come from).
ASSUMED = {
    "server_us": (17.0, "kafka, closed-1000: CPU of the server per request"),
    "redis_us": (2.0, "kafka, closed-1000: CPU of Redis per request, one acquire and one release"),
    "kafka_us": (10.0, "kafka, closed-1000: CPU of the broker per request, one task and one reply"),
    "worker_us": (3.2, "kafka, closed-1000: CPU of the sample worker per request"),
    "foreign_us": (7.5, "routing: CPU of an instance without requests per reply that is not its own"),
    "foreign_busy_us": (0.5, "routing: the same of an instance that has as many requests of its own"),
    "foreign_bytes": (250.0, "routing: bytes from the broker per reply that is not its own"),
    "connections": (3.0, "routing: connections of an instance to a cluster of one broker"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=published())
    parser.add_argument("--rate", type=float, default=5_000, help="requests/s per instance (5000)")
    parser.add_argument("--cores", type=float, default=2, help="cores of an instance (2)")
    parser.add_argument("--brokers", type=int, default=3, help="brokers of the cluster (3)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/SCALE.md")
    args = parser.parse_args()
    text = tables(args)
    print(text)
    if args.write:
        before, rest = PAGE.read_text().split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


def tables(args: argparse.Namespace) -> str:
    measured = constants(Results(args.directory)) if args.directory else {}
    values = {name: measured.get(name, value) for name, (value, _) in ASSUMED.items()}
    lines = [f"Constants from {args.directory.name if args.directory else 'assumptions only'}:", ""]
    lines += ["| constant | value | from |", "| --- | --- | --- |"]
    for name, (_, source) in ASSUMED.items():
        lines.append(f"| `{name}` | {values[name]:.3g} | {source if name in measured else 'assumption'} |")
    lines += ["", f"{args.rate:,.0f} requests/s and {args.cores:g} cores per instance, {args.brokers} brokers:", ""]
    lines.append(
        "| instances | routing | requests/s | cores for foreign replies, each | MB/s in, each | most requests/s of all "
        "| cores of Redis | cores of Kafka | cores of workers | connections to brokers | first limit |"
    )
    lines.append("| --- " * 11 + "|")
    lines += [
        simulate(Model(**values), instances, routing, args).row()
        for instances in INSTANCES
        for routing in ("shared", "partition")
    ]
    return "\n".join(lines)


@dataclass
class Model:
    """µs of CPU time per request or per foreign reply, bytes per foreign reply, connections per instance and broker."""

    server_us: float
    redis_us: float
    kafka_us: float
    worker_us: float
    foreign_us: float
    foreign_busy_us: float
    foreign_bytes: float
    connections: float


@dataclass
class Outcome:
    instances: int
    routing: str
    total: float
    foreign_cores: float
    foreign_mb: float
    most: float
    most_busy: float
    redis_cores: float
    kafka_cores: float
    worker_cores: float
    connections: int
    limit: str

    def row(self) -> str:
        return (
            f"| {self.instances:,} | `{self.routing}` | {self.total:,.0f} | {self.foreign_cores:.2f} | {self.foreign_mb:,.1f} "
            f"| {self.most:,.0f}{f'–{self.most_busy:,.0f}' if self.most_busy > self.most else ''} | {self.redis_cores:.2f} | {self.kafka_cores:.1f} | {self.worker_cores:.1f} "
            f"| {self.connections:,} | {self.limit} |"
        )


def simulate(model: Model, instances: int, routing: str, args: argparse.Namespace) -> Outcome:
    total = args.rate * instances
    # With shared routing everybody reads everybody's replies; with partition routing nobody does.
    others = (instances - 1) if routing == "shared" else 0
    foreign = args.rate * others

    def first_limit(foreign_us: float) -> tuple[str, float]:
        # Both kinds of work fill the instance's cores: rate * (server_us + others * foreign_us) = cores.
        most = args.cores * 1e6 / (model.server_us + others * foreign_us) * instances
        limits = {"CPU of the instances": most, "Redis, one core": 1e6 / model.redis_us}
        if foreign:
            # 1 Gbit/s per instance is what most clouds give a small one.
            limits["1 Gbit/s per instance"] = 125e6 / (others * model.foreign_bytes) * instances
        return min(limits.items(), key=lambda limit: limit[1])

    name, least = first_limit(model.foreign_us)
    _, busy = first_limit(model.foreign_busy_us)
    return Outcome(
        instances, routing, total, foreign * model.foreign_us / 1e6, foreign * model.foreign_bytes / 1e6, least, busy,
        total * model.redis_us / 1e6,
        # A reply is sent once per reader; that is the fan-out on the broker's side, at the reader's cost.
        total * (model.kafka_us + others * model.foreign_us) / 1e6,
        total * model.worker_us / 1e6, round(instances * model.connections * args.brokers), name,
    )  # fmt: skip


def constants(results: Results) -> dict[str, float]:
    """What the results have, by the names of ASSUMED."""
    found = {
        f"{name}_us": results.get("kafka", "closed-1000", "median", "cpu_us_per_request", name)
        for name in ("server", "redis", "kafka", "worker")
    }
    shared, own = (results.get("routing", f"{mode}-one", "counts") for mode in ("shared", "partition"))
    if shared and own and shared["foreign"]:
        # What the same instance costs at rest is not the foreign replies' fault.
        found["foreign_us"] = max(shared["cpu_us"] - own["cpu_us"], 0) / shared["foreign"]
        found["foreign_bytes"] = max(shared["bytes_from_brokers"] - own["bytes_from_brokers"], 0) / shared["foreign"]
        found["connections"] = shared["broker_connections"]
    both = {mode: [results.get("routing", f"{mode}-both-{index}", "counts") for index in (1, 2)] for mode in ("shared", "partition")}
    if all(counts for pair in both.values() for counts in pair):
        total = {mode: {key: sum(counts[key] for counts in pair) for key in ("cpu_us", "delivered", "foreign")} for mode, pair in both.items()}
        alone = total["partition"]["cpu_us"] / total["partition"]["delivered"]
        more = total["shared"]["cpu_us"] - alone * total["shared"]["delivered"]
        # Below zero is noise: it then is too little to be measured.
        found["foreign_busy_us"] = max(more, 0) / total["shared"]["foreign"]
    return {name: value for name, value in found.items() if value is not None}


def published() -> Path | None:
    found = re.search(r"from the JSON in \[(\S+)\]", (REPO / "BENCHMARKS.md").read_text())
    return REPO / found[1] if found else None


if __name__ == "__main__":
    main()
