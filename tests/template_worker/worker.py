"""A worker of the FastAPI template's kind: plain JSON in, plain JSON out, no record headers.

It stands for the workers that users already run. With TASK_FORMAT=json the server has to work with it as it is.

    tasks:    {"action": "get_gift_code", "correlation_id": "..."}
    results:  {"correlation_id": "...", "result": "GIFT-..."}

Settings, from the environment: KAFKA_BOOTSTRAP_SERVERS, TASKS_TOPIC, RESULTS_TOPIC, WORKER_GROUP.
"""

import asyncio
import json
import os
import signal
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

BOOTSTRAP = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
TASKS_TOPIC = os.environ.get("TASKS_TOPIC", "tasks")
RESULTS_TOPIC = os.environ.get("RESULTS_TOPIC", "results")
GROUP = os.environ.get("WORKER_GROUP", "template-worker")


def handle(task: dict) -> dict:
    """The reply to one task; the field "error" says that the worker failed."""
    reply = {"correlation_id": task["correlation_id"]}
    if task.get("action") == "get_gift_code":
        reply["result"] = f"GIFT-{uuid.uuid4().hex[:12].upper()}"
    else:
        reply["error"] = f"unknown action: {task.get('action')}"
    return reply


async def serve(consumer: AIOKafkaConsumer, producer: AIOKafkaProducer) -> None:
    """Answers every task until it is cancelled."""
    async for record in consumer:
        try:
            reply = handle(json.loads(record.value))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print(f"skipped a task that cannot be answered: {error!r}", flush=True)
            continue
        await producer.send(RESULTS_TOPIC, json.dumps(reply).encode())


async def main() -> None:
    producer = AIOKafkaProducer(bootstrap_servers=BOOTSTRAP)
    consumer = AIOKafkaConsumer(
        TASKS_TOPIC,
        bootstrap_servers=BOOTSTRAP,
        group_id=GROUP,
        auto_offset_reset="earliest",
    )
    async with producer, consumer:
        serving = asyncio.create_task(serve(consumer, producer))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, serving.cancel)
        print("worker started", flush=True)
        try:
            await serving
        except asyncio.CancelledError:
            print("worker stopped", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
