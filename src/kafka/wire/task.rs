//! The worker's side of the record layout: reading tasks, writing replies.

use std::ffi::CStr;

use super::{ENVELOPE_END, ENVELOPE_KEY, Layout};
use crate::correlate::CorrelationId;

/// Longest id that is echoed; a UUID has 36.
const ID_BYTES_MAX: usize = 64;

/// A task as a worker reads it. Everything in it was written by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskRecord<'a> {
    /// Where the id was.
    pub key: Key<'a>,
    /// Where to reply; `None`: the results topic.
    pub reply_topic: Option<&'a [u8]>,
    /// On which partition; `None`: any.
    pub reply_partition: Option<i32>,
    /// When nobody waits any more, in ms since the Unix epoch.
    pub deadline_unix_ms: Option<u64>,
    /// The body's type; `None`: JSON.
    pub content_type: Option<&'a [u8]>,
}

/// The id as it came, to be sent back the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key<'a> {
    /// In the correlation header.
    Header(&'a [u8]),
    /// In the template's envelope.
    Envelope(&'a str),
}

/// A reply on its way to the results topic.
#[derive(Debug)]
pub struct ReplyRecord<'a> {
    /// The task's.
    pub key: Key<'a>,
    /// The value; inside an envelope it must be JSON.
    pub body: &'a [u8],
    /// 200 is not sent, it is the default.
    pub status: u16,
    /// `None`: JSON.
    pub content_type: Option<&'a [u8]>,
    /// The failure's code; then the rest does not matter.
    pub error: Option<&'a str>,
}

impl Layout {
    /// Reads a task; `None` when it has no usable id, so that nobody could be answered.
    pub fn read_task<'a>(
        &self,
        headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
        value: &'a [u8],
    ) -> Option<TaskRecord<'a>> {
        let (mut id, mut topic, mut partition, mut deadline, mut content_type) = (None, None, None, None, None);
        for (name, value) in headers {
            if name == self.correlation.to_bytes() {
                id = Some(value);
            } else if name == self.reply_topic.to_bytes() {
                topic = Some(value);
            } else if name == self.reply_partition.to_bytes() {
                partition = value.try_into().ok().map(i32::from_be_bytes).filter(|number| *number >= 0);
            } else if name == self.deadline.to_bytes() {
                deadline = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            } else if name == b"content-type" {
                content_type = Some(value);
            }
        }
        let key = match id {
            Some(id) => Key::Header(Some(id).filter(|id| is_id(id))?),
            None => Key::Envelope(envelope_id(value)?),
        };
        Some(TaskRecord {
            key,
            reply_topic: topic,
            reply_partition: partition,
            deadline_unix_ms: deadline,
            content_type,
        })
    }

    /// The reply as `send` gets it, value and headers. `scratch` is reused for envelopes.
    pub fn with_reply<R>(
        &self,
        reply: &ReplyRecord<'_>,
        scratch: &mut Vec<u8>,
        send: impl FnOnce(&[u8], &[(&CStr, &[u8])]) -> R,
    ) -> R {
        let id = match reply.key {
            Key::Header(id) => id,
            Key::Envelope(id) if reply.error.is_some() => id.as_bytes(),
            Key::Envelope(id) => {
                scratch.clear();
                for part in [b"{", ENVELOPE_KEY, id.as_bytes(), b"\",\"result\":", reply.body, b"}"] {
                    scratch.extend_from_slice(part);
                }
                return send(scratch, &[]);
            }
        };
        let mut digits = itoa::Buffer::new();
        let status = digits.format(reply.status).as_bytes();
        let mut list: [(&CStr, &[u8]); 3] = [(&self.correlation, id), (c"", b""), (c"", b"")];
        let mut len = 1;
        let others: [(&CStr, Option<&[u8]>); 3] = [
            (&self.error, reply.error.map(str::as_bytes)),
            (&self.status, Some(status).filter(|_| reply.error.is_none() && reply.status != 200)),
            (c"content-type", reply.content_type.filter(|_| reply.error.is_none())),
        ];
        for (name, value) in others {
            if let Some(value) = value {
                list[len] = (name, value);
                len += 1;
            }
        }
        send(if reply.error.is_some() { b"" } else { reply.body }, &list[..len])
    }
}

impl Key<'_> {
    /// Appends the id as text.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match self {
            Self::Envelope(id) => out.extend_from_slice(id.as_bytes()),
            Self::Header(id) if is_text(id) => out.extend_from_slice(id),
            Self::Header(id) => {
                if let Ok(id) = CorrelationId::parse(id) {
                    out.extend_from_slice(&id.encode());
                }
            }
        }
    }
}

/// Text that is safe inside JSON and headers, or the 16 bytes of one of our ids.
fn is_id(id: &[u8]) -> bool {
    is_text(id) || CorrelationId::parse(id).is_ok()
}

fn is_text(id: &[u8]) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// The id that the server's envelope has as its last member. Read from the end: no parse, and a member of the same
/// name that the client sent is out of reach.
fn envelope_id(value: &[u8]) -> Option<&str> {
    let value = value.strip_suffix(ENVELOPE_END)?;
    let (rest, id) = value.split_at_checked(value.len().checked_sub(CorrelationId::TEXT_LEN)?)?;
    (rest.ends_with(ENVELOPE_KEY) && is_text(id)).then(|| std::str::from_utf8(id).ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kafka::client::tests::settings;
    use crate::kafka::wire::{Decoded, Reply};

    const ID: &str = "01234567-89ab-8def-8123-456789abcdef";

    fn layout() -> Layout {
        Layout::new(&settings()).unwrap()
    }

    #[test]
    fn what_a_worker_replies_is_what_the_server_reads() {
        let layout = layout();
        let enveloped = format!(r#"{{"correlation_id":"theirs","correlation_id":"{ID}"}}"#);
        let by_header = [(&b"kafka_correlationId"[..], ID.as_bytes())];
        for (headers, value) in [(&by_header[..], "{}"), (&[], enveloped.as_str())] {
            let task = layout.read_task(headers.iter().copied(), value.as_bytes()).unwrap();
            for (error, status) in [(None, 200), (None, 422), (Some("out_of_stock"), 200)] {
                let reply = ReplyRecord { key: task.key, body: b"\"x\"", status, content_type: None, error };
                layout.with_reply(&reply, &mut Vec::new(), |value, headers| {
                    let headers = headers.iter().map(|(name, value)| (name.to_bytes(), *value));
                    let Decoded::Reply(id, reply) = layout.decode(headers, value) else { panic!("unreadable") };
                    assert_eq!(id.to_string(), ID);
                    assert_eq!(matches!(reply, Reply::WorkerError(_)), error.is_some());
                });
            }
        }
    }

    proptest! {
        #[test]
        fn no_task_makes_it_panic(
            names in prop::collection::vec(prop::sample::select(vec![
                "kafka_correlationId", "kafka_replyTopic", "kafka_replyPartition", "x-deadline-ms", "content-type"
            ]), 0..6),
            header in prop::collection::vec(any::<u8>(), 0..20),
            value in prop::collection::vec(any::<u8>(), 0..80),
            text in r#"("correlation_id":")?[0-9a-f-]{0,40}"\}"#,
        ) {
            let headers: Vec<_> = names.iter().map(|name| (name.as_bytes(), &header[..])).collect();
            for value in [&value[..], text.as_bytes()] {
                if let Some(task) = layout().read_task(headers.iter().copied(), value) {
                    let mut id = Vec::new();
                    task.key.write_text(&mut id);
                    prop_assert!(is_text(&id));
                }
            }
        }
    }
}
