#!/usr/bin/env python3
"""One overload on a server that runs already; started by scripts/overload.sh, which says what it does.

    overload.py --load PROGRAM --url URL --pid PID --capacity N --task-ms N --seconds N --connections N --out FILE

Writes FILE (JSON) and prints what it found. Exit code 1 when a promise was broken.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

# How much more than the server can take.
FACTOR = 10
# A Kafka that has just started gets faster for about so long.
WARM_SECONDS = 40
# What is measured without overload, before and after each: these machines get faster and slower by themselves.
PEAK_SECONDS = 15
CALM_SECONDS = 3
# Promises. Right answers per second under overload, of the mean of those at the peak before it and after it.
GOODPUT_MIN = 0.9
# From the end of the overload to normal latency, beyond the time of the task that the probe may be waiting for.
RECOVERY_SECONDS_MAX = 1.0
# Memory over the second half of an overload, and in all: buffers of new connections, the refusals' garbage.
GROWTH_BYTES_MAX = 8 << 20
RISE_BYTES_MAX = 64 << 20
# A probe is normal when it is a 200 within the task's time and so many times what the slowest of the calm ones took
# beyond that, at least so many ms.
NORMAL_FACTOR = 3
NORMAL_MS_MIN = 10
# So many normal probes in a row are a recovery.
NORMAL_PROBES = 5
PROBE_SECONDS = 0.02
PROBE_SECONDS_MAX = 15
WATCH_AFTER_SECONDS = 2
# The generator's connecting and its last answers.
OVERTIME_SECONDS = 40
# A generator that is busier would be the limit itself, and then there was no such overload.
GENERATOR_BUSY_MAX = 0.9


class Probe(threading.Thread):
    """One client that asks all the time, on one connection: when it asked, how long it took, and its status."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        host, port = url.removeprefix("http://").split("/")[0].rsplit(":", 1)
        self.address = (host, int(port))
        self.seen: list[tuple[float, float, int]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        stream = None
        body = b'{"action":"get_gift_code"}'
        request = b"POST /queue HTTP/1.1\r\nHost: p\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        while not self.stopped.wait(PROBE_SECONDS):
            begin = time.monotonic()
            status = 0
            try:
                if stream is None:
                    stream = socket.create_connection(self.address, PROBE_SECONDS_MAX).makefile("rwb")
                stream.write(request)
                stream.flush()
                status = read_status(stream)
            except (OSError, ValueError, IndexError):
                stream = None
            self.seen.append((begin, (time.monotonic() - begin) * 1000, status))

    def since(self, begin: float) -> list[tuple[float, float, int]]:
        return [one for one in self.seen if one[0] >= begin]


class Memory(threading.Thread):
    """Resident memory of the server, twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.seen: list[tuple[float, int]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.5):
            self.seen.append((time.monotonic(), resident(self.pid)))


def read_status(stream) -> int:
    """Reads one answer, whose body has a length."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.partition(b":")
        length = int(value) if name.lower() == b"content-length" else length
    stream.read(length)
    return status


def resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def run_load(args: argparse.Namespace, seconds: int, warmup: int, *more: str) -> dict:
    """One run of the load generator; its report, with the time at which the load ended at the latest start."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        begin = time.monotonic()
        done = subprocess.run(
            [args.load, "--url", args.url, "--seconds", str(seconds), "--warmup", str(warmup), "--cpu",
             f"server={args.pid}", "--json", report.name, *more],
            timeout=seconds + warmup + OVERTIME_SECONDS, check=False, capture_output=True, text=True,
        )
        print(done.stdout + done.stderr, file=sys.stderr)
        text = Path(report.name).read_text()
        if not text:
            sys.exit("the load generator gave no report")
        # Before this the load has not ended, whatever it took to connect; what is late counts as recovery.
        return json.loads(text) | {"passed": done.returncode == 0, "begin": begin, "end": begin + warmup + seconds}


def recovery_seconds(probe: Probe, end: float, normal_ms: float) -> float | None:
    """From the end of the overload to the first of enough normal probes in a row; None: not while it was watched."""
    row: list[float] = []
    for begin, took, status in probe.since(end):
        row = [*row, begin] if status == 200 and took <= normal_ms else []
        if len(row) == NORMAL_PROBES:
            return round(row[0] - end, 3)
    return None


def peak(args: argparse.Namespace, warmup: int) -> dict:
    """What is sustainable: as many clients as permits, each asking again when it has its answer."""
    run = run_load(args, PEAK_SECONDS, warmup, "--connections", str(args.capacity))
    return {"passed": run["passed"], "goodput_per_s": run["rps"], "refused": run["busy_429"], "latency_us": run["latency_us"],
            "generator_busy": run["generator_busy"], "fairness": run["fairness"]}


def normal_within_ms(args: argparse.Namespace) -> float:
    """A probe that takes no longer than this is normal."""
    calm = Probe(args.url)
    calm.start()
    time.sleep(CALM_SECONDS)
    calm.stopped.set()
    calm.join(PROBE_SECONDS_MAX)
    slowest = max((took for _, took, status in calm.seen if status == 200), default=None)
    if slowest is None:
        sys.exit("no probe got an answer before the overload")
    return args.task_ms + max(NORMAL_MS_MIN, NORMAL_FACTOR * (slowest - args.task_ms))


def overload(args: argparse.Namespace, normal_ms: float, *more: str) -> dict:
    """One kind of overload, with probe and memory watched through it and after it."""
    before = resident(args.pid)
    probe, memory = Probe(args.url), Memory(args.pid)
    probe.start()
    memory.start()
    report = run_load(args, args.seconds, 0, *more)
    time.sleep(WATCH_AFTER_SECONDS + (NORMAL_PROBES + 1) * args.task_ms / 1000)
    for thread in (probe, memory):
        thread.stopped.set()
        thread.join(PROBE_SECONDS_MAX)
    middle = (report["begin"] + report["end"]) / 2
    second = [size for t, size in memory.seen if t >= middle]
    during = [took for t, took, status in probe.seen if report["begin"] <= t < report["end"] and status == 200]
    cpu = report["cpu"]["server"] or {"user_us": 0, "system_us": 0, "us_per_request": None}
    return {
        "seconds": args.seconds, "connections": report["connections"], "due_per_s": report.get("rate"),
        "sent_per_s": round(report["requests"] / args.seconds), "unsent": report["unsent"],
        "goodput_per_s": report["rps"],
        "refused": report["busy_429"], "other": report["other"], "cpu_us_per_request": cpu["us_per_request"],
        "server_cpu_share": round((cpu["user_us"] + cpu["system_us"]) / args.seconds / 1e6, 3),
        "latency_us": report["latency_us"], "latency_429_us": report.get("latency_429_us"),
        "probe_200": len(during), "probe_median_ms": round(statistics.median(during), 2) if during else None,
        "recovery_s": recovery_seconds(probe, report["end"], normal_ms),
        "memory_before": before, "memory_most": max(size for _, size in memory.seen),
        "memory_growth": max(second[-3:]) - min(second[:3]),
        "fairness": report["fairness"], "generator_busy": report["generator_busy"],
        "faults": sum(report[name] for name in ("wrong", "malformed", "lost", "hung")),
    }


def broken(name: str, found: dict, task_s: float) -> list[str]:
    """The promises that this overload broke."""
    recovery = found["recovery_s"]
    checks = [
        (found["faults"] == 0, f"{found['faults']} answers were wrong, malformed, lost or late"),
        (found["refused"] > 0, "nothing was refused: there was no overload"),
        (not found["other"], f"answers that are neither right nor 429: {found['other']}"),
        (found["due_per_s"] is None or found["sent_per_s"] + found["unsent"] / found["seconds"] >= 0.99 * found["due_per_s"],
         "requests that were due are missing"),
        (found["generator_busy"] <= GENERATOR_BUSY_MAX, f"the generator was the limit, {found['generator_busy']:.0%} busy"),
        (found["goodput_share"] >= GOODPUT_MIN, f"goodput {found['goodput_share']:.0%} of the peak"),
        (recovery is not None and recovery <= RECOVERY_SECONDS_MAX + task_s, f"recovery {recovery} s"),
        (found["memory_growth"] <= GROWTH_BYTES_MAX, f"memory still grew by {found['memory_growth']} bytes"),
        (found["memory_most"] - found["memory_before"] <= RISE_BYTES_MAX, "memory rose above its bound"),
    ]
    return [f"{name}: {text}" for held, text in checks if not held]


def say(name: str, found: dict) -> None:
    fairness = found["fairness"]
    due = f" of {found['due_per_s']} due, {found['unsent']} never: no connection was free" if found["due_per_s"] else ""
    print(f"{name}, {found['connections']} connections: {found['sent_per_s']} requests/s were sent{due}")
    print(f"  right answers {found['goodput_per_s']:.0f}/s, {found['goodput_share']:.0%} of the peak;"
          f" {found['refused']} refused;"
          f" {found['cpu_us_per_request']} µs of server CPU per request, of either kind")
    before, most, growth = (found[f"memory_{what}"] / (1 << 20) for what in ("before", "most", "growth"))
    print(f"  back to normal {found['recovery_s']} s after the end;"
          f" memory {before:.1f} MiB before, {most:.1f} MiB at most, {growth:+.1f} MiB over the second half")
    if "clients" in name:
        print(f"  per connection {fairness['min']} to {fairness['max']} right answers, Jain's index {fairness['jain']}")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("load", "url"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("pid", "capacity", "task-ms", "seconds", "connections"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    peaks = [peak(args, WARM_SECONDS)]
    normal_ms = normal_within_ms(args)
    clients, rate = FACTOR * args.capacity, FACTOR * max(1, int(peaks[0]["goodput_per_s"]))
    kinds = {
        f"{FACTOR} times the clients": ("--connections", str(clients)),
        f"{FACTOR} times the rate": ("--connections", str(max(clients, args.connections)), "--rate", str(rate)),
    }
    found = {}
    for name, more in kinds.items():
        found[name] = overload(args, normal_ms, *more)
        peaks.append(peak(args, 1))
        around = statistics.mean(one["goodput_per_s"] for one in peaks[-2:])
        found[name]["goodput_share"] = round(found[name]["goodput_per_s"] / around, 3) if around else 0
    faults = [fault for name in kinds for fault in broken(name, found[name], args.task_ms / 1000)]
    if not all(one["passed"] for one in peaks):
        faults.append("answers were wrong, malformed, lost or late without an overload")
    rates = ", ".join(f"{one['goodput_per_s']:.0f}" for one in peaks)
    print(f"capacity {args.capacity}, tasks of {args.task_ms} ms, peak before and after each {rates} right answers/s with as"
          f" many clients ({sum(one['refused'] for one in peaks)} refused), a probe is normal within {normal_ms:.0f} ms")
    for name, one in found.items():
        say(name, one)
    for fault in faults:
        print("BROKEN:", fault)
    result = {"capacity": args.capacity, "task_ms": args.task_ms, "seconds": args.seconds, "peaks": peaks,
              "normal_ms": normal_ms, "overloads": found, "broken": faults, "passed": not faults}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if faults else 0)


main()
