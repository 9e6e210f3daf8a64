//! The head of a request: the scan that goes by the bytes against the parser that the server uses, and the rules.

use http::{HeaderMap, Request, Version};
use thousandx::config::{self, Command, DotEnv, HttpSettings, Layers};
use thousandx::http::respond::RequestId;
use thousandx::http::route::{self, BodyKind};
use thousandx::http::{Door, Framing};
use thousandx::net::head::HeadScan;

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// What heads are made of.
pub(super) const WORDS: [&str; 20] = [
    "POST /queue HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n",
    "Host: a\r\n",
    "Host: [::1]:8000\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:",
    "content-length :",
    "Content-Type: application/json\r\n",
    "X-Request-Id: a.B_9-\r\n",
    "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
    "tracestate: a=b\r\n",
    "\r\n\r\n",
    "\r\n ",
    "\n",
    "\r",
    "\0",
    "http://example.org/queue?x=1",
    "*",
    "\u{e9}",
];
/// As many as the settings may allow and the parser is given.
const FIELDS_MAX: usize = 128;

static LIMITS: LazyLock<HttpSettings> = LazyLock::new(|| {
    let layers = Layers { flags: BTreeMap::new(), environment: &BTreeMap::new(), dotenv: DotEnv::default() };
    config::load(Command::Dev, &layers).into_config().expect("the defaults are sound").http
});

/// A head in any pieces.
pub fn head(bytes: &[u8]) {
    let whole = scan(bytes.chunks(bytes.len().max(1)));
    for size in [1, 2, 7, 17, 18, 19] {
        let pieces = scan(bytes.chunks(size));
        assert_eq!(pieces.is_ambiguous(), whole.is_ambiguous(), "in pieces of {size}");
        assert_eq!(pieces.is_in_request_line(), whole.is_in_request_line(), "in pieces of {size}");
        assert_eq!(pieces.has_bare_lf(), whole.has_bare_lf(), "in pieces of {size}");
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(end)) = parsed.parse(bytes) else { return };
    let has = |name: &str| parsed.headers.iter().any(|field| field.name.eq_ignore_ascii_case(name));
    let both = has("content-length") && has("transfer-encoding");
    assert_eq!(whole.is_ambiguous(), both, "the scan sees what the parser sees");
    let is_bare = |at: usize| bytes[at] == b'\n' && (at == 0 || bytes[at - 1] != b'\r');
    let bare = (0..end).any(is_bare);
    assert_eq!(whole.has_bare_lf(), bare, "a line feed alone is seen wherever it is");
    if let Some(request) = request(&parsed) {
        let framing = match (both, bare) {
            (true, _) => Framing::Ambiguous,
            (_, true) => Framing::BareLf,
            _ => Framing::Clear,
        };
        vet(&request, framing);
    }
}

fn scan<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> HeadScan {
    let mut scan = HeadScan::first();
    pieces.for_each(|piece| scan.feed(piece));
    scan
}

/// As hyper makes it.
fn request(parsed: &httparse::Request<'_, '_>) -> Option<Request<()>> {
    let version = if parsed.version? == 1 { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?).version(version);
    for field in &*parsed.headers {
        request = request.header(field.name, field.value);
    }
    request.body(()).ok()
}

/// What passes keeps the rules of RFC 9112 that requests are smuggled by breaking.
fn vet(request: &Request<()>, framing: Framing) {
    let headers = request.headers();
    if route::vet(request, framing, &LIMITS).is_ok() {
        assert_eq!(framing, Framing::Clear);
        assert!(headers.len() <= LIMITS.headers_max);
        assert!(count(headers, "transfer-encoding") <= 1);
        let hosts = count(headers, "host");
        assert!(hosts == 1 || (hosts == 0 && request.version() == Version::HTTP_10));
        let is_clean = |host: &http::HeaderValue| host.as_bytes().iter().all(u8::is_ascii_graphic);
        assert!(headers.get("host").is_none_or(is_clean));
    }
    for door in [Door::Whole, Door::Public, Door::Admin] {
        let _ = route::route(request.method(), request.uri(), door);
    }
    let opaque = ["application/x-thing".to_owned()];
    if route::body_kind(headers, &opaque) == Ok(BodyKind::Opaque) {
        assert_eq!(count(headers, "content-type").min(1), 1, "only a listed type is opaque");
    }
    // The client's own id goes into records, logs and answers.
    let id = RequestId::of(request);
    if let Some(id) = id.of_client() {
        assert!((1..=64).contains(&id.len()));
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)));
    }
    assert!(!id.or_random(|| 0).is_empty());
}

fn count(headers: &HeaderMap, name: &str) -> usize {
    headers.get_all(name).iter().count()
}
