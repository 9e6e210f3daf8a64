"""Runs an attack on a server of this machine and watches what becomes of everybody else.

    slow_watch.py --url URL --pid N --limit SECONDS --seconds SECONDS --connections N --log FILE --table FILE -- COMMAND…

An ordinary client sends `POST URL` five times a second and wants its own nonce back within a second. The kernel's table
says which connections the server has, and so how long each lives, and how much memory it ever had. Adds a row to the
table; exit code 1 when a request failed or was late, when a connection outlived the limit, when the connections took more
memory than they may, or when the attack did not happen.
"""

import argparse
import http.client
import json
import os
import re
import resource
import subprocess
import sys
import threading
import time
import urllib.parse

PROBE_EVERY_SECONDS = 0.2
PROBE_SECONDS_MAX = 1.0
SAMPLE_EVERY_SECONDS = 0.05
# The sweeper keeps a limit to within two ticks of 0.25 s; the rest is the machine's, busy with the attack.
TOLERANCE_SECONDS = 2.5
# What the attack may take beyond its own length before it is ended.
OVERTIME_SECONDS = 15
# What a slow connection may take: what has arrived of a request at most, and its task.
BYTES_PER_CONNECTION_MAX = 64 << 10
ESTABLISHED = "01"
COLUMNS = ("attack", "connections", "at once", "longest", "limit", "requests", "failed", "slowest", "memory", "result")


class Connections:
    """The life of each established connection of the server, by the client's port."""

    def __init__(self, port: int):
        self.suffix = f":{port:04X}"
        self.born: dict[str, float] = {}
        self.ports: set[int] = set()
        self.most = 0
        self.longest = 0.0

    def sample(self) -> None:
        now = time.monotonic()
        with open("/proc/net/tcp", encoding="ascii") as file:
            rows = [line.split()[1:4] for line in file.readlines()[1:]]
        open_now = {remote for local, remote, state in rows if local.endswith(self.suffix) and state == ESTABLISHED}
        for remote in open_now - self.born.keys():
            self.born[remote] = now
            self.ports.add(int(remote.rpartition(":")[2], 16))
        for remote in list(self.born):
            # The age so far: a connection that never ends is seen to be too old all the same.
            self.longest = max(self.longest, now - self.born[remote])
            if remote not in open_now:
                del self.born[remote]
        self.most = max(self.most, len(open_now))


class Client(threading.Thread):
    """The ordinary client, a new connection for each request."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self.url = urllib.parse.urlsplit(url)
        self.stop = threading.Event()
        self.requests = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self.ports: set[int] = set()

    def run(self) -> None:
        while not self.stop.wait(PROBE_EVERY_SECONDS):
            begun = time.monotonic()
            try:
                self.ask(self.requests)
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.failures.append(f"request {self.requests}: {error!r}")
            self.requests += 1
            self.slowest = max(self.slowest, time.monotonic() - begun)

    def ask(self, nonce: int) -> None:
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=PROBE_SECONDS_MAX)
        try:
            connection.connect()
            self.ports.add(connection.sock.getsockname()[1])
            body = json.dumps({"n": nonce})
            connection.request("POST", self.url.path, body, {"content-type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 200 or json.loads(text)["n"] != nonce:
                raise ValueError(f"{answer.status} {text[:200]!r}")
        finally:
            connection.close()


def main() -> int:
    options = parse()
    # For the attacker, a child: a descriptor a connection.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    url = urllib.parse.urlsplit(options.url)
    connections, client = Connections(url.port), Client(options.url)
    before = memory_peak(options.pid)
    client.start()
    late = attack(options, connections)
    # What the attacker has left behind must end by itself.
    deadline = time.monotonic() + options.limit + TOLERANCE_SECONDS
    while connections.born and time.monotonic() < deadline:
        connections.sample()
        time.sleep(SAMPLE_EVERY_SECONDS)
    client.stop.set()
    client.join(PROBE_SECONDS_MAX * 2)
    growth = memory_peak(options.pid) - before
    problems = judge(options, connections, client, late)
    if growth > options.connections * BYTES_PER_CONNECTION_MAX:
        problems.append(f"the server's memory rose by {growth >> 20} MiB")
    for problem in problems:
        print(problem, file=sys.stderr)
    row(options, connections, client, growth, "ok" if not problems else "FAILED")
    return 1 if problems else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    for name in ("--limit", "--seconds"):
        parser.add_argument(name, type=float, required=True)
    for name in ("--pid", "--connections"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("--table", required=True)
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def memory_peak(pid: int) -> int:
    """The most bytes that a process ever had resident (VmHWM, proc_pid_status(5))."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:")) << 10


def attack(options: argparse.Namespace, connections: Connections) -> bool:
    """Runs the command to its end; True when it had to be ended."""
    deadline = time.monotonic() + options.seconds + OVERTIME_SECONDS
    with open(options.log, "wb") as log, subprocess.Popen(
        options.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
    ) as process:
        while process.poll() is None and time.monotonic() < deadline:
            connections.sample()
            time.sleep(SAMPLE_EVERY_SECONDS)
        late = process.poll() is None
        if late:
            process.kill()
    return late


def judge(options: argparse.Namespace, connections: Connections, client: Client, late: bool) -> list[str]:
    problems = [f"an ordinary request failed: {failure}" for failure in client.failures[:5]]
    if late:
        problems.append(f"{options.command[0]} did not end by itself")
    slow = len(connections.ports - client.ports)
    if slow < options.connections * 0.9:
        problems.append(f"only {slow} connections came; the attacker says:\n{tail(options.log)}")
    if connections.longest > options.limit + TOLERANCE_SECONDS:
        problems.append(f"a connection lived for {connections.longest:.1f} s")
    if client.slowest > PROBE_SECONDS_MAX:
        problems.append(f"an ordinary request took {client.slowest:.2f} s")
    if client.requests < options.limit:
        problems.append(f"only {client.requests} ordinary requests were sent")
    return problems


def tail(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return "".join(re.sub(r"\x1b\[[0-9;]*m", "", line) for line in file.readlines()[-15:])


def row(options: argparse.Namespace, connections: Connections, client: Client, growth: int, result: str) -> None:
    values = (
        options.command[1],
        len(connections.ports - client.ports),
        connections.most,
        f"{connections.longest:.1f} s",
        f"{options.limit:.0f} s",
        client.requests,
        len(client.failures),
        f"{client.slowest * 1000:.0f} ms",
        f"+{growth / (1 << 20):.0f} MiB",
        result,
    )
    is_new = not os.path.exists(options.table)
    with open(options.table, "a", encoding="utf-8") as file:
        if is_new:
            file.write(" | ".join(COLUMNS) + "\n")
        file.write(" | ".join(map(str, values)) + "\n")


if __name__ == "__main__":
    sys.exit(main())
