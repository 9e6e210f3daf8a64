//! Answers. The only place where a response is built: the worker's reply as it is, or a problem document (RFC 9457).

use std::cell::Cell;
use std::io::Write;
use std::time::SystemTime;

use bytes::Bytes;
use http_body_util::Full;
use httpdate::HttpDate;
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};

use crate::correlate::CorrelationId;
use crate::error::{Connection, Reject};
use crate::kafka::wire::Answer;

/// The request id's header, in both directions.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest client request id that is passed on.
const CLIENT_ID_MAX: usize = 64;

/// Most problem documents fit; a larger one costs a reallocation.
const DOCUMENT_BYTES_USUAL: usize = 320;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: &str = "application/problem+json";

/// What a request is called towards its client: the client's own id if it gave a usable one, else its correlation id.
#[derive(Debug)]
pub struct RequestId {
    client: Option<HeaderValue>,
    minted: Cell<Option<CorrelationId>>,
}

impl RequestId {
    /// Takes the client's `X-Request-Id` when there is exactly one and it is `[A-Za-z0-9._-]{1,64}`.
    #[must_use]
    pub fn of<B>(request: &Request<B>) -> Self {
        let mut given = request.headers().get_all(X_REQUEST_ID).iter();
        let client = match (given.next(), given.next()) {
            (Some(id), None) if is_usable(id.as_bytes()) => Some(id.clone()),
            _ => None,
        };
        Self { client, minted: Cell::new(None) }
    }

    /// The request has a correlation id from now on.
    pub fn mint(&self, id: CorrelationId) {
        self.minted.set(Some(id));
    }

    /// The id that the client gave.
    #[must_use]
    pub fn of_client(&self) -> Option<&str> {
        self.client.as_ref().and_then(|id| id.to_str().ok())
    }

    /// The id; of a request that never got one, a random UUID.
    pub fn or_random(&self, mut random: impl FnMut() -> u64) -> HeaderValue {
        self.known().unwrap_or_else(|| text(&random_uuid(&mut random)))
    }

    fn known(&self) -> Option<HeaderValue> {
        self.client.clone().or_else(|| self.minted.get().map(|id| text(&id.encode())))
    }
}

/// The worker's answer, byte for byte.
#[must_use]
pub fn answer(answer: Answer, request_id: &RequestId) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    // RFC 9110, 15.3.5, 15.3.6 and 15.4.5: these have no content.
    let is_empty = matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
    let mut response = Response::new(Full::new(if is_empty { Bytes::new() } else { answer.body }));
    *response.status_mut() = status;
    let content_type = answer.content_type.and_then(|value| HeaderValue::from_maybe_shared(value).ok());
    response.headers_mut().insert(CONTENT_TYPE, content_type.unwrap_or(JSON));
    if let Some(id) = request_id.known() {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

/// The problem document of `reject`.
#[must_use]
pub fn problem(reject: &Reject, request_id: HeaderValue) -> Response<Full<Bytes>> {
    let fate = reject.fate();
    let mut response = Response::new(Full::new(document(reject, request_id.to_str().unwrap_or_default())));
    *response.status_mut() = StatusCode::from_u16(fate.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM));
    headers.insert(X_REQUEST_ID, request_id);
    if let Some(seconds) = fate.retry_after_s {
        headers.insert(RETRY_AFTER, whole_seconds(seconds));
    }
    if let Reject::MethodNotAllowed(methods) = reject {
        headers.insert(ALLOW, HeaderValue::from_static(methods));
    }
    if fate.connection == Connection::Close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The same as bytes on the wire, for requests that never reach the router. The connection closes after it.
#[must_use]
pub fn raw_problem(reject: &Reject) -> Vec<u8> {
    let fate = reject.fate();
    let request_id = text(&random_uuid(&mut rand::random));
    let request_id = request_id.to_str().unwrap_or_default();
    let body = document(reject, request_id);
    let reason = StatusCode::from_u16(fate.status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
    let retry_after = fate.retry_after_s.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    // RFC 9110, 6.6.1: an answer says when it was made; hyper adds it to its own.
    let date = HttpDate::from(SystemTime::now());
    let mut answer = Vec::with_capacity(256 + body.len());
    // Writing to memory cannot fail.
    let _ = write!(
        answer,
        "HTTP/1.1 {} {reason}\r\ncontent-type: {PROBLEM}\r\nx-request-id: {request_id}\r\ndate: {date}\r\n{retry_after}\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        fate.status,
        body.len(),
    );
    answer.extend_from_slice(&body);
    answer
}

/// A small fixed document: greeting, health, metrics.
#[must_use]
pub fn page(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// RFC 9457, 3: `type` is a URN that the README's table explains; `code` and `request_id` are extension members.
/// Put together by hand: codes and ids have nothing to escape, and to look for it was half of what a refusal cost.
fn document(reject: &Reject, request_id: &str) -> Bytes {
    let fate = reject.fate();
    let mut status = itoa::Buffer::new();
    let mut document = Vec::with_capacity(DOCUMENT_BYTES_USUAL);
    put(&mut document, &["{\"type\":\"urn:thousandx:problem:", fate.code, "\",\"title\":\""]);
    put_title(&mut document, fate.code);
    put(&mut document, &["\",\"status\":", status.format(fate.status), ",\"detail\":"]);
    put_text(&mut document, reject);
    put(&mut document, &[",\"code\":\"", fate.code, "\",\"request_id\":\"", request_id, "\"}"]);
    document.into()
}

/// Appends `text` as a JSON string. Nearly all of them have nothing to escape and are not looked at twice.
fn put_text(document: &mut Vec<u8>, text: &impl std::fmt::Display) {
    let start = document.len();
    // Memory takes every byte, and a string always serialises.
    let _ = write!(document, "\"{text}\"");
    let is_special = |byte: &u8| *byte < b' ' || *byte == b'"' || *byte == b'\\';
    // All bytes, without an early end: so many at a time.
    if document[start + 1..document.len() - 1].iter().fold(false, |found, byte| found | is_special(byte)) {
        document.truncate(start);
        let _ = serde_json::to_writer(document, &text.to_string());
    }
}

/// The code as words.
fn put_title(document: &mut Vec<u8>, code: &str) {
    let start = document.len();
    document.extend_from_slice(code.as_bytes());
    for byte in &mut document[start..] {
        *byte = if *byte == b'_' { b' ' } else { *byte };
    }
}

/// The values that refusals have are there already.
fn whole_seconds(seconds: u32) -> HeaderValue {
    match seconds {
        1 => HeaderValue::from_static("1"),
        5 => HeaderValue::from_static("5"),
        other => HeaderValue::from(other),
    }
}

fn put(document: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        document.extend_from_slice(part.as_bytes());
    }
}

fn is_usable(id: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    (1..=CLIENT_ID_MAX).contains(&id.len()) && id.iter().all(allowed)
}

fn random_uuid(random: &mut dyn FnMut() -> u64) -> [u8; CorrelationId::TEXT_LEN] {
    let bits = (u128::from(random()) << 64 | u128::from(random())).to_be_bytes();
    let mut text = [0; CorrelationId::TEXT_LEN];
    uuid::Builder::from_random_bytes(bits).into_uuid().hyphenated().encode_lower(&mut text);
    text
}

fn text(id: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(id).unwrap_or(HeaderValue::from_static("invalid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request_id(ids: &[&str]) -> RequestId {
        let mut request = Request::builder();
        for id in ids {
            request = request.header("X-Request-Id", *id);
        }
        RequestId::of(&request.body(()).unwrap())
    }

    #[test]
    fn a_client_id_is_taken_only_when_it_is_harmless() {
        assert_eq!(request_id(&["a.B_9-"]).of_client(), Some("a.B_9-"));
        for bad in ["", "a b", "a\"b", "ü", &"x".repeat(65)] {
            assert_eq!(request_id(&[bad]).of_client(), None, "{bad}");
        }
        assert_eq!(request_id(&["a", "b"]).of_client(), None);
        assert_eq!(request_id(&[]).or_random(|| 0).to_str().unwrap(), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn an_answer_without_content_has_none_whatever_the_worker_says() {
        for (status, length) in [(200, 2), (204, 0), (205, 0), (206, 2), (304, 0), (404, 2)] {
            let said = Answer { status, content_type: None, body: Bytes::from_static(b"{}") };
            let response = answer(said, &request_id(&[]));
            let exact = hyper::body::Body::size_hint(response.body()).exact();
            assert_eq!((response.status().as_u16(), exact), (status, Some(length)));
        }
    }

    #[test]
    fn every_problem_has_the_members_and_headers_of_its_fate() {
        for reject in Reject::every() {
            let fate = reject.fate();
            let response = problem(&reject, HeaderValue::from_static("abc"));
            assert_eq!(response.status().as_u16(), fate.status);
            assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM);
            assert_eq!(response.headers().contains_key(RETRY_AFTER), fate.retry_after_s.is_some());
            assert_eq!(response.headers().contains_key(CONNECTION), fate.connection == Connection::Close);
            let document: serde_json::Value = serde_json::from_slice(&document(&reject, "abc")).unwrap();
            assert_eq!(document["code"], fate.code);
            assert_eq!(document["status"], fate.status);
            assert_eq!(document["request_id"], "abc");
            assert_eq!(document["detail"], reject.to_string());
            assert!(fate.code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "no escapes are needed");
            assert!(document["type"].is_string() && document["title"].is_string() && document["detail"].is_string());
        }
    }

    #[test]
    fn a_detail_is_escaped() {
        let reject = Reject::MalformedJson("a \"quote\"\n\u{1} \\ ü".into());
        let document: serde_json::Value = serde_json::from_slice(&document(&reject, "abc")).unwrap();
        assert_eq!(document["detail"], reject.to_string());
    }

    #[test]
    fn the_raw_form_declares_its_length_and_closes() {
        let raw = String::from_utf8(raw_problem(&Reject::HeadersTooLarge)).unwrap();
        let (head, body) = raw.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{head}");
        let date = head.lines().find_map(|line| line.strip_prefix("date: ")).expect("a date");
        assert!(httpdate::parse_http_date(date).is_ok(), "{date}");
        assert!(head.contains(&format!("content-length: {}", body.len())) && head.contains("connection: close"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(body).unwrap()["code"], "headers_too_large");
    }
}
