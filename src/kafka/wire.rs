//! Record layout: what a task and a reply look like on the topics. Pure; no network.

mod reply;
mod task;

use std::ffi::{CStr, CString};

use bytes::Bytes;

use super::native::HEADERS_MAX;
use crate::config::{HeaderNames, KafkaSettings, TaskFormat};
use crate::correlate::CorrelationId;
use crate::error::StartError;

pub use reply::{Body, Decoded, Keep, Reply};
pub use task::{Key, ReplyRecord, TaskRecord};

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
    /// `TaskFormat::Json` only: the id cannot be added to it. The client's mistake, a 400.
    #[error("the body is not a JSON object")]
    NotAnObject,
}

/// An outcome and whose it is: what a shard's mailbox carries.
#[derive(Debug)]
pub struct Completion {
    /// The request.
    pub id: CorrelationId,
    /// How it ended.
    pub outcome: Outcome,
}

/// The body is not one JSON object, so nothing can be added to it (`TaskFormat::Json`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a JSON object")]
pub struct NotAnObject;

/// Header names and format, ready for librdkafka. Made once per client.
#[derive(Debug, Clone)]
pub struct Layout {
    format: TaskFormat,
    reply_topic_value: Vec<u8>,
    correlation: CString,
    reply_topic: CString,
    reply_partition: CString,
    deadline: CString,
    status: CString,
    error: CString,
}

impl From<NotAnObject> for Undelivered {
    fn from(_: NotAnObject) -> Self {
        Self::NotAnObject
    }
}

/// The member that the envelope adds: `"correlation_id":"` id `"}`.
const ENVELOPE_KEY: &[u8] = b"\"correlation_id\":\"";
const ENVELOPE_END: &[u8] = b"\"}";

impl Layout {
    /// Reads the names from the settings. A name with a NUL in it cannot be a header.
    pub fn new(settings: &KafkaSettings) -> Result<Self, StartError> {
        let HeaderNames { correlation, reply_topic, reply_partition, deadline, status, error } = &settings.headers;
        let name = |text: &String| {
            CString::new(text.as_str()).map_err(|_| StartError::Kafka(format!("the header name {text:?} has a NUL")))
        };
        Ok(Self {
            format: settings.format,
            reply_topic_value: settings.results_topic.clone().into_bytes(),
            correlation: name(correlation)?,
            reply_topic: name(reply_topic)?,
            reply_partition: name(reply_partition)?,
            deadline: name(deadline)?,
            status: name(status)?,
            error: name(error)?,
        })
    }

    /// The task as `send` gets it, value and headers, all borrowed: from the task, the layout and the stack.
    pub fn with_task<R>(
        &self,
        task: &Task<'_>,
        reply_partition: i32,
        send: impl FnOnce(&[u8], &[(&CStr, &[u8])]) -> R,
    ) -> Result<R, NotAnObject> {
        match self.format {
            TaskFormat::Headers => Ok(self.with_headers(task, reply_partition, send)),
            TaskFormat::Json => {
                let mut value = Vec::with_capacity(task.body.len() + ENVELOPE_KEY.len() + 40);
                envelope(task.body, task.id, &mut value)?;
                Ok(send(&value, &[]))
            }
        }
    }

    fn with_headers<R>(
        &self,
        task: &Task<'_>,
        reply_partition: i32,
        send: impl FnOnce(&[u8], &[(&CStr, &[u8])]) -> R,
    ) -> R {
        let id = task.id.encode();
        let partition = reply_partition.to_be_bytes();
        let mut digits = itoa::Buffer::new();
        let deadline = digits.format(task.deadline_unix_ms).as_bytes();
        let mut list: [(&CStr, &[u8]); HEADERS_MAX] = [(c"", b""); HEADERS_MAX];
        list[0] = (&self.correlation, &id);
        list[1] = (&self.reply_topic, &self.reply_topic_value);
        list[2] = (&self.reply_partition, &partition);
        list[3] = (&self.deadline, deadline);
        let mut len = 4;
        let given = [
            (c"content-type", task.content_type),
            (c"traceparent", task.traceparent),
            (c"tracestate", task.tracestate),
            (c"x-request-id", task.client_request_id.map(str::as_bytes)),
        ];
        for (name, value) in given {
            if let Some(value) = value {
                list[len] = (name, value);
                len += 1;
            }
        }
        send(task.body, &list[..len])
    }

    /// Whose task this is: what a failed delivery is told by.
    pub fn task_id<'a>(
        &self,
        mut headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        value: &[u8],
    ) -> Option<CorrelationId> {
        match self.format {
            TaskFormat::Headers => {
                let (_, id) = headers.find(|(name, _)| *name == self.correlation.to_bytes())?;
                CorrelationId::parse(id).ok()
            }
            TaskFormat::Json => {
                let value = value.strip_suffix(ENVELOPE_END)?;
                CorrelationId::parse(value.last_chunk::<{ CorrelationId::TEXT_LEN }>()?).ok()
            }
        }
    }
}

/// Appends `body`, a valid JSON object, to `out` with `correlation_id` as its last member. When the client sent a
/// member of that name, ours is the later one, which Python's and nearly every other parser takes; whoever takes the
/// first answers to an id that nobody waits under, and the request ends with 504.
pub fn envelope(body: &[u8], id: CorrelationId, out: &mut Vec<u8>) -> Result<(), NotAnObject> {
    let body = body.trim_ascii();
    let members = body.strip_prefix(b"{").and_then(|rest| rest.strip_suffix(b"}")).ok_or(NotAnObject)?;
    out.extend_from_slice(&body[..body.len() - 1]);
    if !members.trim_ascii().is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(ENVELOPE_KEY);
    out.extend_from_slice(&id.encode());
    out.extend_from_slice(ENVELOPE_END);
    Ok(())
}
