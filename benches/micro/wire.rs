//! Records: a task written, a reply read, and the worker's side of both. The comparisons use rdkafka's own headers,
//! and the tree of `serde_json` where the format is JSON.

use std::hint::black_box;

use bytes::Bytes;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use serde_json::Value;
use thousandx::correlate::CorrelationId;
use thousandx::kafka::replies::Chunk;
use thousandx::kafka::wire::{Decoded, Key, Layout, Outcome, ReplyRecord, Task};
use uuid::Uuid;

use super::correlate::sample_id;
use super::{Meter, OWN, settings};

const BODY: &[u8] = br#"{"action":"get_gift_code","nonce":"00000000deadbeef"}"#;
const ANSWER: &[u8] = br#"{"gift_code":"GIFT-00000000deadbeef","nonce":"00000000deadbeef"}"#;
const JSON: &[u8] = b"application/json";
const DEADLINE_UNIX_MS: u64 = 1_790_000_000_000;

pub fn all(meter: &mut impl Meter) {
    tasks(meter);
    replies(meter);
    worker(meter);
}

fn layout(format: &str) -> Layout {
    Layout::new(&settings(&[("TASK_FORMAT", format)]).kafka).expect("the default names are sound")
}

fn task(id: CorrelationId) -> Task<'static> {
    Task {
        id,
        body: BODY,
        content_type: Some(JSON),
        traceparent: None,
        tracestate: None,
        client_request_id: None,
        deadline_unix_ms: DEADLINE_UNIX_MS,
    }
}

fn tasks(meter: &mut impl Meter) {
    let id = sample_id();
    let uuid = Uuid::from_bytes(id.to_bytes());

    let headers = layout("headers");
    meter.measure("task: write, headers", OWN, || {
        headers.with_task(&task(black_box(id)), black_box(3), |value, headers| {
            black_box((value, headers));
        })
    });
    meter.measure("task: write, headers", "rdkafka's headers", || {
        let header = |key, value| Header { key, value: Some(value) };
        OwnedHeaders::new()
            .insert(header("kafka_correlationId", black_box(uuid).to_string().as_bytes()))
            .insert(header("kafka_replyTopic", b"results"))
            .insert(header("kafka_replyPartition", &black_box(3_i32).to_be_bytes()))
            .insert(header("x-deadline-ms", DEADLINE_UNIX_MS.to_string().as_bytes()))
            .insert(header("content-type", JSON))
    });

    let json = layout("json");
    meter.measure("task: write, JSON", OWN, || {
        json.with_task(&task(black_box(id)), black_box(3), |value, headers| {
            black_box((value, headers));
        })
    });
    meter.measure("task: write, JSON", "serde_json tree", || {
        let mut value: Value = serde_json::from_slice(black_box(BODY)).ok()?;
        value.as_object_mut()?.insert("correlation_id".to_owned(), Value::String(black_box(uuid).to_string()));
        serde_json::to_vec(&value).ok()
    });
}

fn replies(meter: &mut impl Meter) {
    let id = sample_id().encode();
    // On the heap: where the linker puts a constant decides how fast it is checked for UTF-8.
    let reply = ANSWER.to_vec();
    let mut chunk = Chunk::default();

    let layout = layout("headers");
    let fields = [(&b"kafka_correlationId"[..], &id[..])];
    meter.measure("reply: read, headers", OWN, || {
        outcome(layout.decode(black_box(&fields).iter().copied(), black_box(&reply)), &mut chunk)
    });
    let theirs = OwnedHeaders::new().insert(Header { key: "kafka_correlationId", value: Some(&id) });
    meter.measure("reply: read, headers", "rdkafka's headers, serde_json tree", || {
        let header = black_box(&theirs).iter().find(|header| header.key == "kafka_correlationId")?;
        let id = Uuid::try_parse_ascii(header.value?).ok()?;
        serde_json::from_slice::<Value>(black_box(&reply)).ok()?;
        Some((id, Bytes::copy_from_slice(&reply)))
    });

    let layout = self::layout("json");
    let id = String::from_utf8_lossy(&id);
    let envelope = format!(r#"{{"correlation_id":"{id}","result":"GIFT-00000000deadbeef"}}"#);
    let none: [(&[u8], &[u8]); 0] = [];
    meter.measure("reply: read, JSON", OWN, || {
        outcome(layout.decode(none.iter().copied(), black_box(envelope.as_bytes())), &mut chunk)
    });
    meter.measure("reply: read, JSON", "serde_json tree", || {
        let mut value: Value = serde_json::from_slice(black_box(envelope.as_bytes())).ok()?;
        let id = Uuid::try_parse(value.get("correlation_id")?.as_str()?).ok()?;
        let answer = serde_json::json!({"gift_code": value.get_mut("result")?.take(), "request_id": id.to_string()});
        Some((id, Bytes::from(serde_json::to_vec(&answer).ok()?)))
    });
}

fn outcome(decoded: Decoded<'_>, chunk: &mut Chunk) -> Option<(CorrelationId, Outcome)> {
    match decoded {
        Decoded::Reply(id, reply) => Some((id, reply.into_outcome(chunk))),
        Decoded::Unreadable => None,
    }
}

/// The sample worker's part.
fn worker(meter: &mut impl Meter) {
    let layout = layout("headers");
    let id = sample_id().encode();
    let partition = 3_i32.to_be_bytes();
    let deadline = DEADLINE_UNIX_MS.to_string();
    let fields: [(&[u8], &[u8]); 5] = [
        (b"kafka_correlationId", &id),
        (b"kafka_replyTopic", b"results"),
        (b"kafka_replyPartition", &partition),
        (b"x-deadline-ms", deadline.as_bytes()),
        (b"content-type", JSON),
    ];
    meter.measure("worker: read a task", OWN, || layout.read_task(black_box(&fields).iter().copied(), BODY).is_some());
    let reply = ReplyRecord { key: Key::Header(&id), body: ANSWER, status: 200, content_type: Some(JSON), error: None };
    let mut scratch = Vec::new();
    meter.measure("worker: write a reply", OWN, || {
        layout.with_reply(black_box(&reply), &mut scratch, |value, headers| {
            black_box((value, headers));
        });
    });
}
