//! The way of a worker's replies: producing them, and learning which arrived.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::track::Ticket;
use crate::error::StartError;
use crate::kafka::client;
use crate::kafka::lanes::{Lane, LaneTopic, Lanes};
use crate::kafka::native::{Code, Events, Message, Record, code_name, code_text};
use crate::kafka::wire::{Layout, ReplyRecord, TaskRecord};
use crate::observe::log::Throttle;

/// Reply topics whose handles are kept. A task names its topic itself, so somebody could name ever new ones.
const TOPICS_MAX: usize = 16;
/// `RD_KAFKA_PARTITION_UA`: librdkafka chooses, and stays with its choice for a while.
const ANY_PARTITION: i32 = -1;
/// Waits for room in a full queue, each [`ROOM_WAIT`] long: together longer than any reply's delivery timeout.
const ROOM_WAITS_MAX: usize = 4_000;
const ROOM_WAIT: Duration = Duration::from_millis(10);

/// How long the broker may take to say whether there is a partition that the producer does not know.
const METADATA_WAIT: Duration = Duration::from_secs(1);

/// Between two warnings about a client.
const QUIET_FOR: Duration = Duration::from_secs(10);

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// The broker has it.
    Acknowledged,
    /// It can never be delivered: too large, or no such topic or partition.
    Undeliverable,
    /// It was not delivered in time.
    Lost,
}

/// The reports that came since they were last taken.
#[derive(Default)]
pub struct Reports {
    list: Mutex<Vec<(Ticket, Fate)>>,
    quiet: Quiet,
}

/// One warning about Kafka per [`QUIET_FOR`]: while it is away, librdkafka reports it with every attempt to connect.
pub struct Quiet(Throttle);

impl Default for Quiet {
    fn default() -> Self {
        Self(Throttle::new(QUIET_FOR))
    }
}

impl Quiet {
    /// Logs, or not.
    pub fn warn(&self, code: Code, reason: &str, whose: &'static str) {
        if let Some(suppressed) = self.0.pass() {
            tracing::warn!(code = code_name(code), reason, suppressed, "{whose}");
        }
    }
}

impl Reports {
    /// Swaps them with `taken`, which is emptied first.
    pub fn take(&self, taken: &mut Vec<(Ticket, Fate)>) {
        taken.clear();
        std::mem::swap(taken, &mut self.list.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn push(&self, ticket: Ticket, fate: Fate) {
        self.list.lock().unwrap_or_else(PoisonError::into_inner).push((ticket, fate));
    }
}

impl Events for Reports {
    fn report(&self, message: &Message<'_>) {
        let fate = message.error().map_or(Fate::Acknowledged, fate);
        self.push(message.opaque(), fate);
    }

    fn error(&self, code: Code, reason: &str) {
        self.quiet.warn(code, reason, "Kafka producer of replies");
    }
}

/// A thread's producer of replies.
pub struct Replies {
    /// For waiting on what is under way.
    pub lanes: Lanes,
    /// What arrived, and what did not.
    pub reports: Arc<Reports>,
    layout: Arc<Layout>,
    default_topic: LaneTopic,
    topics: Vec<(Vec<u8>, LaneTopic)>,
    scratch: Vec<u8>,
}

impl Replies {
    /// Makes the producer.
    pub fn new(settings: &crate::config::KafkaSettings, layout: Arc<Layout>) -> Result<Self, StartError> {
        let reports = Arc::new(Reports::default());
        let callbacks: Arc<dyn Events> = reports.clone();
        let lanes = Lanes::new(settings, client::reply_producer, &callbacks)?;
        let default_topic = lanes
            .topic(&settings.results_topic)
            .map_err(|code| StartError::Kafka(format!("topic {:?}: {}", settings.results_topic, code_text(code))))?;
        let topics = vec![(settings.results_topic.clone().into_bytes(), default_topic.clone())];
        Ok(Self { lanes, reports, layout, default_topic, topics, scratch: Vec::new() })
    }

    /// Sends a reply where the task wants it; its report will carry `ticket`. Waits while the queue is full.
    pub fn send(&mut self, lane: Lane, task: &TaskRecord<'_>, reply: &ReplyRecord<'_>, ticket: Ticket) {
        let Some(topic) = self.topic(task.reply_topic) else {
            return self.reports.push(ticket, Fate::Undeliverable);
        };
        let partition = task.reply_partition.unwrap_or(ANY_PARTITION);
        let lanes = &self.lanes;
        let sent = self.layout.with_reply(reply, &mut self.scratch, |payload, headers| {
            let record = Record { payload, headers, opaque: ticket };
            let mut is_known = true;
            for _ in 0..ROOM_WAITS_MAX {
                match topic.produce(lane, partition, &record) {
                    Err(Code::RD_KAFKA_RESP_ERR__QUEUE_FULL) => lanes.poll(ROOM_WAIT),
                    // Perhaps it was added after the last refresh: ask, and try once more.
                    Err(Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION) if is_known => {
                        is_known = false;
                        let _ = lanes.metadata(METADATA_WAIT);
                    }
                    result => return result.map(drop),
                }
            }
            Err(Code::RD_KAFKA_RESP_ERR__QUEUE_FULL)
        });
        if let Err(code) = sent {
            self.reports.push(ticket, fate(code));
        }
    }

    fn topic(&mut self, name: Option<&[u8]>) -> Option<LaneTopic> {
        let Some(name) = name else { return Some(self.default_topic.clone()) };
        if let Some((_, topic)) = self.topics.iter().find(|(known, _)| known == name) {
            return Some(topic.clone());
        }
        if self.topics.len() >= TOPICS_MAX {
            return None;
        }
        let topic = self.lanes.topic(std::str::from_utf8(name).ok()?).ok()?;
        self.topics.push((name.to_vec(), topic.clone()));
        Some(topic)
    }
}

fn fate(code: Code) -> Fate {
    match code {
        Code::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE
        | Code::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | Code::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION
        | Code::RD_KAFKA_RESP_ERR__INVALID_ARG
        | Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | Code::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION
        | Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => Fate::Undeliverable,
        _ => Fate::Lost,
    }
}
