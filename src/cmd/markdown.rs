//! The table of statuses and codes for the README.

use std::collections::BTreeMap;

use crate::error::{Connection, Reject};

/// One row per code, by status: `| status | code | when | Retry-After | connection |`.
#[must_use]
pub fn codes() -> String {
    let mut rows: BTreeMap<(u16, &str), Vec<Reject>> = BTreeMap::new();
    for reject in Reject::every() {
        let fate = reject.fate();
        rows.entry((fate.status, fate.code)).or_default().push(reject);
    }
    let mut lines =
        vec!["| status | code | when | `Retry-After` | connection |".to_owned(), "|---|---|---|---|---|".to_owned()];
    for ((status, code), causes) in rows {
        let when: Vec<&str> = causes.iter().map(when).collect();
        let fate = causes[0].fate();
        let retry = fate.retry_after_s.map(|seconds| format!("{seconds} s")).unwrap_or_default();
        // Nobody reads a body that was sent to nowhere.
        let unread = matches!(causes[0], Reject::NotFound | Reject::MethodNotAllowed(_));
        let connection = match fate.connection {
            Connection::Close => "closed",
            Connection::Keep if unread => "kept; closed if there was a body",
            Connection::Keep => "kept",
        };
        lines.push(format!("| {status} | `{code}` | {} | {retry} | {connection} |", when.join("; ")));
    }
    lines.join("\n") + "\n"
}

/// The cause in the words of the documents; exhaustive, so that a new cause has to be described.
const fn when(reject: &Reject) -> &'static str {
    match reject {
        Reject::MalformedJson(_) => "the body is not one JSON value, or nests deeper than `MAX_JSON_DEPTH`",
        Reject::BadRequest(_) => {
            "framing or header rules are broken: Host missing, doubled or malformed, Content-Length with \
             Transfer-Encoding, an unknown transfer coding"
        }
        Reject::BrokenBody => "the body ends early or its chunks are broken",
        Reject::NotAnObject => "`TASK_FORMAT=json` and the body is not a JSON object (the connection is kept)",
        Reject::NotFound => "there is nothing at this path",
        Reject::MethodNotAllowed(_) => "the path exists, the method does not; `Allow` says which do",
        Reject::BodyTimeout => "the body is not complete within `BODY_TIMEOUT_MS`",
        Reject::BodyTooLarge(_) => "the body is larger than `MAX_BODY_BYTES`",
        Reject::TaskTooLarge => "the task is larger than the broker's `message.max.bytes`",
        Reject::UriTooLong => "the request target is longer than `MAX_URI_BYTES`",
        Reject::UnsupportedMediaType => {
            "the content type is XML, HTML, PDF, an archive, protobuf, CBOR, MessagePack, multipart, an image, audio, video, font or \
             model, and not listed in `TASK_CONTENT_TYPES`; anything else is taken for JSON"
        }
        Reject::HeadersTooLarge => "more header fields than `MAX_HEADERS`, or more bytes than `MAX_HEADER_BYTES`",
        Reject::CapacityReached => "all `RATE_LIMIT_CAPACITY` permits are in use, cluster-wide",
        Reject::RateExceeded => {
            "above `RATE_LIMIT_RPS`, cluster-wide; after a pause one second's worth is taken at once"
        }
        Reject::Internal => "a bug of the server; the panic stays in that request",
        Reject::WorkerError(_) => "the worker says that it failed, with its code in `detail`",
        Reject::MalformedReply => "the worker's reply has the request's id and cannot be read",
        Reject::LimiterUnavailable => "Redis does not answer within `REDIS_TIMEOUT_MS`, or refuses",
        Reject::BrokerUnavailable => {
            "Kafka cannot be reached, replies cannot be read, or the task was not taken within `KAFKA_DELIVERY_TIMEOUT_MS` (noticed up to 2 s later)"
        }
        Reject::BrokerQueueFull => "`MAX_QUEUE_SIZE` requests wait already",
        Reject::TopicMissing => "the tasks or the results topic does not exist; `thousandx topics` creates it",
        Reject::Overloaded => {
            "`MAX_CONNECTIONS` are open in this process, or `MAX_BUFFERED_BYTES` of bodies are arriving"
        }
        Reject::Draining => "the server is shutting down",
        Reject::ReplyTimeout => "no reply within `KAFKA_GIFT_CODE_TIMEOUT`; the task may still be done",
    }
}
