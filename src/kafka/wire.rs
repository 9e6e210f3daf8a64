//! Record layout: what a task and a reply look like on the topics. Pure; no network.

use bytes::Bytes;

use crate::correlate::CorrelationId;

/// A request on its way to the tasks topic.
#[derive(Debug)]
pub struct Task<'a> {
    /// Becomes the correlation header.
    pub id: CorrelationId,
    /// The record's value, byte for byte (`TaskFormat::Headers`).
    pub body: &'a [u8],
    /// The client's `Content-Type`, when it gave one.
    pub content_type: Option<&'a [u8]>,
    /// W3C trace context, when the client gave it.
    pub traceparent: Option<&'a [u8]>,
    /// W3C trace state, when the client gave it.
    pub tracestate: Option<&'a [u8]>,
    /// The client's own request id, already filtered to `[A-Za-z0-9._-]{1,64}`.
    pub client_request_id: Option<&'a str>,
    /// When the client's deadline ends, in ms since the Unix epoch.
    pub deadline_unix_ms: u64,
}

/// The worker's answer, to be written to the client as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// `x-status` (200 to 599), else 200.
    pub status: u16,
    /// The reply's content type; `None`: `application/json`.
    pub content_type: Option<Bytes>,
    /// The reply's value.
    pub body: Bytes,
}

/// How a submitted task ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The worker answered.
    Answer(Answer),
    /// The worker says that it failed; the value is its code, filtered to `[A-Za-z0-9._-]{1,64}`.
    WorkerError(String),
    /// A reply with a readable id and nonsense otherwise.
    Malformed,
    /// The task did not reach the broker.
    Undelivered(Undelivered),
    /// The server is going away.
    Draining,
}

/// Why a task did not reach the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The local queue is full.
    #[error("the producer's queue is full")]
    QueueFull,
    /// No broker, or no acknowledgement in time.
    #[error("the broker is unavailable")]
    Unavailable,
    /// The tasks topic does not exist.
    #[error("the topic is missing")]
    TopicMissing,
    /// Larger than `message.max.bytes`.
    #[error("the message is too large")]
    TooLarge,
}

/// An outcome and whose it is: what a shard's mailbox carries.
#[derive(Debug)]
pub struct Completion {
    /// The request.
    pub id: CorrelationId,
    /// How it ended.
    pub outcome: Outcome,
}
