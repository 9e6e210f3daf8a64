#!/usr/bin/env python3
"""One soak on servers that run already; started by scripts/soak.sh, which says what it does.

    soak.py --seconds N --load PROGRAM --server URL=PID --silent URL=PID --worker PID --redis URL --key KEY --out DIR

Writes DIR/samples.jsonl (one object a sample, every 5 s) and DIR/verdict.json; prints a table. Exit code 1 when
something grew, was not given back at rest, or was answered wrongly.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

from soak_clients import Traffic
from soak_judge import ZERO_AT_REST, Redis, judge, judge_rest, sample, table

SAMPLE_SECONDS = 5
# Of the load generator: a closed loop of a few, which is a steady load far below what the worker can do. An open loop
# would need connections in reserve, which the server would close as idle, sometimes just when they are needed.
CONNECTIONS = 2
# One run of it; the next one has new connections. The last one may be shorter.
ROUND_SECONDS = 30
ROUND_SECONDS_MIN = 5
# What a run may take beyond its length: connecting, and the last answers' timeout.
OVERTIME_SECONDS = 40
# What is waited for at the end.
GIVEN_BACK = (*ZERO_AT_REST, "connections")
# After the load: one lease (deadline and margin of soak.sh), the idle limit, and some slack.
REST_SECONDS_MAX = 30


class Soak:
    """What runs, and what came of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.redis = Redis(args.redis)
        self.servers = {"server": named(args.server), "silent": named(args.silent)}
        self.traffic = Traffic(self.servers["server"][0], self.servers["silent"][0], args.worker)
        self.samples: list[dict[str, float]] = []
        self.rounds: list[dict[str, object]] = []
        self.faults: list[str] = []
        self.until = time.monotonic() + args.seconds

    async def run(self) -> bool:
        before = await self.sample()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.traffic.go())
            group.create_task(self.steady_load())
            await self.sample_until_the_end()
            self.traffic.stop()
        after = await self.at_rest()
        self.faults += judge_rest(before, after)
        self.faults += self.traffic.faults
        rows = judge(self.samples)
        self.faults += [f"{row['name']} grows" for row in rows if not row["flat"]]
        self.report(rows)
        return not self.faults

    async def sample(self) -> dict[str, float]:
        return await asyncio.to_thread(sample, self.servers, {"worker": self.args.worker}, self.redis, self.args.key)

    async def sample_until_the_end(self) -> None:
        begin = time.monotonic()
        with (self.args.out / "samples.jsonl").open("w", encoding="utf-8") as lines:
            while time.monotonic() < self.until:
                await asyncio.sleep(SAMPLE_SECONDS)
                now = {"t": round(time.monotonic() - begin, 3), **await self.sample()}
                self.samples.append(now)
                lines.write(json.dumps(now) + "\n")
                lines.flush()
                say(f"{now['t']:6.0f} s: {now['server.rss_bytes'] / (1 << 20):.1f} MiB, {now['server.fds']} fds, "
                    f"{now['redis.permits']:g} permits, {self.traffic.counts['faults']} faults")

    async def steady_load(self) -> None:
        """The load generator, again and again: it checks that every answer belongs to its request."""
        number = 0
        while (left := self.until - time.monotonic()) > ROUND_SECONDS_MIN:
            seconds = min(ROUND_SECONDS, left)
            path = self.args.out / "round.json"
            path.unlink(missing_ok=True)
            process = await asyncio.create_subprocess_exec(
                self.args.load, "--url", f"{self.servers['server'][0]}/queue", "--threads", "1", "--connections",
                str(CONNECTIONS), "--seconds", f"{seconds:.0f}", "--warmup", "0", "--json", str(path),
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )
            text, _ = await asyncio.wait_for(process.communicate(), seconds + OVERTIME_SECONDS)
            number += 1
            if process.returncode != 0 or not path.is_file():
                self.faults.append(f"round {number} of the load generator: {text.decode()}")
            if path.is_file():
                self.rounds.append(json.loads(path.read_text()))
                path.unlink()

    async def at_rest(self) -> dict[str, float]:
        """What is left when nobody asks anything any more, as soon as nothing is in use."""
        deadline = time.monotonic() + REST_SECONDS_MAX
        while True:
            now = await self.sample()
            in_use = [name for name, value in now.items() if value != 0 and name.split(".")[-1] in GIVEN_BACK]
            if not in_use or time.monotonic() > deadline:
                return now
            await asyncio.sleep(1)

    def report(self, rows: list[dict[str, object]]) -> None:
        total: dict[str, int] = {}
        for one in self.rounds:
            for name in ("requests", "ok_2xx", "busy_429", "wrong", "malformed", "lost", "hung", "unsent"):
                total[name] = total.get(name, 0) + int(str(one[name]))
        verdict = {"seconds": self.args.seconds, "flat": not self.faults, "faults": self.faults, "generator": total,
                   "clients": dict(self.traffic.counts), "series": rows}
        (self.args.out / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n")
        print(table(rows))
        print("load generator:", ", ".join(f"{name} {count}" for name, count in total.items()))
        print("other clients:", ", ".join(f"{name} {count}" for name, count in sorted(self.traffic.counts.items())))
        for fault in self.faults:
            print("FAULT:", fault)
        print(f"{'flat' if not self.faults else 'NOT FLAT'} over the second half of {self.args.seconds} s")


def named(text: str) -> tuple[str, int]:
    url, pid = text.rsplit("=", 1)
    return url, int(pid)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--worker", type=int, required=True)
    for name in ("load", "server", "silent", "redis", "key"):
        parser.add_argument(f"--{name}", required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sys.exit(0 if asyncio.run(Soak(args).run()) else 1)


main()
