//! A worker that records: it notes each task that it has and each reply that it is about to send, holds each task as
//! long as the task says, and answers with the task itself. A process of its own, to be killed and stopped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord};
use serde_json::{Value, json};

use crate::record::{Recorder, now_ns};

/// How long one look for tasks may block while nothing is due.
const LOOK_LIMIT: Duration = Duration::from_millis(5);
/// After so long a dead worker's partitions go to the others.
const SESSION_MS: &str = "6000";

/// What it works on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The brokers.
    #[arg(long)]
    pub bootstrap: String,
    /// The topic of the tasks.
    #[arg(long)]
    pub tasks: String,
    /// The consumer group.
    #[arg(long)]
    pub group: String,
    /// Its name in the history.
    #[arg(long)]
    pub name: String,
    /// Where to record.
    #[arg(long)]
    pub history: PathBuf,
}

/// Works until it is killed.
pub fn run(args: &Args) -> ! {
    let mut worker = Worker::new(args);
    loop {
        worker.act();
        let next = worker.due.peek().map(|Reverse((at, _))| at.saturating_duration_since(Instant::now()));
        // An error is a broker that is away, by the plan: the client goes on by itself.
        let task = match worker.consumer.poll(next.unwrap_or(LOOK_LIMIT).min(LOOK_LIMIT)) {
            Some(Ok(message)) => Task::read(&message),
            Some(Err(_)) | None => None,
        };
        if let Some(task) = task {
            worker.take(task);
        }
        worker.producer.poll(Duration::ZERO);
    }
}

struct Worker {
    name: String,
    recorder: Recorder,
    consumer: BaseConsumer,
    producer: BaseProducer,
    /// When which task is to be answered.
    due: BinaryHeap<Reverse<(Instant, u64)>>,
    held: BTreeMap<u64, Task>,
    next: u64,
}

struct Task {
    nonce: String,
    body: Vec<u8>,
    hold: Duration,
    id: Vec<u8>,
    reply_topic: String,
    reply_partition: i32,
}

impl Worker {
    fn new(args: &Args) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &args.bootstrap)
            .set("broker.address.family", "v4")
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set("linger.ms", "0");
        let producer = config.create().expect("a Kafka producer");
        config
            .set("group.id", &args.group)
            .set("session.timeout.ms", SESSION_MS)
            .set("auto.offset.reset", "earliest")
            .set("auto.commit.interval.ms", "1000")
            .set("fetch.wait.max.ms", "10")
            .set("fetch.queue.backoff.ms", "1");
        let consumer: BaseConsumer = config.create().expect("a Kafka consumer");
        consumer.subscribe(&[&args.tasks]).expect("a topic can be subscribed to");
        let recorder = Recorder::create(&args.history);
        let name = args.name.clone();
        Self { name, recorder, consumer, producer, due: BinaryHeap::new(), held: BTreeMap::new(), next: 0 }
    }

    fn take(&mut self, task: Task) {
        self.recorder.record(now_ns(), &self.name, "take", json!({ "id": task.nonce }));
        self.due.push(Reverse((Instant::now() + task.hold, self.next)));
        self.held.insert(self.next, task);
        self.next += 1;
    }

    /// Answers everything that is due.
    fn act(&mut self) {
        let now = Instant::now();
        while self.due.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, number))) = self.due.pop() else { return };
            let Some(task) = self.held.remove(&number) else { continue };
            let headers = OwnedHeaders::new().insert(Header { key: "kafka_correlationId", value: Some(&task.id) });
            let record = BaseRecord::<[u8], [u8]>::to(&task.reply_topic)
                .partition(task.reply_partition)
                .payload(&task.body)
                .headers(headers);
            self.recorder.record(now_ns(), &self.name, "reply", json!({ "id": task.nonce }));
            // What cannot be sent has no answer: 504 at the deadline.
            let _ = self.producer.send(record);
        }
    }
}

impl Task {
    /// `None` for a task for which nobody waits any more.
    fn read(message: &BorrowedMessage<'_>) -> Option<Self> {
        let headers: BTreeMap<&str, &[u8]> =
            message.headers()?.iter().map(|header| (header.key, header.value.unwrap_or_default())).collect();
        let deadline_ms: u128 = std::str::from_utf8(headers.get("x-deadline-ms")?).ok()?.parse().ok()?;
        if deadline_ms <= SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis() {
            return None;
        }
        let body = message.payload().unwrap_or_default();
        let task: Value = serde_json::from_slice(body).expect("the server passes JSON only");
        let partition: [u8; 4] = (*headers.get("kafka_replyPartition")?).try_into().expect("a partition is 4 bytes");
        Some(Self {
            nonce: task["nonce"].as_str().expect("every task of the run has a nonce").to_owned(),
            body: body.to_vec(),
            hold: Duration::from_millis(task["hold_ms"].as_u64().unwrap_or(0)),
            id: headers.get("kafka_correlationId")?.to_vec(),
            reply_topic: String::from_utf8_lossy(headers.get("kafka_replyTopic")?).into_owned(),
            reply_partition: i32::from_be_bytes(partition),
        })
    }
}
