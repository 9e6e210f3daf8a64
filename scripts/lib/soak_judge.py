"""Whether a soak was flat: samples of processes, Redis and /metrics, and a verdict by slope. Used by soak.py."""

import math
import os
import socket
import statistics
import urllib.request
from pathlib import Path

# The least squares line is laid through the second half of the run: the first one fills caches and pools. Its points are
# medians of a minute each, or of a fifth of the half if that is shorter, so that a crowd that came in the moment of a
# sample is none of them.
MEDIAN_SECONDS = 60
MEDIANS_MIN = 5
# A series is flat when the change that the line gives over that half is at most the bound. For memory, twice the standard
# error of that change must not be more either: what varies more than it may grow says nothing.
MARGIN_ERRORS = 2
# Memory: so much growth per hour, and never less than this, which is four huge pages.
MEMORY_BYTES_PER_HOUR = 32 << 20
MEMORY_BYTES_MIN = 8 << 20
# Counts (descriptors, threads, permits, slots, connections): so many, and a share of the mean.
COUNT_MIN = 2
COUNT_SHARE = 0.05
# At rest, after the load and one lease, a count may differ by so much from before: a connection that librdkafka
# opened to a broker meanwhile, a thread of its own.
REST_COUNT_MAX = 4
# Part of the memory, and moves with the kernel's huge pages: kept to explain, not judged.
NOT_JUDGED = ("huge_bytes",)

# /metrics of a server: what the table calls it, and the series whose values are added up.
METRICS = {
    "in_flight": "thousandx_in_flight",
    "connections": "thousandx_connections_open",
    "held": "thousandx_limiter_held",
    "queue": "thousandx_kafka_queue_depth",
}
# What is zero when nobody asks anything, after one lease.
ZERO_AT_REST = ("in_flight", "held", "queue", "permits")
HTTP_SECONDS_MAX = 10


class Redis:
    """A connection of our own; two commands need no library."""

    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("redis://").split("/")[0].split(":")
        self.stream = socket.create_connection((host, int(port)), HTTP_SECONDS_MAX).makefile("rwb")

    def ask(self, *words: str) -> str:
        """The reply to one command: an integer or a bulk string."""
        parts = b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
        self.stream.write(b"*%d\r\n%s" % (len(words), parts))
        self.stream.flush()
        head = self.stream.readline().strip()
        if head[:1] == b"$":
            return self.stream.read(int(head[1:]) + 2).decode()
        if head[:1] != b":":
            raise RuntimeError(f"Redis says {head!r}")
        return head[1:].decode()

    def info(self, section: str, name: str) -> int:
        """A number of INFO."""
        lines = self.ask("INFO", section).splitlines()
        return int(next(line.split(":")[1] for line in lines if line.startswith(name + ":")))


def process(pid: int) -> dict[str, int]:
    """Memory, threads and descriptors of a process (proc(5))."""
    files = (Path(f"/proc/{pid}/{name}").read_text() for name in ("status", "smaps_rollup"))
    fields = dict(line.split(":", 1) for text in files for line in text.splitlines() if ":" in line)
    return {
        "rss_bytes": int(fields["VmRSS"].split()[0]) * 1024,
        "huge_bytes": int(fields["AnonHugePages"].split()[0]) * 1024,
        "threads": int(fields["Threads"]),
        "fds": len(os.listdir(f"/proc/{pid}/fd")),
    }


def metrics(url: str) -> dict[str, float]:
    """The sums of METRICS, without the connection that asks."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=HTTP_SECONDS_MAX) as answer:
        lines = [line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if not line.startswith("#")]
    sums = {
        name: sum(float(value) for key, value in lines if key.split("{")[0] == series)
        for name, series in METRICS.items()
    }
    sums["connections"] -= 1
    return sums


def sample(servers: dict[str, tuple[str, int]], others: dict[str, int], redis: Redis, key: str) -> dict[str, float]:
    """Everything that is judged, as `who.what`."""
    values: dict[str, float] = {}
    for name, (url, pid) in servers.items():
        parts = {**process(pid), **metrics(url)}
        values.update({f"{name}.{what}": value for what, value in parts.items()})
    for name, pid in others.items():
        values.update({f"{name}.{what}": value for what, value in process(pid).items()})
    values["redis.permits"] = int(redis.ask("ZCARD", key))
    values["redis.used_bytes"] = redis.info("memory", "used_memory")
    values["redis.clients"] = redis.info("clients", "connected_clients")
    return values


def line(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Least squares: value at the mean time, slope per second, standard error of the slope."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if count < 3 or spread == 0:
        return mean_y, 0.0, math.inf
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return mean_y, slope, math.sqrt(rest / (count - 2) / spread)


def medians(points: list[tuple[float, float]], seconds: float) -> list[tuple[float, float]]:
    """One point for each stretch of the `seconds`, all as long."""
    count = max(MEDIANS_MIN, int(seconds / MEDIAN_SECONDS))
    grouped: dict[int, list[float]] = {}
    for x, y in points:
        grouped.setdefault(min(count - 1, int(x / seconds * count)), []).append(y)
    return [((index + 0.5) * seconds / count, statistics.median(values)) for index, values in sorted(grouped.items())]


def judge(samples: list[dict[str, float]]) -> list[dict[str, object]]:
    """One row per series over the second half; `flat` is the verdict."""
    begin = samples[0]["t"]
    half = begin + (samples[-1]["t"] - begin) / 2
    second = [one for one in samples if one["t"] >= half]
    rows = []
    seconds = second[-1]["t"] - half
    for name in second[-1]:
        if name == "t" or name.split(".")[-1] in NOT_JUDGED:
            continue
        points = medians([(one["t"] - half, one[name]) for one in second if name in one], seconds)
        mean, slope, error = line(points)
        if name.endswith("bytes"):
            bound = max(MEMORY_BYTES_MIN, MEMORY_BYTES_PER_HOUR * seconds / 3600)
        else:
            bound = COUNT_MIN + COUNT_SHARE * mean
        change, margin = slope * seconds, MARGIN_ERRORS * error * seconds
        flat = change <= bound and (margin <= bound or not name.endswith("bytes"))
        rows.append({"name": name, "medians": len(points), "seconds": round(seconds), "mean": mean,
                     "change": change, "margin": margin, "per_hour": slope * 3600, "bound": bound, "flat": flat})
    return rows


def judge_rest(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """What is not as it was when nobody asks anything."""
    faults = []
    for name, value in after.items():
        what = name.split(".")[-1]
        if what in ZERO_AT_REST and value != 0:
            faults.append(f"{name} is {value:g} at rest, not 0")
        elif what in ("fds", "threads", "connections", "clients") and value - before[name] > REST_COUNT_MAX:
            faults.append(f"{name} is {value:g} at rest, and was {before[name]:g} before the load")
    return faults


def table(rows: list[dict[str, object]]) -> str:
    """The rows for people; memory in MiB."""
    lines = [f"{'series':24} {'mean':>10} {'change':>10} {'margin':>10} {'bound':>10} {'per hour':>10}"]
    for row in rows:
        unit = 1 << 20 if str(row["name"]).endswith("bytes") else 1
        columns = ("mean", "change", "margin", "bound", "per_hour")
        numbers = [f"{float(str(row[column])) / unit:10.2f}" for column in columns]
        name = str(row["name"]).replace("_bytes", " MiB")
        lines.append(f"{name:24} {' '.join(numbers)} {'' if row['flat'] else '  GROWS'}".rstrip())
    return "\n".join(lines)
