"""The clients of a soak that are not as they should be: those that come and go, leave, dawdle, ask for too much or for
nonsense, and a worker that answers late or not at all. Used by soak.py. Every answer is checked: its status is one
that such a request may get, and a 200 has the request's own nonce."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable

# Above every limit of the servers, see soak.sh: what takes longer hangs.
ANSWER_SECONDS_MAX = 15
# Longest head of an answer.
HEAD_BYTES_MAX = 64 << 10
# Bytes of an answer that its client does not read.
LARGE_BYTES = 300_000
# Most client tasks at once: if the servers hang, new ones wait.
CLIENTS_MAX = 1_000
# Statuses of a sound request while capacity may be reached and the worker may be stopped.
SOUND = {200, 429, 504}

BAD = [
    (400, b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: 1\r\n\r\n{"),
    (400, b'POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: 3\r\n\r\n"\xff"'),
    (400, b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: 200\r\n\r\n" + b"[" * 100 + b"]" * 100),
    (400, b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}"),
    (400, b"POST /queue HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"),
    (413, b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: 99999999\r\n\r\n"),
    (415, b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Type: image/png\r\nContent-Length: 2\r\n\r\n{}"),
    (404, b"GET /nothing HTTP/1.1\r\nHost: s\r\n\r\n"),
    (405, b"GET /queue HTTP/1.1\r\nHost: s\r\n\r\n"),
    (431, b"GET / HTTP/1.1\r\nHost: s\r\n" + b"x: y\r\n" * 80 + b"\r\n"),
]


class Traffic:
    """All of it, until `stop`."""

    def __init__(self, answered: str, silent: str, worker_pid: int) -> None:
        self.answered = address(answered)
        self.silent = address(silent)
        self.worker_pid = worker_pid
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.stopping = asyncio.Event()
        self.room = asyncio.Semaphore(CLIENTS_MAX)
        self.nonces = itertools.count(1)
        self.run = random.getrandbits(32)

    async def go(self) -> None:
        """Until `stop` and the end of the last client."""
        kinds: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (0.05, self.comes_and_goes),
            (0.1, self.leaves),
            (0.25, self.gets_no_answer),
            (0.1, self.asks_nonsense),
            (0.5, self.sends_its_head_slowly),
            (0.5, self.sends_its_body_slowly),
            (0.5, self.says_nothing),
            (2.0, self.does_not_read),
            (5.0, self.comes_with_a_crowd),
            (30.0, self.stops_the_worker),
        ]
        async with asyncio.TaskGroup() as group:
            for period, kind in kinds:
                group.create_task(self.repeat(group, period, kind))

    def stop(self) -> None:
        """No new clients; those that are there end by themselves."""
        self.stopping.set()

    async def repeat(self, group: asyncio.TaskGroup, period: float, kind: Callable[[], Awaitable[None]]) -> None:
        """A new client of one kind every `period` seconds."""
        while not self.stopping.is_set():
            await self.room.acquire()
            group.create_task(self.one(kind))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), period)

    async def one(self, kind: Callable[[], Awaitable[None]]) -> None:
        """One client; what goes wrong is kept."""
        name = kind.__name__
        try:
            await kind()
            self.counts[name] += 1
        except (OSError, EOFError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
            self.fault(f"{name}: {type(error).__name__} {error}")
        finally:
            self.room.release()

    def fault(self, text: str) -> None:
        """Something that must not happen."""
        self.counts["faults"] += 1
        if len(self.faults) < 20:
            self.faults.append(text)

    # === the kinds

    async def comes_and_goes(self) -> None:
        """A connection for one request."""
        await self.ask(self.answered, SOUND)

    async def leaves(self) -> None:
        """Sends its request and does not wait: closes, or resets the connection, sometimes with more sent."""
        where = random.choice((self.answered, self.silent))
        _, writer = await asyncio.open_connection(*where)
        with closing(writer):
            writer.write(post(self.nonce()) + random.choice((b"", b"GET / HT", post(self.nonce()))))
            await writer.drain()
            await asyncio.sleep(random.choice((0, 0.005, 0.3)))
            if random.random() < 0.5:
                set_linger_0(writer)
                writer.transport.abort()

    async def gets_no_answer(self) -> None:
        """A task that no worker takes."""
        await self.ask(self.silent, {429, 504})

    async def asks_nonsense(self) -> None:
        """A request that cannot be served."""
        status, request = random.choice(BAD)
        await self.exchange(self.answered, request, {status})

    async def sends_its_head_slowly(self) -> None:
        """Never ends its head: is told so, or cut, and both within the limit."""
        await self.dribbles(b"POST /queue HTTP/1.1\r\nHost: s\r\n", b"x")

    async def sends_its_body_slowly(self) -> None:
        """Never ends its body."""
        await self.dribbles(b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: 1000\r\n\r\n", b" ")

    async def says_nothing(self) -> None:
        """Connects and waits to be closed: by the limit for a head that never begins."""
        reader, writer = await asyncio.open_connection(*self.silent)
        with closing(writer), contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(HEAD_BYTES_MAX), ANSWER_SECONDS_MAX)

    async def does_not_read(self) -> None:
        """Asks for a large answer and takes none of it for a while."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.answered)
        _, writer = await asyncio.open_connection(sock=sock, limit=1024)
        with closing(writer):
            writer.write(post("x" * LARGE_BYTES))
            await writer.drain()
            await asyncio.sleep(4)

    async def comes_with_a_crowd(self) -> None:
        """Three times the capacity at once: most are told to come again."""
        crowd = [self.ask(self.answered, SOUND) for _ in range(200)]
        for outcome in await asyncio.gather(*crowd, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.fault(f"in a crowd: {type(outcome).__name__} {outcome}")

    async def stops_the_worker(self) -> None:
        """For longer than the deadline: its tasks get 504, and it answers them when nobody waits any more."""
        os.kill(self.worker_pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(3)
        finally:
            os.kill(self.worker_pid, signal.SIGCONT)

    # === what they do

    async def dribbles(self, begin: bytes, then: bytes) -> None:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection(*self.answered)
        with closing(writer):
            writer.write(begin)
            answer = asyncio.ensure_future(reader.read(HEAD_BYTES_MAX))
            while not answer.done() and time.monotonic() - started < ANSWER_SECONDS_MAX:
                writer.write(then)
                await asyncio.wait({answer}, timeout=0.2)
            if not answer.done():
                answer.cancel()
                raise TimeoutError("a slow client was not cut")
            with contextlib.suppress(ConnectionError):
                text = answer.result()
                if text and not text.startswith(b"HTTP/1.1 408"):
                    raise ValueError(f"a slow client got {text[:40]!r}")

    async def ask(self, where: tuple[str, int], allowed: set[int]) -> None:
        nonce = self.nonce()
        status, body = await self.exchange(where, post(nonce), allowed)
        if status == 200 and f'"{nonce}"'.encode() not in body:
            self.fault(f"the answer of somebody else: {nonce} got {body[:200]!r}")

    async def exchange(self, where: tuple[str, int], request: bytes, allowed: set[int]) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection(*where)
        with closing(writer):
            writer.write(request)
            status, body = await asyncio.wait_for(response(reader), ANSWER_SECONDS_MAX)
        self.counts[f"status {status}"] += 1
        if status not in allowed:
            self.fault(f"{status} for {request[:60]!r}, not {sorted(allowed)}: {body[:200]!r}")
        return status, body

    def nonce(self) -> str:
        return f"soak-{self.run:08x}-{next(self.nonces)}"


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split("/")[0].rsplit(":", 1)
    return host, int(port)


def post(nonce: str) -> bytes:
    body = b'{"action":"get_gift_code","nonce":"%s"}' % nonce.encode()
    return b"POST /queue HTTP/1.1\r\nHost: s\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


async def response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body; the servers always say how long a body is."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split(" ")[1]), await reader.readexactly(int(fields["content-length"]))


@contextlib.contextmanager
def closing(writer: asyncio.StreamWriter):
    """The socket is closed without a wait for what is still to be sent."""
    try:
        yield
    finally:
        writer.close()


def set_linger_0(writer: asyncio.StreamWriter) -> None:
    """The close becomes a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
