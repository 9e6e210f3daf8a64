//! Which request is what. Pure: looks at the head only.

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, TRANSFER_ENCODING};
use hyper::{Method, Request, Uri, Version};

use super::{Door, Framing};
use crate::config::HttpSettings;
use crate::error::Reject;

/// A path that exists, called by a method that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `POST /queue`.
    Queue,
    /// `GET /`: the template's greeting.
    Hello,
    /// `GET /livez`.
    Livez,
    /// `GET /readyz` and `/health`; `?verbose` lists the parts.
    Readyz {
        /// List every part.
        verbose: bool,
    },
    /// `GET /metrics`.
    Metrics,
}

/// Methods of every path but the queue, as an `Allow` header.
const GET: &str = "GET, HEAD";

/// Finds the route.
pub fn route(method: &Method, uri: &Uri, door: Door) -> Result<Route, Reject> {
    let verbose =
        || uri.query().is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("verbose")));
    let (route, allow) = match uri.path() {
        "/queue" if door != Door::Admin => (Route::Queue, "POST"),
        "/" if door != Door::Admin => (Route::Hello, GET),
        "/livez" => (Route::Livez, GET),
        "/readyz" | "/health" => (Route::Readyz { verbose: verbose() }, GET),
        "/metrics" if door != Door::Public => (Route::Metrics, GET),
        _ => return Err(Reject::NotFound),
    };
    let allowed = match allow {
        GET => method == Method::GET || method == Method::HEAD,
        _ => method == Method::POST,
    };
    if allowed { Ok(route) } else { Err(Reject::MethodNotAllowed(allow)) }
}

/// Refuses heads that break RFC 9112's rules or our limits, whatever the path.
pub fn vet<B>(request: &Request<B>, framing: Framing, limits: &HttpSettings) -> Result<(), Reject> {
    let headers = request.headers();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > limits.uri_bytes_max {
        return Err(Reject::UriTooLong);
    }
    let header_bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if headers.len() > limits.headers_max || header_bytes > limits.header_bytes_max {
        return Err(Reject::HeadersTooLarge);
    }
    match framing {
        Framing::Clear => {}
        Framing::Ambiguous => {
            return Err(Reject::BadRequest("Content-Length and Transfer-Encoding exclude each other"));
        }
        Framing::BareLf => return Err(Reject::BadRequest("a line of the head ends without CR")),
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first_is_foreign = codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if first_is_foreign || codings.next().is_some() {
        return Err(Reject::BadRequest("the only transfer coding that is taken is chunked, once"));
    }
    vet_host(headers, request.version())
}

/// RFC 9112, 3.2: exactly one Host in HTTP/1.1, and it must be valid.
fn vet_host(headers: &HeaderMap, version: Version) -> Result<(), Reject> {
    let mut hosts = headers.get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        let required = version == Version::HTTP_11;
        return if required { Err(Reject::BadRequest("the Host header is missing")) } else { Ok(()) };
    };
    if hosts.next().is_some() {
        return Err(Reject::BadRequest("there is more than one Host header"));
    }
    if is_authority(host.as_bytes()) { Ok(()) } else { Err(Reject::BadRequest("the Host header is malformed")) }
}

/// `uri-host [ ":" port ]` of RFC 3986: a name or IPv4 address, or an IP literal in brackets. Empty is allowed.
fn is_authority(host: &[u8]) -> bool {
    let (name, port) = match host.iter().position(|byte| *byte == b']') {
        Some(end) if host[0] == b'[' => {
            if !host[1..end].iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) || end == 1 {
                return false;
            }
            (&[][..], &host[end + 1..])
        }
        Some(_) => return false,
        None => host.split_at(host.iter().position(|byte| *byte == b':').unwrap_or(host.len())),
    };
    let unreserved = |byte: &u8| IN_NAMES[usize::from(*byte)];
    let port_is_valid = match port.split_first() {
        None => true,
        Some((b':', digits)) => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    };
    name.iter().all(unreserved) && port_is_valid
}

/// The bytes of a `reg-name`: unreserved, percent-encoded and sub-delims (RFC 3986, 3.2.2). A table, as every request
/// has a Host.
const IN_NAMES: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        allowed[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~%!$&'()*+,;=";
    let mut index = 0;
    while index < others.len() {
        allowed[others[index] as usize] = true;
        index += 1;
    }
    allowed
};

/// What may be in a body, going by its content type alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// JSON, or something that clients send JSON as (no type, `text/plain`, curl's form type).
    Json,
    /// Listed in `TASK_CONTENT_TYPES`: passes as opaque bytes.
    Opaque,
}

/// Kind of the body, or 415 when the type is clearly not JSON and not listed.
pub fn body_kind(headers: &HeaderMap, opaque_types: &[String]) -> Result<BodyKind, Reject> {
    let Some(content_type) = headers.get(CONTENT_TYPE) else { return Ok(BodyKind::Json) };
    let essence = content_type.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if opaque_types.iter().any(|listed| listed.as_bytes().eq_ignore_ascii_case(essence)) {
        return Ok(BodyKind::Opaque);
    }
    if essence.eq_ignore_ascii_case(b"application/json") {
        return Ok(BodyKind::Json); // nearly every request: the rest costs an allocation
    }
    let essence = essence.to_ascii_lowercase();
    let foreign = [&b"multipart/"[..], b"image/", b"audio/", b"video/", b"font/", b"model/"];
    let is_foreign = foreign.iter().any(|family| essence.starts_with(family))
        || [&b"/xml"[..], b"+xml", b"/html", b"/pdf", b"/zip", b"/gzip", b"protobuf", b"/cbor", b"+cbor", b"msgpack"]
            .iter()
            .any(|ending| essence.ends_with(ending));
    if is_foreign { Err(Reject::UnsupportedMediaType) } else { Ok(BodyKind::Json) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(version: Version, fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().version(version).uri("/queue");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn of(method: &Method, target: &str, door: Door) -> Result<Route, Reject> {
        route(method, &target.parse().unwrap(), door)
    }

    #[test]
    fn knows_its_paths_and_methods() {
        let whole = Door::Whole;
        assert_eq!(of(&Method::POST, "/queue", whole), Ok(Route::Queue));
        assert_eq!(of(&Method::POST, "http://example.org/queue?x=1", whole), Ok(Route::Queue));
        assert_eq!(of(&Method::GET, "/queue", whole), Err(Reject::MethodNotAllowed("POST")));
        assert_eq!(of(&Method::HEAD, "/", whole), Ok(Route::Hello));
        assert_eq!(of(&Method::DELETE, "/livez", whole), Err(Reject::MethodNotAllowed(GET)));
        assert_eq!(of(&Method::GET, "/readyz?verbose", whole), Ok(Route::Readyz { verbose: true }));
        assert_eq!(of(&Method::GET, "/health?a=verbose", whole), Ok(Route::Readyz { verbose: false }));
        assert_eq!(of(&Method::GET, "/queue/", whole), Err(Reject::NotFound));
    }

    #[test]
    fn each_door_has_its_own_paths() {
        assert_eq!(of(&Method::GET, "/metrics", Door::Whole), Ok(Route::Metrics));
        assert_eq!(of(&Method::GET, "/metrics", Door::Public), Err(Reject::NotFound));
        assert_eq!(of(&Method::GET, "/metrics", Door::Admin), Ok(Route::Metrics));
        assert_eq!(of(&Method::POST, "/queue", Door::Admin), Err(Reject::NotFound));
    }

    #[test]
    fn asks_for_exactly_one_valid_host() {
        let vet = |version, hosts: &[&str]| {
            let fields: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            super::vet_host(head(version, &fields).headers(), version).is_ok()
        };
        for good in ["a", "a.example:8080", "127.0.0.1:80", "[::1]", "[::1]:8000", "", "a:"] {
            assert!(vet(Version::HTTP_11, &[good]), "{good}");
        }
        for bad in
            ["a b", "a/b", "u@a", "a:b", "a:1:2", "[::1", "::1]", "[]", "[::1]x", "a?", "a#", "a:123456", "\"a\""]
        {
            assert!(!vet(Version::HTTP_11, &[bad]), "{bad}");
        }
        assert!(!vet(Version::HTTP_11, &[]));
        assert!(!vet(Version::HTTP_11, &["a", "a"]));
        assert!(vet(Version::HTTP_10, &[]));
    }

    #[test]
    fn takes_what_clients_send_json_as() {
        let kind = |content_type: &str| {
            let request = head(Version::HTTP_11, &[("content-type", content_type)]);
            body_kind(request.headers(), &["application/x-thing".to_owned()])
        };
        for json in ["application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8", "nonsense"] {
            assert_eq!(kind(json), Ok(BodyKind::Json), "{json}");
        }
        for foreign in ["text/xml", "application/soap+xml", "multipart/form-data; boundary=x", "image/png", "TEXT/HTML"]
        {
            assert_eq!(kind(foreign), Err(Reject::UnsupportedMediaType), "{foreign}");
        }
        assert_eq!(kind("Application/X-Thing; v=1"), Ok(BodyKind::Opaque));
    }
}
