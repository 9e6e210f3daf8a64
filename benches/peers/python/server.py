"""The FastAPI template's design, written fresh and fairly: FastAPI, uvicorn, aiokafka, redis.asyncio.

    HTTP -> permit in Redis -> tasks topic -> worker -> results topic -> a future per request -> HTTP

What makes it fair: uvloop, httptools and hiredis; no access log; one process per core, each with a listener of its own
on the shared port, each reading all replies and keeping its own; replies read in batches; one script call per acquire.
What differs from the template: ids go as record headers and the body as it is, as with TASK_FORMAT=headers, so that the
same `thousandx work` answers and the answer carries the request's nonce for the load generator to check.

Settings, from the environment: PORT (0: the kernel chooses), KAFKA_BOOTSTRAP_SERVERS, REDIS_URL, RATE_LIMIT_CAPACITY,
RATE_LIMIT_CAPACITY_SET, TASKS_TOPIC, RESULTS_TOPIC, KAFKA_LINGER_MS (whole ms), WORKERS (0: one process per core).
"""

import asyncio
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.synchronize import Semaphore

import uvicorn
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from fastapi import FastAPI, HTTPException, Request, Response
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError

BOOTSTRAP = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379")
CAPACITY = int(os.environ.get("RATE_LIMIT_CAPACITY", "100"))
CAPACITY_SET = os.environ.get("RATE_LIMIT_CAPACITY_SET", "rate_limit_capacity_set")
TASKS_TOPIC = os.environ.get("TASKS_TOPIC", "tasks")
RESULTS_TOPIC = os.environ.get("RESULTS_TOPIC", "results")
LINGER_MS = int(os.environ.get("KAFKA_LINGER_MS", "0"))
WORKERS = int(os.environ.get("WORKERS", "0")) or os.cpu_count() or 1

REPLY_TIMEOUT_SECONDS = 10
# A permit outlives its request by 5 s when its holder dies.
LEASE_MS = (REPLY_TIMEOUT_SECONDS + 5) * 1000
# Connections to Redis per process; a call that finds none free waits for one.
REDIS_CONNECTIONS_MAX = 32
# Connections that may wait for `accept`, per process: more than the load generator opens at once.
BACKLOG = 4096
START_SECONDS_MAX = 30
DEFAULT_TASK = b'{"action":"get_gift_code"}'

# KEYS[1] the set; ARGV: capacity, lease in ms, id. 1 when the permit was taken.
ACQUIRE = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms + ARGV[2]), ARGV[3])
return 1
"""


class Gateway:
    """The clients of one process, and its waiting requests. Made inside the event loop."""

    def __init__(self) -> None:
        self.producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP, acks="all", linger_ms=LINGER_MS)
        self.consumer = AIOKafkaConsumer(bootstrap_servers=BOOTSTRAP, check_crcs=False)
        self.redis = Redis(connection_pool=BlockingConnectionPool.from_url(REDIS_URL, max_connections=REDIS_CONNECTIONS_MAX))
        self.acquire = self.redis.register_script(ACQUIRE)
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}

    async def start(self) -> None:
        """Back when the reading position is known: no reply to a later task can be missed."""
        await self.producer.start()
        await self.consumer.start()
        partitions = await self.producer.partitions_for(RESULTS_TOPIC)
        self.consumer.assign([TopicPartition(RESULTS_TOPIC, partition) for partition in partitions])
        await self.consumer.seek_to_end()

    async def stop(self) -> None:
        await self.consumer.stop()
        await self.producer.stop()
        await self.redis.aclose()

    async def read_replies(self) -> None:
        """Tells each waiting request its reply; those of other processes are nobody's here."""
        while True:
            batches = await self.consumer.getmany(timeout_ms=1000)
            for records in batches.values():
                for record in records:
                    future = self.waiting.pop(dict(record.headers).get("kafka_correlationId", b""), None)
                    if future is not None and not future.done():
                        future.set_result(record.value)

    @asynccontextmanager
    async def permit(self, request_id: bytes) -> AsyncIterator[None]:
        """Holds one of the permits that all processes share."""
        try:
            granted = await self.acquire(keys=[CAPACITY_SET], args=[CAPACITY, LEASE_MS, request_id])
        except RedisError as error:
            raise HTTPException(503, "limiter_unavailable") from error
        if not granted:
            raise HTTPException(429, "capacity_reached")
        try:
            yield
        finally:
            await self.redis.zrem(CAPACITY_SET, request_id)

    async def ask(self, request_id: bytes, task: bytes) -> bytes:
        """Sends the task and waits for its reply."""
        future = asyncio.get_running_loop().create_future()
        self.waiting[request_id] = future
        deadline_ms = int((time.time() + REPLY_TIMEOUT_SECONDS) * 1000)
        headers = [
            ("kafka_correlationId", request_id),
            ("kafka_replyTopic", RESULTS_TOPIC.encode()),
            ("x-deadline-ms", str(deadline_ms).encode()),
            ("content-type", b"application/json"),
        ]
        try:
            async with asyncio.timeout(REPLY_TIMEOUT_SECONDS):
                await self.producer.send(TASKS_TOPIC, task, headers=headers)
                return await future
        except TimeoutError as error:
            raise HTTPException(504, "reply_timeout") from error
        except KafkaError as error:
            raise HTTPException(503, "broker_unavailable") from error
        finally:
            self.waiting.pop(request_id, None)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    gateway = app.state.gateway = Gateway()
    await gateway.start()
    reading = asyncio.create_task(gateway.read_replies())
    app.state.ready.release()
    yield
    reading.cancel()
    await gateway.stop()


app = FastAPI(lifespan=lifespan, openapi_url=None)


@app.post("/queue")
async def queue(request: Request) -> Response:
    gateway: Gateway = request.app.state.gateway
    task = await request.body() or DEFAULT_TASK
    try:
        json.loads(task)
    except ValueError as error:
        raise HTTPException(400, "malformed_json") from error
    request_id = str(uuid.uuid4())
    async with gateway.permit(request_id.encode()):
        reply = await gateway.ask(request_id.encode(), task)
    return Response(reply, media_type="application/json", headers={"x-request-id": request_id})


@app.get("/readyz")
async def readyz() -> Response:
    return Response("ready\n", media_type="text/plain")


def bind(port: int) -> socket.socket:
    """A socket that shares its port with those of the other processes."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def serve(port: int, ready: Semaphore) -> None:
    """One process's server."""
    app.state.ready = ready
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        backlog=BACKLOG,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[bind(port)])


def main() -> None:
    """Starts the processes, says when all are ready, and ends with the first that ends."""
    # Bound and never listening: it only keeps the port.
    reserved = bind(int(os.environ.get("PORT", "8000")))
    port = reserved.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ready = fork.Semaphore(0)
    processes = [fork.Process(target=serve, args=(port, ready), daemon=True) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    # Leaving by an exception ends the daemon processes too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    for _ in processes:
        if not ready.acquire(timeout=START_SECONDS_MAX):
            sys.exit("a process was not ready in time")
    print(f"listening on http://127.0.0.1:{port}", flush=True)
    multiprocessing.connection.wait([process.sentinel for process in processes])
    sys.exit("a process ended")


if __name__ == "__main__":
    main()
