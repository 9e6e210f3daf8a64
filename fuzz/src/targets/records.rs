//! Records of both topics: whoever can write to them is not trusted.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use http::HeaderValue;
use thousandx::config::{self, Command, DotEnv, Layers};
use thousandx::kafka::wire::{Decoded, Key, Layout, Outcome, ReplyRecord};

use super::{Copied, fields_and_payload};

/// Headers that mean something on the results topic, and pieces of values.
pub(super) const REPLY_WORDS: [&str; 16] = [
    "kafka_correlationId: ",
    "x-status: ",
    "x-error: ",
    "content-type: ",
    "application/json",
    "text/plain; a=b",
    super::ID,
    "{\"correlation_id\":\"",
    "\",\"result\":",
    "\",\"error\":",
    "\n",
    "\n\n",
    "204",
    "599",
    "\u{7f}",
    "\\u002d",
];
/// The same of the tasks topic.
pub(super) const TASK_WORDS: [&str; 10] = [
    "kafka_correlationId: ",
    "kafka_replyTopic: ",
    "kafka_replyPartition: ",
    "x-deadline-ms: ",
    "content-type: ",
    super::ID,
    "\"correlation_id\":\"",
    "\"}",
    "\n\n",
    "18446744073709551615",
];
/// Longest error code that may come out.
const CODE_BYTES_MAX: usize = 64;

/// One layout per task format.
static LAYOUTS: LazyLock<[Layout; 2]> = LazyLock::new(|| {
    ["headers", "json"].map(|format| {
        let flags = BTreeMap::from([("TASK_FORMAT".to_owned(), format.to_owned())]);
        let layers = Layers { flags, environment: &BTreeMap::new(), dotenv: DotEnv::default() };
        let config = config::load(Command::Dev, &layers).into_config().expect("the defaults are sound");
        Layout::new(&config.kafka).expect("the default names are sound")
    })
});

/// A record of the results topic: what becomes an answer can be sent as one.
pub fn reply(bytes: &[u8]) {
    let (fields, payload) = fields_and_payload(bytes);
    for layout in LAYOUTS.iter() {
        let Decoded::Reply(_, reply) = layout.decode(fields.iter().copied(), payload) else { continue };
        match reply.into_outcome(&mut Copied) {
            Outcome::Answer(answer) => {
                assert!((200..=599).contains(&answer.status));
                let kind = answer.content_type.as_ref();
                assert!(kind.is_none_or(|kind| HeaderValue::from_bytes(kind).is_ok()), "{kind:?}");
                // Whoever is told that it is JSON can read it; these three are sent without a body (RFC 9110, 15.3.6).
                if kind.is_none() && !matches!(answer.status, 204 | 205 | 304) {
                    assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&answer.body).is_ok());
                }
            }
            Outcome::WorkerError(code) => assert!(is_code(&code), "{code:?}"),
            Outcome::Malformed => {}
            other => unreachable!("no reply is {other:?}"),
        }
    }
}

/// A record of the tasks topic, as the sample worker reads it: what is replied to it has an id and can be read.
pub fn task(bytes: &[u8]) {
    let (fields, payload) = fields_and_payload(bytes);
    for layout in LAYOUTS.iter() {
        // What a failed delivery is told by.
        let _ = layout.task_id(fields.iter().copied(), payload);
        let Some(task) = layout.read_task(fields.iter().copied(), payload) else { continue };
        assert!(task.reply_partition.is_none_or(|partition| partition >= 0));
        let mut id = Vec::new();
        task.key.write_text(&mut id);
        assert!(!id.is_empty() && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte)));
        let enveloped = matches!(task.key, Key::Envelope(_));
        let reply = ReplyRecord { key: task.key, body: b"{}", status: 201, content_type: None, error: None };
        layout.with_reply(&reply, &mut Vec::new(), |value, headers| {
            let is_json = serde_json::from_slice::<serde_json::Value>(value).is_ok();
            assert!(is_json && headers.is_empty() == enveloped);
        });
    }
}

fn is_code(code: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=CODE_BYTES_MAX).contains(&code.len()) && code.bytes().all(allowed)
}
