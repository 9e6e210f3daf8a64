#!/usr/bin/env python3
"""Tables of a results directory of scripts/bench.sh: figures.py DIR [--publish].

Writes DIR/table.md. With --publish the same goes, with the charts, between the markers of BENCHMARKS.md. No figure there
is written by hand.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from bench_results import Results, by_round, median, server_cpu  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
DOCUMENT = REPO / "BENCHMARKS.md"
BEGIN, END = "<!-- figures:begin -->", "<!-- figures:end -->"
CHARTS = {
    "throughput": "Whole round trips per second against connections",
    "latency": "Latency percentiles against load",
    "cpu": "CPU time per request by process",
    "waiting": "Cost against requests that wait",
}
NOT_MEASURED = "not measured"


def main() -> None:
    results = Results(Path(sys.argv[1]).resolve())
    parts = [head(results), targets(results)]
    parts += [part(results) for part in (loads, wrk, peers, latency, waiting, shards, routing, profiles)]
    table = "\n\n".join(part for part in parts if part) + "\n"
    (results.directory / "table.md").write_text(table)
    if "--publish" in sys.argv[2:]:
        publish(results, table)


def publish(results: Results, table: str) -> None:
    place = results.directory.relative_to(REPO)
    others = runs_so_far(results.directory.parent)
    charts = [f"![{text}]({place}/{name}.svg)" for name, text in CHARTS.items() if (results.directory / f"{name}.svg").exists()]
    text = DOCUMENT.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    note = f"Made by `scripts/bench.sh` from the JSON in [{place}]({place}); not to be edited."
    DOCUMENT.write_text(f"{before}{BEGIN}\n" + "\n\n".join([note, table.strip(), *charts, others]) + f"\n{END}{after}")
    print(f"published in {DOCUMENT.relative_to(REPO)}")


def runs_so_far(directory: Path) -> str:
    """One line for each results directory, whichever machine it is from: a slower one is not a regression."""
    rows = []
    runs = (Results(place) for place in directory.glob("????-??-??-*"))
    for run in sorted(runs, key=lambda run: str(run.facts().get("date"))):
        place, facts = run.directory, run.facts()
        if facts.get("quick"):
            continue
        numbers = [
            run.get("embedded", "closed-1000", "median", "rps"),
            run.get("kafka", "closed-1000", "median", "rps"),
            run.get("kafka", "closed-1000", "median", "cpu_us_per_request", "server"),
        ]
        rows.append([
            f"[{place.name}]({place.relative_to(REPO)}/table.md)", facts.get("host", {}).get("cpu", "?"),
            *(NOT_MEASURED if number is None else f"{number:,.3g}" if number < 1_000 else f"{number:,.0f}" for number in numbers),
        ])
    title = "### Runs so far, on whichever machine there was\n\n"
    return title + table(["run", "CPU", "embedded, 1,000 connections, 2xx/s", "Kafka, 2xx/s", "server CPU µs/request there"], rows)


# === the parts


def head(results: Results) -> str:
    facts = results.facts()
    host = facts.get("host", {})
    changed = " with local changes" if facts.get("dirty") else ""
    quick = "**A quick run, to see that everything works: not figures to quote.** " if facts.get("quick") else ""
    others = {name: section["commit"] for name, section in results.sections.items() if section.get("commit") != facts.get("commit")}
    later = "".join(f" Section `{name}`: commit `{str(commit)[:12]}`." for name, commit in others.items())
    loads_before = [section["host"]["load_before"] for section in results.sections.values() if "host" in section]
    return (
        f"{quick}{str(facts.get('date'))[:10]}, commit `{str(facts.get('commit'))[:12]}`{changed}, {host.get('cores')} cores "
        f"of {host.get('cpu')}, Linux {host.get('kernel')}, {host.get('memory_kib', 0) / 2**20:.0f} GiB. Server, Kafka, "
        f"Redis, worker and load generator share the cores. Load average before each section at most "
        f"{max(loads_before, default=0):g}.{later}"
    )


def targets(results: Results) -> str:
    rows = [
        throughput_target(results, "embedded", 100_000),
        throughput_target(results, "kafka", 60_000),
        cpu_target(results),
        *latency_targets(results),
        refusal_target(results),
        *waiting_targets(results),
        shard_target(results),
        routing_target(results),
    ]
    return table(["", "target", "measured", "met"], rows)


def loads(results: Results) -> str:
    rows = []
    for section, stack in (("embedded", "embedded"), ("kafka", "Kafka and Redis")):
        for step in results.steps(section):
            low, high = step["spread"]["rps"]
            name = "closed" if step["mode"] == "closed" else f"open, {step['name'].removeprefix('open-')} of the peak"
            us = step["median"]["latency_us"]
            cpu = step["median"]["cpu_us_per_request"]
            parts = ", ".join(f"{key} {number(value)}" for key, value in cpu.items() if key != "generator")
            rows.append([
                stack, name, f"{step['connections']:,}", f"{number(step['median']['rps'])} [{number(low)}–{number(high)}]",
                *(number(us[key] / 1e3) for key in ("p50", "p90", "p99", "p99_9")), parts, refused(step), bad(step), f"{step['total']['unsent']:,}",
            ])  # fmt: skip
    heads = ["stack", "loop", "connections", "2xx/s, median [least–most]", "p50 ms", "p90", "p99", "p99.9", "CPU µs/request",
             "refused", "bad", "unsent"]  # fmt: skip
    return rows and "### Throughput and latency\n\n" + table(heads, rows)


def wrk(results: Results) -> str:
    run = results.sections.get("wrk")
    if not run:
        return ""
    cpu = ", ".join(f"{key} {number(value)}" for key, value in run["cpu_us_per_request"].items())
    wrong = (run.get("wrong") or 0) + sum(run[key] for key in ("connect_errors", "read_errors", "write_errors", "timeouts"))
    row = [f"{run['connections']:,}", number(run["answers_per_s"]), cpu, wrong]
    return "### wrk, a closed loop on Kafka\n\n" + table(["connections", "answers/s, each checked", "CPU µs/request", "bad"], [row])


def peers(results: Results) -> str:
    rows = []
    for peer in results.sections.get("peers", {}).get("peers", []):
        for step in peer["steps"]:
            ratios = peer["ratios"] if step["name"] != "server" else {}
            own = step["median"]["cpu_us_per_request"].get("server")
            us = step["median"]["latency_us"]
            rows.append([
                f"**{step['name']}**" if ratios else "server, in the same rounds", number(step["median"]["rps"]), spread(ratios.get("rps")),
                number(own), spread(ratios.get("cpu_us_per_request")), number(us["p50"] / 1e3), number(us["p99"] / 1e3), bad(step),
            ])  # fmt: skip
    heads = ["1,000 connections, in turns", "2xx/s", "ours ÷ its", "server CPU µs/request", "ours ÷ its", "p50 ms", "p99", "bad"]
    return rows and "### Peers\n\n" + table(heads, rows)


def latency(results: Results) -> str:
    rows = [
        [name, *(number(results.get("latency", step, "median", "latency_us", key)) for key in ("p50", "p99"))]
        for name, step in (
            ("bare Kafka ping-pong, alone", "ping-alone"),
            ("server, one connection", "one-connection"),
            ("bare Kafka ping-pong beside half load", "ping-at-50%"),
            ("server at half load", "open-50%"),
        )
        if results.step("latency", step)
    ]
    return rows and "### Latency added to Kafka\n\n" + table(["", "p50 µs", "p99 µs"], rows)


def waiting(results: Results) -> str:
    rows = [
        [
            f"{step['waiting']:,}", number(step["median"]["cpu_us_per_request"]["server"]), step["bytes_per_waiting_request"],
            step["bytes_per_connection"], step["cpu_us_per_s_at_rest"], number(step["median"]["latency_us"]["p99"] / 1e3), bad(step),
        ]
        for step in results.steps("waiting")
        if step.get("runs")
    ]  # fmt: skip
    heads = ["requests that wait", "server CPU µs per request beside them", "bytes per waiting request",
             "bytes per idle connection before", "server CPU µs/s at rest", "p99 ms beside them", "bad"]  # fmt: skip
    return rows and "### Requests in flight\n\n" + table(heads, rows)


def shards(results: Results) -> str:
    rows = [
        [step["name"].split("-")[1], number(step["rate"]), number(step["median"]["cpu_us_per_request"]["server"]),
         number(results.get("shards", step["name"].replace("shards", "closed"), "median", "rps"))]
        for step in results.steps("shards", "shards-")
    ]  # fmt: skip
    heads = ["shards", "requests/s due", "server CPU µs/request", "closed loop 2xx/s"]
    return rows and "### Shards\n\n" + table(heads, rows)


def routing(results: Results) -> str:
    rows = []
    for mode in ("shared", "partition"):
        counts = [results.get("routing", f"{mode}-both-{index}", "counts") for index in (1, 2)]
        other = results.get("routing", f"{mode}-one", "counts")
        if other and all(counts):
            owned, read = sum(c["delivered"] for c in counts), sum(c["records"] for c in counts)
            rows.append([f"`{mode}`", number(read / owned if owned else None), f"{other['records']:,}",
                         number(other["cpu_us"] / 1e3), number(other["bytes_from_brokers"] / 2**20)])  # fmt: skip
    heads = ["`REPLY_ROUTING`", "replies read ÷ owned", "read by an instance without requests", "its CPU ms", "MiB it got"]
    return rows and "### Two instances\n\n" + table(heads, rows)


def profiles(results: Results) -> str:
    rows = []
    names = [step["name"].removesuffix("-peak") for step in results.steps("profiles") if step["name"].endswith("-peak")]
    for name in names:
        peak = results.step("profiles", f"{name}-peak")
        one = results.get("profiles", f"{name}-one-connection", "median", "latency_us", "p50")
        middle = [results.get("profiles", f"{name}-open-10000", "median", "latency_us", key) for key in ("p50", "p99")]
        gains = by_round(peak, results.step("profiles", "defaults-peak"), lambda run: run["rps"])
        gain = gains and spread({"median": median(gains), "min": min(gains), "max": max(gains)})
        cpu = sum(value or 0 for key, value in peak["median"]["cpu_us_per_request"].items() if key != "generator")
        rows.append([
            name, number(peak["median"]["rps"]), "" if name == "defaults" else gain, number(one),
            *(number(value and value / 1e3) for value in middle), number(cpu),
        ])  # fmt: skip
    heads = ["profile", "peak 2xx/s", "÷ defaults, round by round", "p50 µs, one connection", "p50 ms at 10,000/s", "p99",
             "CPU µs/request, all processes"]  # fmt: skip
    return rows and "### Tuning profiles\n\n" + table(heads, rows)


# === the targets, each a row: name, target, measured, met


def throughput_target(results: Results, section: str, least: int) -> list[str]:
    rps = results.get(section, "closed-1000", "median", "rps")
    return row("T1", f"{section}: ≥ {least:,} round trips/s at 1,000 connections", rps, lambda v: v >= least, "{} /s")


def cpu_target(results: Results) -> list[str]:
    peers = results.sections.get("peers", {}).get("peers", [])
    ratio = next((peer["ratios"]["cpu_us_per_request"] for peer in peers if peer["name"] == "bare-hyper"), None) or {}
    return row("T2", "server CPU per request ≤ 1.6 × bare hyper's", ratio.get("median"), lambda v: v <= 1.6, "{} ×")


def latency_targets(results: Results) -> list[list[str]]:
    def us(step: str, key: str) -> float | None:
        return results.get("latency", step, "median", "latency_us", key)

    one, alone = us("one-connection", "p50"), us("ping-alone", "p50")
    half, beside = us("open-50%", "p99"), us("ping-at-50%", "p50")
    added = one - alone if one and alone else None
    ratio = half / beside if half and beside else None
    return [
        row("T3", "one connection: p50 ≤ bare Kafka ping-pong + 300 µs", added, lambda v: v <= 300, "{} µs more"),
        row("T3", "at half load: p99 ≤ 2 × p50 of the bare ping-pong beside it", ratio, lambda v: v <= 2, "{} ×"),
    ]


def refusal_target(results: Results) -> list[str]:
    ratios = by_round(
        results.step("refusals", "refusing"), results.step("refusals", "bare-hyper"), lambda run: run["answers_per_s"]
    )
    return row("T4", "429 at ≥ 80 % of bare hyper's rate", median(ratios), lambda v: v >= 0.8, "{} ×")


def waiting_targets(results: Results) -> list[list[str]]:
    steps = [step for step in results.steps("waiting") if step.get("runs")]
    costs = [step["median"]["cpu_us_per_request"]["server"] for step in steps]
    most = steps[-1]["waiting"] if steps else 0
    change = max(costs) / min(costs) if costs else None
    many = results.step("kafka", "closed-10000")
    rate = many and many["median"]["rps"]
    memory = steps[-1]["bytes_per_waiting_request"] if steps else None
    return [
        row("T5", f"cost per request within 10 % from 100 to 100,000 waiting (here to {most:,})", change,
            lambda v: v <= 1.1 and most >= 100_000, "{} × at most", "only so far" if change and change <= 1.1 else "no"),
        row("T5", "≤ 2,048 bytes per waiting request", memory, lambda v: v <= 2048, f"{{}} bytes at {most:,}"),
        row("T5", "10,000 connections, no answer refused or bad", rate, lambda v: v > 0 and not bad(many) + refused(many),
            "{} 2xx/s", f"no: {refused(many):,} refused" if many else "no"),
    ]  # fmt: skip


def shard_target(results: Results) -> list[str]:
    if results.get("shards", "shards-2", "server_cores_of_its_own"):
        first, second, how = "closed-2", "closed-1", lambda run: run["rps"]
        factor, text = 1, "{} × the rate, on cores of its own"
    else:
        # Twice the cores, each request at c2/c1 of the cost.
        first, second, how = "shards-1", "shards-2-equal-load", server_cpu
        factor, text = 2, "{} × at least, from CPU per request"
    ratio = median(by_round(results.step("shards", first), results.step("shards", second), how))
    return row("T6", "from one to two shards ≥ 1.8 ×", ratio and ratio * factor, lambda v: v >= 1.8, text)


def routing_target(results: Results) -> list[str]:
    counts = [results.get("routing", f"partition-both-{index}", "counts") for index in (1, 2)]
    owned = sum(count["delivered"] for count in counts if count)
    ratio = sum(count["records"] for count in counts if count) / owned if owned else None
    return row("T7", "two instances, `partition`: replies read ÷ owned = 1", ratio, lambda v: v <= 1.001, "{}")


def row(name: str, target: str, value: float | None, met, text: str, otherwise: str = "no") -> list[str]:
    if value is None:
        return [name, target, NOT_MEASURED, ""]
    return [name, target, text.format(number(value)), "**yes**" if met(value) else otherwise]


# === text


def bad(step: dict) -> int:
    return step["total"]["bad"] + step["total"]["bad_in_warmup"]


def refused(step: dict) -> int:
    """Answers that are neither 2xx nor wrong: 429, 503, …"""
    return step["total"]["busy_429"] + sum(step["total"]["other"].values())


def spread(ratio: dict | None) -> str:
    return f"{number(ratio['median'])} [{number(ratio['min'])}–{number(ratio['max'])}]" if ratio else ""


def number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(heads: list[str], rows: list[list]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


main()
