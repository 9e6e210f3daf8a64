#!/usr/bin/env python3
"""Writes the tables of what was tried into BENCHMARKS.md, from the results of scripts/compare.sh.

    scripts/compare.sh --out benches/results/tried/NAME.json VARIANT…
    scripts/tried.py

The table of NAME.json stands between <!-- tried:NAME:begin --> and <!-- tried:NAME:end -->. Exit code 1 when a marker has
no result, or a result no marker.
"""

import json
import pathlib
import re
import statistics
import sys

REPO = pathlib.Path(__file__).resolve().parent.parent
TRIED = REPO / "benches" / "results" / "tried"
PROCESSES = ("server", "kafka", "worker", "redis", "server+worker+broker")


def table(result):
    """The result of one scripts/compare.sh as Markdown."""
    host = result["host"]
    load = f", an open loop of {result['rate']:,} requests/s" if result.get("rate") else ""
    lines = [
        f"{result['date'][:10]}, commit `{result['commit'][:12]}`, {result['connections']:,} connections{load} on the "
        f"{result['stack']} stack, {len(result['steps'][0]['runs'])} turns each, {host['cores']} cores of {host['cpu']}.",
        *([result["note"]] if result.get("note") else []),
        "",
        "| variant | 2xx/s, median [least–most] | ÷ first, turn by turn | p50 ms | p99 ms | CPU µs/request | bad |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [row(step, result["steps"][0]) for step in result["steps"]]
    return "\n".join(lines)


def ratio(step, first):
    """A slow minute of the machine hits both of a turn."""
    if step is first:
        return ""
    ratios = sorted(run["rps"] / other["rps"] for run, other in zip(step["runs"], first["runs"]))
    return f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}–{ratios[-1]:.2f}]"


def row(step, first):
    median, spread, total = step["median"], step["spread"]["rps"], step["total"]
    cpu = ", ".join(
        f"{name} {median['cpu_us_per_request'][name]:.3g}" for name in PROCESSES if name in median["cpu_us_per_request"]
    )
    name = f"{step['name']} (`{step['settings'].replace(',', ' ')}`)" if step["settings"] else step["name"]
    p50, p99 = (median["latency_us"][key] / 1000 for key in ("p50", "p99"))
    bad = total["bad"] + total["bad_in_warmup"] + sum(total["other"].values())
    return f"| {name} | {median['rps']:,.0f} [{spread[0]:,.0f}–{spread[1]:,.0f}] | {ratio(step, first)} | {p50:.3g} | {p99:.3g} | {cpu} | {bad} |"


def main():
    page = REPO / "BENCHMARKS.md"
    text, missing = page.read_text(), []
    for path in sorted(TRIED.glob("*.json")):
        marks = re.compile(rf"(<!-- tried:{path.stem}:begin -->\n).*?(<!-- tried:{path.stem}:end -->)", re.DOTALL)
        if not marks.search(text):
            missing.append(f"BENCHMARKS.md has no place for {path.name}")
            continue
        made = table(json.loads(path.read_text()))
        text = marks.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    missing += [f"no {name}.json" for name in re.findall(r"<!-- tried:(\S+):begin -->", text)
                if not (TRIED / f"{name}.json").exists()]
    page.write_text(text)
    for problem in missing:
        print(problem, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
