//! The checker's thread: read tasks, hold them, answer them when they are due.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::super::kafka::Kafka;
use super::{Behaviour, Choose, HISTORY_MAX, Join, Seen, Shared};

/// How long one look for tasks may block while nothing is due.
const LOOK_LIMIT: Duration = Duration::from_millis(5);
/// The deadline header is in whole ms and from another clock: a task stops to count this much before it.
const DEADLINE_SKEW: Duration = Duration::from_millis(10);
/// For what is still queued when the checker ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// Metadata of the tasks topic at the start.
const METADATA_LIMIT: Duration = Duration::from_secs(10);
/// The largest reply that a test sends (the fault matrix asks for 50 MB), if the broker takes it.
const REPLY_BYTES_MAX: &str = "100000000";

const CORRELATION: &str = "kafka_correlationId";
const REPLY_TOPIC: &str = "kafka_replyTopic";
const REPLY_PARTITION: &str = "kafka_replyPartition";
const DEADLINE: &str = "x-deadline-ms";
const ERROR: &str = "x-error";

pub(super) struct Engine {
    consumer: BaseConsumer,
    producer: BaseProducer,
    choose: Choose,
    shared: Arc<Mutex<Shared>>,
    /// What happens next, to which task.
    due: BinaryHeap<Reverse<(Instant, Event, u64)>>,
    /// Tasks for which something is still to happen.
    held: BTreeMap<u64, Held>,
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The server may have given the permit back: the task counts no longer.
    Uncount,
    /// The answer is due.
    Answer,
}

struct Held {
    seen: Seen,
    behaviour: Behaviour,
    counted: bool,
}

impl Engine {
    pub(super) fn new(kafka: &Kafka, tasks: &str, join: &Join, choose: Choose, shared: Arc<Mutex<Shared>>) -> Self {
        let mut config = kafka.client();
        config.set("message.max.bytes", REPLY_BYTES_MAX).set("linger.ms", "0");
        let producer = config.create().expect("a Kafka producer");
        Self {
            consumer: consumer(kafka, tasks, join),
            producer,
            choose,
            shared,
            due: BinaryHeap::new(),
            held: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.act(Instant::now());
            let next = self.due.peek().map(|Reverse((at, ..))| at.saturating_duration_since(Instant::now()));
            let seen = match self.consumer.poll(next.unwrap_or(LOOK_LIMIT).min(LOOK_LIMIT)) {
                Some(Ok(message)) => Some(read(&message)),
                // A broker that is away, by the test's will: the client goes on by itself.
                Some(Err(_)) | None => None,
            };
            if let Some(seen) = seen {
                // What became due while the poll waited must not count beside what has just come.
                self.act(seen.at);
                self.take(seen);
            }
            self.producer.poll(Duration::ZERO);
        }
        let _ = self.producer.flush(FLUSH_LIMIT);
    }

    /// Counts a new task and puts down what will happen to it.
    fn take(&mut self, seen: Seen) {
        let behaviour = (self.choose)(&seen);
        let deadline = deadline(&seen);
        let uncount = deadline.map(|at| at.checked_sub(DEADLINE_SKEW).unwrap_or(at));
        let answer = match &behaviour {
            Behaviour::Never => None,
            Behaviour::Answer(hold) | Behaviour::Twice(hold) => Some(seen.at + *hold),
            Behaviour::Late(by) => Some(deadline.expect("a task that is answered late has a deadline") + *by),
            _ => Some(seen.at),
        };
        let number = self.next;
        self.next += 1;
        self.due.extend(uncount.map(|at| Reverse((at, Event::Uncount, number))));
        self.due.extend(answer.map(|at| Reverse((at, Event::Answer, number))));

        let mut shared = lock(&self.shared);
        shared.counts.tasks += 1;
        shared.counts.without_id += u64::from(seen.id.is_empty());
        shared.counts.in_flight += 1;
        shared.counts.in_flight_max = shared.counts.in_flight_max.max(shared.counts.in_flight);
        if shared.history.len() < HISTORY_MAX {
            shared.history.push(seen.clone());
        }
        drop(shared);
        self.held.insert(number, Held { seen, behaviour, counted: true });
    }

    /// Does everything that is due.
    fn act(&mut self, now: Instant) {
        while self.due.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Some(Reverse((_, event, number))) = self.due.pop() else { return };
            // The deadline of a task that was answered in time: nothing to do.
            let Some(mut held) = self.held.remove(&number) else { continue };
            if std::mem::take(&mut held.counted) {
                lock(&self.shared).counts.in_flight -= 1;
            }
            match event {
                Event::Answer => self.answer(&held),
                Event::Uncount if held.behaviour == Behaviour::Never => {}
                // The late answer is still to come.
                Event::Uncount => {
                    self.held.insert(number, held);
                }
            }
        }
    }

    fn answer(&self, held: &Held) {
        let Held { seen, behaviour, .. } = held;
        match behaviour {
            Behaviour::Never => {}
            Behaviour::Answer(_) | Behaviour::Late(_) => self.reply(seen, &seen.id, &seen.body, &[]),
            Behaviour::Twice(_) => {
                self.reply(seen, &seen.id, &seen.body, &[]);
                self.reply(seen, &seen.id, &seen.body, &[]);
            }
            Behaviour::Garbage => self.reply(seen, &seen.id, b"\xff\xfe{not json", &[]),
            Behaviour::WrongId(id) => self.reply(seen, id, &seen.body, &[]),
            Behaviour::Error(code) => self.reply(seen, &seen.id, b"{}", &[(ERROR, code.clone().into_bytes())]),
            Behaviour::Huge(bytes) => {
                let value = format!("\"{}\"", "x".repeat(bytes.saturating_sub(2)));
                self.reply(seen, &seen.id, value.as_bytes(), &[]);
            }
            Behaviour::Custom(value, headers) => self.reply(seen, &seen.id, value, headers),
        }
    }

    /// Sends one reply to where the task asks for it.
    fn reply(&self, seen: &Seen, id: &[u8], value: &[u8], further: &[(&str, Vec<u8>)]) {
        let topic = seen.headers.get(REPLY_TOPIC).expect("a task says where its reply goes");
        let topic = std::str::from_utf8(topic).expect("a topic name in UTF-8");
        let mut headers = OwnedHeaders::new().insert(Header { key: CORRELATION, value: Some(id) });
        for (key, value) in further {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).payload(value).headers(headers);
        if let Some(partition) = seen.headers.get(REPLY_PARTITION) {
            let partition: [u8; 4] = partition.as_slice().try_into().expect("a partition is 4 bytes, big-endian");
            record = record.partition(i32::from_be_bytes(partition));
        }
        let mut sent = self.producer.send(record);
        // The queue holds far more than one test sends while the broker is there; without a broker it fills.
        if let Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), record)) = sent {
            self.producer.poll(FLUSH_LIMIT);
            sent = self.producer.send(record);
        }
        if let Err((error, _)) = sent {
            panic!("a reply could not be sent: {error}");
        }
        lock(&self.shared).counts.replies += 1;
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(message: &BorrowedMessage<'_>) -> Seen {
    let headers: BTreeMap<String, Vec<u8>> = message
        .headers()
        .into_iter()
        .flat_map(Headers::iter)
        .map(|header| (header.key.to_owned(), header.value.unwrap_or_default().to_vec()))
        .collect();
    Seen {
        id: headers.get(CORRELATION).cloned().unwrap_or_default(),
        body: message.payload().unwrap_or_default().to_vec(),
        headers,
        partition: message.partition(),
        at: Instant::now(),
    }
}

/// When the client's deadline ends, by this process' clock. `None` when the task does not say.
fn deadline(seen: &Seen) -> Option<Instant> {
    let unix_ms: u64 = std::str::from_utf8(seen.headers.get(DEADLINE)?).ok()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(seen.at + Duration::from_millis(unix_ms).saturating_sub(now))
}

fn consumer(kafka: &Kafka, tasks: &str, join: &Join) -> BaseConsumer {
    let mut config = kafka.client();
    config
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "10")
        .set("fetch.queue.backoff.ms", "1")
        .set("group.id", if let Join::Group(group) = join { group } else { "not-used" })
        .set("enable.auto.commit", if matches!(join, Join::Group(_)) { "true" } else { "false" });
    let consumer: BaseConsumer = config.create().expect("a Kafka consumer");
    match join {
        Join::Group(_) => consumer.subscribe(&[tasks]).expect("a topic can be subscribed to"),
        Join::Assign => {
            let metadata = consumer.fetch_metadata(Some(tasks), METADATA_LIMIT).expect("metadata of the tasks topic");
            let mut list = TopicPartitionList::new();
            for partition in metadata.topics()[0].partitions() {
                list.add_partition_offset(tasks, partition.id(), Offset::Beginning).expect("a partition");
            }
            consumer.assign(&list).expect("partitions can be assigned");
        }
    }
    consumer
}
