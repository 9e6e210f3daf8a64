#!/usr/bin/env python3
"""Charts of a results directory of scripts/bench.sh, as SVG beside the JSON: charts.py DIR.

The standard library only; a chart whose numbers are missing is not drawn.
"""

import math
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "lib"))
from bench_results import Results  # noqa: E402

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, RED, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#777777"
PROCESS_COLOURS = {"server": BLUE, "kafka": ORANGE, "worker": GREEN, "redis": RED, "server+worker+broker": PURPLE}
INK, GRID = "#222222", "#DDDDDD"
FONT = "font-family='system-ui, sans-serif'"
# Room around a panel: for its title, and for what stands beside its axes.
TOP, BOTTOM, LEFT, RIGHT = 84, 58, 74, 128
CPU_CONNECTIONS_MIN = 100
# Labels closer than this would run into each other.
LABEL_HEIGHT = 14


def main() -> None:
    results = Results(Path(sys.argv[1]))
    for name, draw in (("throughput", throughput), ("latency", latency), ("cpu", cpu), ("waiting", waiting)):
        path = results.directory / f"{name}.svg"
        path.unlink(missing_ok=True)
        picture = draw(results)
        if picture:
            path.write_text(picture)


# === the charts


def throughput(results: Results) -> str | None:
    lines = []
    for section, label, colour in (("kafka", "Kafka and Redis", BLUE), ("embedded", "embedded stack", GREY)):
        points = [
            (step["connections"], step["median"]["rps"], step["spread"]["rps"]) for step in results.steps(section, "closed-")
        ]
        if points:
            lines.append((label, colour, points))
    if not lines:
        return None
    top = max(high for _, _, points in lines for _, _, (_, high) in points)
    picture = Picture("Whole round trips per second against connections", subtitle(results), 880, 420)
    panel = picture.panel(0, 1, "", Log(1, 10_000), Linear(0, top))
    panel.axes("connections, one request at a time on each", "answers/s", thousands)
    for label, colour, points in lines:
        for x, _, (low, high) in points:
            panel.whisker(x, low, high, colour)
        panel.line([(x, y) for x, y, _ in points], colour, label)
    return picture.svg()


def latency(results: Results) -> str | None:
    stacks = [("embedded", "embedded stack"), ("kafka", "Kafka and Redis")]
    stacks = [(section, label, results.steps(section, "open-")) for section, label in stacks]
    stacks = [stack for stack in stacks if stack[2]]
    if not stacks:
        return None
    everything = [value for _, _, steps in stacks for step in steps for value in step["median"]["latency_us"].values()]
    picture = Picture("Latency against load, requests due at fixed times", subtitle(results), 1000, 420)
    for index, (_, label, steps) in enumerate(stacks):
        rates = [step["rate"] for step in steps]
        x = Linear(0, max(rates) * 1.05)
        panel = picture.panel(index, len(stacks), label, x, Log(min(everything) / 1e3, max(everything) / 1e3))
        panel.axes("requests/s: 50, 70 and 90 % of the peak", "ms", thousands)
        curves = (("p50", GREEN), ("p90", BLUE), ("p99", ORANGE), ("p99_9", RED))
        panel.lines([
            ([(step["rate"], step["median"]["latency_us"][key] / 1e3) for step in steps], colour, key.replace("_", "."))
            for key, colour in curves
        ])
    return picture.svg()


def cpu(results: Results) -> str | None:
    bars = []
    for step in results.steps("kafka"):
        # Below so many connections each request wakes a sleeping broker: a hundred times the other bars.
        # Refusals are cheap, and would make an average look better than a round trip is.
        if step["connections"] < CPU_CONNECTIONS_MIN or step["total"]["other"] or step["total"]["busy_429"]:
            continue
        parts = step["median"]["cpu_us_per_request"]
        name = f"{step['connections']:,} connections"
        if step["mode"] == "open":
            name = f"{step['name'].removeprefix('open-')} of the peak"
        bars.append((name, [(key, parts[key]) for key in PROCESS_COLOURS if parts.get(key)]))
    if not bars:
        return None
    widest = max(sum(value for _, value in parts) for _, parts in bars)
    picture = Picture("CPU time per request on Kafka and Redis", subtitle(results), 900, 110 + 34 * len(bars))
    left, width = 150, 650
    for row, (name, parts) in enumerate(bars):
        top, x = 84 + 34 * row, left
        picture.text(left - 10, top + 16, name, "end")
        for key, value in parts:
            length = value / widest * width
            picture.add(f"<rect x='{x:.1f}' y='{top}' width='{length:.1f}' height='22' fill='{PROCESS_COLOURS[key]}'/>")
            if length > 34:
                picture.text(x + length / 2, top + 16, short(value), "middle", "#FFFFFF")
            x += length
        picture.text(x + 8, top + 16, f"{short(sum(value for _, value in parts))} µs")
    for index, key in enumerate(key for key in PROCESS_COLOURS if any(key == part for _, parts in bars for part, _ in parts)):
        picture.add(f"<rect x='{left + 110 * index}' y='60' width='12' height='12' fill='{PROCESS_COLOURS[key]}'/>")
        picture.text(left + 110 * index + 18, 71, key)
    return picture.svg()


def waiting(results: Results) -> str | None:
    steps = [step for step in results.steps("waiting") if step.get("runs")]
    if not steps:
        return None
    x = Log(min(step["waiting"] for step in steps), max(step["waiting"] for step in steps))
    cost = [(step["waiting"], step["median"]["cpu_us_per_request"]["server"]) for step in steps]
    memory = [(step["waiting"], step["bytes_per_waiting_request"] / 1024) for step in steps]
    connected = [(step["waiting"], step["bytes_per_connection"] / 1024) for step in steps]
    picture = Picture("What requests that wait cost", subtitle(results), 1000, 420)
    panel = picture.panel(0, 2, "CPU of the server per request beside them", x, Linear(0, max(y for _, y in cost) * 1.2))
    panel.axes("requests that wait", "µs", short)
    panel.line(cost, BLUE, "server")
    panel = picture.panel(1, 2, "memory of the server", x, Linear(0, max(y for _, y in memory + connected) * 1.1 or 1))
    panel.axes("requests that wait", "KiB each", short)
    panel.lines([(memory, BLUE, "per request"), (connected, GREY, "per connection")])
    return picture.svg()


def subtitle(results: Results) -> str:
    facts = results.facts()
    host = facts.get("host", {})
    quick = ", QUICK RUN: not figures to quote" if facts.get("quick") else ""
    return (
        f"{host.get('cores')} cores of {host.get('cpu')} for everything; "
        f"commit {str(facts.get('commit'))[:12]}, {str(facts.get('date'))[:10]}{quick}"
    )


# === numbers


def thousands(value: float) -> str:
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")


class Linear:
    def __init__(self, low: float, high: float) -> None:
        step = 10 ** math.floor(math.log10((high - low) or 1))
        step = next(step * factor for factor in (0.2, 0.5, 1, 2) if (high - low) / (step * factor) <= 6)
        self.low, self.high = low, math.ceil(high / step - 1e-9) * step
        self.ticks = [round(low + step * index, 9) for index in range(round((self.high - low) / step) + 1)]

    def at(self, value: float) -> float:
        """0 to 1."""
        return (value - self.low) / (self.high - self.low)


class Log:
    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        self.high = max(self.high, self.low + 1)
        # Over two decades or fewer, marks between them too.
        factors = (1, 2, 5) if self.high - self.low <= 2 else (1,)
        self.ticks = [factor * 10.0**exponent for exponent in range(self.low, self.high) for factor in factors]
        self.ticks.append(10.0**self.high)

    def at(self, value: float) -> float:
        return (math.log10(max(value, 10.0**self.low)) - self.low) / (self.high - self.low)


# === drawing


class Picture:
    def __init__(self, title: str, note: str, width: int, height: int) -> None:
        self.width, self.height, self.parts = width, height, []
        self.text(20, 30, title, size=18, weight="600")
        self.text(20, 50, note, colour=GREY, size=11)

    def add(self, element: str) -> None:
        self.parts.append(element)

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", colour: str = INK, size: int = 12, weight: str = "400"
    ) -> None:
        self.add(
            f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' fill='{colour}' font-size='{size}' "
            f"font-weight='{weight}'>{escape(text)}</text>"
        )

    def panel(self, index: int, count: int, title: str, x, y) -> "Panel":
        """One of `count` panels side by side, with scales `x` and `y`."""
        width = self.width / count
        left, right = width * index + LEFT, width * (index + 1) - RIGHT
        self.text(left, TOP - 8, title, size=13, weight="600")
        return Panel(self, (left, right), (self.height - BOTTOM, TOP + 26), x, y)

    def svg(self) -> str:
        return "\n".join([
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {self.width} {self.height}' "
            f"width='{self.width}' height='{self.height}' {FONT}>",
            "<rect width='100%' height='100%' fill='#FFFFFF'/>",
            *self.parts,
            "</svg>\n",
        ])


class Panel:
    def __init__(self, picture: Picture, across: tuple, up: tuple, x, y) -> None:
        self.picture, self.across, self.up, self.x, self.y = picture, across, up, x, y

    def point(self, x: float, y: float) -> tuple[float, float]:
        (left, right), (bottom, top) = self.across, self.up
        return left + (right - left) * self.x.at(x), bottom + (top - bottom) * self.y.at(y)

    def axes(self, x_label: str, y_label: str, write) -> None:
        (left, right), (bottom, top) = self.across, self.up
        for tick in self.y.ticks:
            _, y = self.point(self.x.ticks[0], tick)
            self.picture.add(f"<path d='M{left:.1f} {y:.1f}H{right:.1f}' stroke='{GRID}'/>")
            self.picture.text(left - 8, y + 4, write(tick), "end")
        for tick in self.x.ticks:
            x, _ = self.point(tick, self.y.ticks[0])
            self.picture.add(f"<path d='M{x:.1f} {bottom}v5' stroke='{INK}'/>")
            self.picture.text(x, bottom + 20, thousands(tick), "middle")
        self.picture.add(f"<path d='M{left:.1f} {bottom}H{right:.1f}' stroke='{INK}'/>")
        self.picture.text((left + right) / 2, bottom + 42, x_label, "middle")
        self.picture.text(left - 54, top - 14, y_label, colour=GREY)

    def line(self, points: list, colour: str, label: str) -> None:
        self.lines([(points, colour, label)])

    def lines(self, lines: list) -> None:
        """Each with its name beside its end, moved where two would be in one place."""
        ends = []
        for points, colour, label in lines:
            places = [self.point(*point) for point in points]
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
            self.picture.add(f"<path d='M{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
            for x, y in places:
                self.picture.add(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>")
            ends.append((*places[-1], colour, label))
        taken = -math.inf
        for x, y, colour, label in sorted(ends, key=lambda end: end[1]):
            taken = max(y + 4, taken + LABEL_HEIGHT)
            self.picture.text(x + 8, taken, label, colour=colour, weight="600")

    def whisker(self, x: float, low: float, high: float, colour: str) -> None:
        (at, bottom), (_, top) = self.point(x, low), self.point(x, high)
        self.picture.add(
            f"<path d='M{at:.1f} {bottom:.1f}V{top:.1f}M{at - 4:.1f} {bottom:.1f}h8M{at - 4:.1f} {top:.1f}h8' "
            f"stroke='{colour}' fill='none'/>"
        )


main()
