#!/usr/bin/env python3
"""Requests that wait, and nothing else: opens COUNT connections to HOST:PORT, and later sends one POST on each.

    bench-hold.py HOST PORT COUNT

Commands come on standard input, one a line; each is answered by one line on standard output when it is done:
`connect` opens the connections, `greet` has a GET answered on each, `send` sends the requests, whose answers are never
read. The end of the input, or of the
process, closes the connections. Source addresses 127.0.0.2, 127.0.0.3, … so that ports suffice.
"""

import socket
import struct
import sys
import time
from collections.abc import Iterator

# Connections per source address: well below the kernel's range of local ports (28,000).
PER_ADDRESS = 20_000
# More connections at once than a listener's backlog takes would wait for a retry of the SYN.
TIMEOUT_SECONDS = 20
# Requests are sent evenly, so many a second: a burst of thousands would measure the burst.
RATE = 5_000
# linux/in.h; Python has it from 3.12 on.
IP_BIND_ADDRESS_NO_PORT = 24


def main() -> None:
    host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    connections: list[socket.socket] = []
    for line in sys.stdin:
        if line.strip() == "connect":
            for number in range(count):
                connections.append(connected((host, port), f"127.0.0.{2 + number // PER_ADDRESS}"))
        elif line.strip() == "send":
            for number, connection in paced(connections):
                body = b'{"action":"get_gift_code","nonce":"held-%d"}' % number
                head = b"POST /queue HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n" % (host.encode(), len(body))
                connection.sendall(head + body)
        elif line.strip() == "greet":
            for _, connection in paced(connections):
                connection.sendall(b"GET /livez HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
                # Short enough for one segment.
                if not connection.recv(4096).startswith(b"HTTP/1.1 200 "):
                    sys.exit("not alive")
        else:
            sys.exit(f"unknown command: {line.strip()}")
        print("done", flush=True)


def connected(server: tuple[str, int], source: str) -> socket.socket:
    connection = socket.socket()
    # The port is chosen when the peer is known, so that one of another peer, or of an earlier run, is no obstacle.
    connection.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    # Closed by a reset: thousands of ports would otherwise be out of use for a minute.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.settimeout(TIMEOUT_SECONDS)
    connection.bind((source, 0))
    connection.connect(server)
    return connection


def paced(connections: list[socket.socket]) -> Iterator[tuple[int, socket.socket]]:
    start = time.monotonic()
    for number, connection in enumerate(connections):
        time.sleep(max(0, start + number / RATE - time.monotonic()))
        yield number, connection


main()
