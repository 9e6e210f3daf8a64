//! Reading replies: from any bytes to an outcome, without a copy and without a panic.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Answer, Layout, Outcome};
use crate::config::TaskFormat;
use crate::correlate::CorrelationId;

/// Longest content type that is passed on.
const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Longest error code that is passed on.
const ERROR_CODE_BYTES_MAX: usize = 64;
/// The code of a worker that gives none that can be shown.
const ERROR_CODE_DEFAULT: &str = "unspecified";

/// Where the bytes of an answer are kept once their record is gone.
pub trait Keep {
    /// The parts, one after the other.
    fn keep(&mut self, parts: &[&[u8]]) -> Bytes;
}

/// What a record of the results topic is.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// A reply to somebody.
    Reply(CorrelationId, Reply<'a>),
    /// No id can be read: nobody can be told.
    Unreadable,
}

/// A reply, borrowed from its record.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The worker answered.
    Answer {
        /// 200 to 599.
        status: u16,
        /// `None`: `application/json`.
        content_type: Option<&'a [u8]>,
        /// What the client gets.
        body: Body<'a>,
    },
    /// The worker failed; the code is filtered.
    WorkerError(String),
    /// Nonsense with a readable id, and what is wrong with it.
    Malformed(&'static str),
}

/// The answer's bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// As they are.
    Raw(&'a [u8]),
    /// The template's answer, `{"gift_code":<result>,"request_id":"<id>"}`.
    GiftCode(&'a [u8], CorrelationId),
}

/// The template's reply.
#[derive(serde::Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    correlation_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    /// In place of a result: the worker failed.
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The headers that mean something here; of a repeated one the last counts, as Spring reads them.
#[derive(Default)]
struct Found<'a> {
    id: Option<&'a [u8]>,
    status: Option<&'a [u8]>,
    error: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
}

impl Layout {
    /// Reads a reply. Without the correlation header it is taken as the template's
    /// `{"correlation_id":…,"result":…}`, whatever the task format.
    #[must_use]
    pub fn decode<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>, payload: &'a [u8]) -> Decoded<'a> {
        let found = self.find(headers);
        let Some(id) = found.id else { return self.decode_envelope(payload) };
        match CorrelationId::parse(id) {
            Ok(id) => Decoded::Reply(id, reply(&found, payload)),
            Err(_) => Decoded::Unreadable,
        }
    }

    fn find<'a>(&self, headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Found<'a> {
        let mut found = Found::default();
        for (name, value) in headers {
            if name == self.correlation.to_bytes() {
                found.id = Some(value);
            } else if name == self.status.to_bytes() {
                found.status = Some(value);
            } else if name == self.error.to_bytes() {
                found.error = Some(value);
            } else if name == b"content-type" {
                found.content_type = Some(value);
            }
        }
        found
    }

    fn decode_envelope<'a>(&self, payload: &'a [u8]) -> Decoded<'a> {
        let Ok(envelope) = serde_json::from_slice::<Envelope>(payload) else { return Decoded::Unreadable };
        let Ok(id) = CorrelationId::parse(envelope.correlation_id.as_bytes()) else { return Decoded::Unreadable };
        let Some(result) = envelope.result else {
            let error = envelope.error.map(|error| Reply::WorkerError(error_code(error.get().as_bytes())));
            return Decoded::Reply(id, error.unwrap_or(Reply::Malformed("neither result nor error")));
        };
        let result = result.get().as_bytes();
        let body = match self.format {
            TaskFormat::Headers => Body::Raw(result),
            TaskFormat::Json => Body::GiftCode(result, id),
        };
        Decoded::Reply(id, Reply::Answer { status: 200, content_type: None, body })
    }
}

impl Reply<'_> {
    /// The outcome with its bytes kept by `keep`.
    pub fn into_outcome(self, keep: &mut impl Keep) -> Outcome {
        match self {
            Self::Malformed(_) => Outcome::Malformed,
            Self::WorkerError(code) => Outcome::WorkerError(code),
            Self::Answer { status, content_type, body } => Outcome::Answer(Answer {
                status,
                content_type: content_type.map(|value| keep.keep(&[value])),
                body: match body {
                    Body::Raw(bytes) => keep.keep(&[bytes]),
                    Body::GiftCode(result, id) => {
                        keep.keep(&[b"{\"gift_code\":", result, b",\"request_id\":\"", &id.encode(), b"\"}"])
                    }
                },
            }),
        }
    }
}

fn reply<'a>(found: &Found<'a>, payload: &'a [u8]) -> Reply<'a> {
    if let Some(code) = found.error {
        return Reply::WorkerError(error_code(code));
    }
    let Some(status) = found.status.map_or(Some(200), parse_status) else {
        return Reply::Malformed("the status is not a number from 200 to 599");
    };
    let content_type = match found.content_type {
        // The usual type is the default: one header value less to keep.
        None | Some(b"application/json") => None,
        Some(value) if is_header_value(value) => Some(value),
        Some(_) => return Reply::Malformed("the content type cannot be a header"),
    };
    // Whoever is told that it is JSON shall be able to read it.
    if content_type.is_none() && !is_json(payload) && !has_no_content(status) {
        return Reply::Malformed("the value is not one JSON value, and no other content type is named");
    }
    Reply::Answer { status, content_type, body: Body::Raw(payload) }
}

/// Checked without a tree and without recursion. The skipping parser does not look at the bytes of strings.
fn is_json(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok())
}

/// RFC 9110, 15.3.5, 15.3.6 and 15.4.5.
fn has_no_content(status: u16) -> bool {
    matches!(status, 204 | 205 | 304)
}

/// Three digits, a final status: 1xx is not an answer (RFC 9110, 15.2).
fn parse_status(text: &[u8]) -> Option<u16> {
    let &[a, b, c] = text else { return None };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let status = digit(a)? * 100 + digit(b)? * 10 + digit(c)?;
    (200..=599).contains(&status).then_some(status)
}

/// Visible ASCII, with spaces inside (RFC 9110, 5.5, without the obsolete bytes).
fn is_header_value(value: &[u8]) -> bool {
    !value.is_empty()
        && value.len() <= CONTENT_TYPE_BYTES_MAX
        && value.iter().all(|byte| matches!(byte, b' '..=b'~'))
        && value.trim_ascii().len() == value.len()
}

/// Letters, digits, `.`, `_` and `-`, at most [`ERROR_CODE_BYTES_MAX`]. What else there is between them becomes one `_`, so
/// that a worker's sentence stays readable and nothing of it can be more than a word in a document or a log.
fn error_code(raw: &[u8]) -> String {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let words = raw.split(|byte| !is_allowed(byte)).filter(|word| !word.is_empty());
    let mut code = String::new();
    for word in words {
        if code.len() >= ERROR_CODE_BYTES_MAX {
            break;
        }
        if !code.is_empty() {
            code.push('_');
        }
        code.extend(word.iter().map(|byte| char::from(*byte)).take(ERROR_CODE_BYTES_MAX - code.len()));
    }
    if code.is_empty() { ERROR_CODE_DEFAULT.to_owned() } else { code }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::kafka::client::tests::settings;
    use crate::kafka::wire::{Task, envelope};

    struct Copied;

    impl Keep for Copied {
        fn keep(&mut self, parts: &[&[u8]]) -> Bytes {
            parts.concat().into()
        }
    }

    const ID: &str = "01234567-89ab-8def-8123-456789abcdef";

    fn id() -> CorrelationId {
        CorrelationId::parse(ID.as_bytes()).unwrap()
    }

    fn layout(format: TaskFormat) -> Layout {
        Layout::new(&crate::config::KafkaSettings { format, ..settings() }).unwrap()
    }

    fn decode<'a>(headers: &[(&'a str, &'a [u8])], payload: &'a [u8]) -> Decoded<'a> {
        layout(TaskFormat::Headers).decode(headers.iter().map(|(name, value)| (name.as_bytes(), *value)), payload)
    }

    fn answer(status: u16, content_type: Option<&'static [u8]>, body: &'static [u8]) -> Decoded<'static> {
        Decoded::Reply(id(), Reply::Answer { status, content_type, body: Body::Raw(body) })
    }

    #[test]
    fn a_reply_with_the_header_is_passed_as_it_is() {
        let key = ("kafka_correlationId", ID.as_bytes());
        assert_eq!(decode(&[key], b" [1e400] "), answer(200, None, b" [1e400] "));
        let opaque = ("content-type", &b"application/octet-stream"[..]);
        assert_eq!(decode(&[key, opaque], b"\xff\x00"), answer(200, Some(opaque.1), b"\xff\x00"));
        for (text, status) in [(&b"204"[..], 204), (b"205", 205), (b"304", 304)] {
            assert_eq!(decode(&[key, ("x-status", text)], b""), answer(status, None, b""));
        }
        assert_eq!(decode(&[("kafka_correlationId", &id().to_bytes())], b"1"), answer(200, None, b"1"));
        assert_eq!(decode(&[key, ("x-status", b"422")], b"{}"), answer(422, None, b"{}"));
        assert_eq!(
            decode(&[key, ("content-type", b"text/plain; a=b")], b""),
            answer(200, Some(b"text/plain; a=b"), b"")
        );
        for not_json in [&b"\xff\x00"[..], b"", b"{", b"{}{}", b"\"\xff\"", b"plain text"] {
            assert_malformed(&decode(&[key], not_json));
            let named = ("content-type", &b"application/json"[..]);
            assert_malformed(&decode(&[key, named], not_json));
        }
        for status in [&b"199"[..], b"600", b"20", b"2000", b"2 0", b"", b"\xff\xff\xff"] {
            assert_malformed(&decode(&[key, ("x-status", status)], b""));
        }
        for kind in [&b"a\r\nb"[..], b"", b" a", b"a\x7f", b"\xc3\xa9"] {
            assert_malformed(&decode(&[key, ("content-type", kind)], b""));
        }
        assert_eq!(decode(&[("kafka_correlationId", b"no id")], b"{}"), Decoded::Unreadable);
    }

    fn assert_malformed(decoded: &Decoded<'_>) {
        assert!(matches!(decoded, Decoded::Reply(of, Reply::Malformed(_)) if *of == id()), "{decoded:?}");
    }

    #[test]
    fn a_worker_error_is_filtered() {
        let error = |code: &'static [u8]| {
            let headers = [("kafka_correlationId", ID.as_bytes()), ("x-error", code), ("x-status", b"bad")];
            decode(&headers, b"")
        };
        let worker_error = |code: &str| Decoded::Reply(id(), Reply::WorkerError(code.into()));
        assert_eq!(error(b"out_of_stock"), worker_error("out_of_stock"));
        assert_eq!(error(b"a b\r\n<c>\xff"), worker_error("a_b_c"));
        assert_eq!(error(b" no codes left. "), worker_error("no_codes_left."));
        assert_eq!(error(b"\r\n"), worker_error("unspecified"));
        assert_eq!(error(&[b'x'; 100]), worker_error(&"x".repeat(64)));
    }

    #[test]
    fn the_template_reply_is_read_without_headers() {
        let text = format!(r#" {{"other":[1],"correlation_id":"{ID}","result":{{"a": 1}} }}"#);
        assert_eq!(
            decode(&[], text.as_bytes()),
            Decoded::Reply(id(), Reply::Answer { status: 200, content_type: None, body: Body::Raw(br#"{"a": 1}"#) })
        );
        let Decoded::Reply(_, reply) = layout(TaskFormat::Json).decode(std::iter::empty(), text.as_bytes()) else {
            panic!("unreadable")
        };
        let Outcome::Answer(answer) = reply.into_outcome(&mut Copied) else { panic!("no answer") };
        assert_eq!(answer.body, format!(r#"{{"gift_code":{{"a": 1}},"request_id":"{ID}"}}"#));
        let failed = format!(r#"{{"correlation_id":"{ID}","error":"sold_out"}}"#);
        assert_eq!(decode(&[], failed.as_bytes()), Decoded::Reply(id(), Reply::WorkerError("sold_out".into())));
        let no_result = format!(r#"{{"correlation_id":"{ID}"}}"#);
        assert_malformed(&decode(&[], no_result.as_bytes()));
        for text in
            ["", "{}", "null", "[1]", r#"{"correlation_id":1,"result":1}"#, r#"{"correlation_id":"x","result":1}"#]
        {
            assert_eq!(decode(&[], text.as_bytes()), Decoded::Unreadable, "{text}");
        }
    }

    #[test]
    fn the_envelope_gets_our_id_as_its_last_member() {
        let made = |body: &str| {
            let mut out = Vec::new();
            envelope(body.as_bytes(), id(), &mut out).map(|()| String::from_utf8(out).unwrap())
        };
        assert_eq!(made(" { } ").unwrap(), format!(r#"{{ "correlation_id":"{ID}"}}"#));
        assert_eq!(made(r#"{"a":1}"#).unwrap(), format!(r#"{{"a":1,"correlation_id":"{ID}"}}"#));
        let doubled = made(r#"{"correlation_id":"theirs"}"#).unwrap();
        let read: serde_json::Value = serde_json::from_str(&doubled).unwrap();
        assert_eq!(read["correlation_id"], ID, "the later member wins");
        for body in ["", "1", "[]", "{", "\"{}\""] {
            assert!(made(body).is_err(), "{body}");
        }
    }

    #[test]
    fn a_failed_task_is_known_by_its_header_or_its_envelope() {
        for format in [TaskFormat::Headers, TaskFormat::Json] {
            let layout = layout(format);
            let task = Task {
                id: id(),
                body: br#"{"action":"get_gift_code"}"#,
                content_type: Some(b"application/json"),
                traceparent: Some(b"00-1-2-01"),
                tracestate: Some(b"a=b"),
                client_request_id: Some("mine"),
                deadline_unix_ms: 1_234,
            };
            let check = |value: &[u8], headers: &[(&std::ffi::CStr, &[u8])]| {
                let bytes = headers.iter().map(|(name, value)| (name.to_bytes(), *value));
                assert_eq!(layout.task_id(bytes, value), Some(id()));
                headers.iter().map(|(name, _)| name.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
            };
            let names = layout.with_task(&task, 3, check).unwrap();
            match format {
                TaskFormat::Json => assert_eq!(names, ""),
                TaskFormat::Headers => assert_eq!(
                    names,
                    "kafka_correlationId kafka_replyTopic kafka_replyPartition x-deadline-ms content-type traceparent \
                     tracestate x-request-id"
                ),
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            names in prop::collection::vec(prop::sample::select(vec![
                "kafka_correlationId", "x-status", "x-error", "content-type", "other"
            ]), 0..6),
            value in prop::collection::vec(any::<u8>(), 0..80),
            status in "[0-9]{0,5}",
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            for value in [&value[..], ID.as_bytes(), status.as_bytes()] {
                let headers: Vec<_> = names.iter().map(|name| (*name, value)).collect();
                if let Decoded::Reply(_, reply) = decode(&headers, &payload)
                    && let Outcome::Answer(answer) = reply.into_outcome(&mut Copied)
                {
                    prop_assert!((200..=599).contains(&answer.status));
                    prop_assert!(answer.content_type.is_none_or(|kind| http::HeaderValue::from_bytes(&kind).is_ok()));
                }
            }
        }

        #[test]
        fn no_text_near_the_template_makes_it_panic(text in r#"\{"correlation_id":("[0-9a-f-]{0,40}"|[0-9]|\[\]),"result":.{0,20}\}?"#) {
            let _ = decode(&[], text.as_bytes());
        }
    }
}
