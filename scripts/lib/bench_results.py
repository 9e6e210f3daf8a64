"""The JSON that scripts/bench.sh leaves in a results directory, for charts.py, figures.py and scale.py."""

import json
import statistics
from pathlib import Path


class Results:
    """All sections of one directory. Whatever was not measured reads as None, so that a part can be shown too."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.sections = {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}

    def step(self, section: str, name: str) -> dict | None:
        steps = self.sections.get(section, {}).get("steps", [])
        return next((step for step in steps if step["name"] == name), None)

    def steps(self, section: str, prefix: str = "") -> list[dict]:
        steps = self.sections.get(section, {}).get("steps", [])
        return [step for step in steps if step["name"].startswith(prefix)]

    def get(self, section: str, name: str, *path: str) -> float | None:
        """A number of a step, e.g. get("kafka", "closed-1000", "median", "rps")."""
        value = self.step(section, name)
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    def facts(self) -> dict:
        """Commit, date and host: those of the first section; they have one commit by construction."""
        return next(iter(self.sections.values()), {})


def server_cpu(run: dict) -> float | None:
    """µs per answer of the server's process; on the embedded stack it is the worker's and the broker's too."""
    cpu = run["cpu"].get("server") or run["cpu"].get("server+worker+broker") or {}
    return cpu.get("us_per_request")


def by_round(first: dict | None, second: dict | None, value) -> list[float]:
    """Ratios first/second of `value`, a function of a run, round by round: a slow minute of the machine hits both."""
    if not first or not second:
        return []
    pairs = [(value(a), value(b)) for a, b in zip(first["runs"], second["runs"])]
    return [a / b for a, b in pairs if a and b]


def median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None
