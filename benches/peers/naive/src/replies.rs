//! Who waits for which reply, and the task that reads the topic and tells them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Bytes;
use dashmap::DashMap;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tokio::sync::oneshot::{self, error::RecvError};
use uuid::Uuid;

/// The record header with the request's id.
pub const CORRELATION_HEADER: &str = "kafka_correlationId";

/// How long the broker may take for metadata and offsets at the start.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two attempts to read, after one that failed.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

type Waiters = DashMap<Uuid, oneshot::Sender<Bytes>>;

/// The waiting requests; clones share them.
#[derive(Clone)]
pub struct Replies(Arc<Waiters>);

impl Replies {
    /// Reads every partition of the topic from its present end on, in a task of the current runtime.
    pub fn start(kafka: &ClientConfig, topic: &str) -> Result<Self> {
        let consumer: StreamConsumer = kafka
            .clone()
            .set("group.id", format!("naive-{}", Uuid::new_v4()))
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "1")
            .set("check.crcs", "false")
            .create()?;
        consumer.assign(&present_ends(&consumer, topic)?)?;
        let replies = Self(Arc::default());
        tokio::spawn(read(consumer, replies.0.clone()));
        Ok(replies)
    }

    /// Registers the request; must come before its task is sent.
    pub fn expect(&self, id: Uuid) -> Waiting {
        let (sender, receiver) = oneshot::channel();
        self.0.insert(id, sender);
        Waiting { id, waiters: self.0.clone(), receiver }
    }
}

/// A registered request; forgotten on drop.
pub struct Waiting {
    id: Uuid,
    waiters: Arc<Waiters>,
    receiver: oneshot::Receiver<Bytes>,
}

impl Waiting {
    /// The reply's value, when it comes.
    pub async fn reply(&mut self) -> Result<Bytes, RecvError> {
        (&mut self.receiver).await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiters.remove(&self.id);
    }
}

/// Where each partition ends now. Known before the first request, so that no reply can be missed.
fn present_ends(consumer: &StreamConsumer, topic: &str) -> Result<TopicPartitionList> {
    let metadata = consumer.fetch_metadata(Some(topic), START_TIMEOUT)?;
    let partitions = metadata.topics().first().context("the topic is missing")?.partitions();
    let mut ends = TopicPartitionList::new();
    for partition in partitions {
        let (_, end) = consumer.fetch_watermarks(topic, partition.id(), START_TIMEOUT)?;
        ends.add_partition_offset(topic, partition.id(), Offset::Offset(end))?;
    }
    Ok(ends)
}

async fn read(consumer: StreamConsumer, waiters: Arc<Waiters>) {
    loop {
        match consumer.recv().await {
            Ok(record) => tell(&waiters, &record),
            Err(error) => {
                eprintln!("cannot read replies: {error}");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

/// Gives the reply to whoever waits for it; it may be another instance's, or too late.
fn tell(waiters: &Waiters, record: &BorrowedMessage<'_>) {
    let Some(id) = record.headers().and_then(|headers| {
        let value = headers.iter().find(|header| header.key == CORRELATION_HEADER)?.value?;
        Uuid::try_parse_ascii(value).ok()
    }) else {
        return;
    };
    if let Some((_, sender)) = waiters.remove(&id) {
        // An error: it has just stopped waiting.
        let _ = sender.send(Bytes::copy_from_slice(record.payload().unwrap_or_default()));
    }
}
