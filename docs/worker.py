"""A worker in Python, whole, to start from: it doubles numbers. Needs `pip install aiokafka`.

    KAFKA_BOOTSTRAP_SERVERS=localhost:9092 python docs/worker.py
    curl localhost:8000/queue -d '{"double":21}'

End the sample worker first, and not beside `thousandx dev`: each group of workers gets every task, and the first answer
wins. What each header means: README.md, "Kafka records, for worker authors".
"""

import asyncio
import json
import os
import signal
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

SERVERS = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
TASKS_TOPIC = os.environ.get("TASKS_TOPIC", "tasks")
GROUP = os.environ.get("WORKER_GROUP", "doublers")


class Failed(Exception):
    """The task cannot be done: the client gets 502 with this code."""


def work(task: object) -> tuple[int, object]:
    """The status and the JSON value that the client gets. Yours goes here."""
    if not isinstance(task, dict) or "double" not in task:
        raise Failed("unknown_task")
    if not isinstance(task["double"], (int, float)):
        return 422, {"error": "double: a number"}
    return 200, {"doubled": 2 * task["double"]}


def parse(body: bytes) -> object:
    try:
        return json.loads(body)
    except ValueError:
        raise Failed("not_json") from None


async def answer(record, producer: AIOKafkaProducer) -> None:
    headers = dict(record.headers)
    if "kafka_correlationId" not in headers:
        # No task of this server, or one with TASK_FORMAT=json or other names of headers.
        print(f"skipped, without kafka_correlationId: partition {record.partition}, offset {record.offset}", flush=True)
        return
    if int(headers["x-deadline-ms"]) < time.time() * 1000:
        return  # nobody waits any more
    reply = [("kafka_correlationId", headers["kafka_correlationId"])]
    try:
        status, value = work(parse(record.value))
        reply.append(("x-status", str(status).encode()))
    except Failed as failed:
        value = None
        reply.append(("x-error", str(failed).encode()))
    await producer.send_and_wait(
        headers["kafka_replyTopic"].decode(),
        json.dumps(value).encode(),
        partition=int.from_bytes(headers["kafka_replyPartition"], "big"),
        headers=reply,
    )


def stop_in_order() -> None:
    """On SIGTERM the group is left, so that others get the partitions at once."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)


async def main() -> None:
    stop_in_order()
    producer = AIOKafkaProducer(bootstrap_servers=SERVERS)
    # A task counts as done when its answer is with Kafka: at least once.
    consumer = AIOKafkaConsumer(
        TASKS_TOPIC, bootstrap_servers=SERVERS, group_id=GROUP, auto_offset_reset="earliest", enable_auto_commit=False
    )
    async with producer, consumer:
        print("worker started", flush=True)
        try:
            async for record in consumer:
                await answer(record, producer)
                await consumer.commit()
        except asyncio.CancelledError:
            print("worker stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
